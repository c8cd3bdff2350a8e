# The engine's environment has LMCache and its web framework, and the one that this is checked in does not.
# pyright: basic, reportMissingImports=false
"""What `infbox kv` asks of the daemon, beside LMCache's own paths: what is kept of whom, and to forget it.

GET  /infbox/state            the tiers: bytes, chunks, tenants, what was had from each
POST /infbox/clear[?tenant=]  delete a tenant's chunks, or all, in every tier
"""

import sys
import time
from collections import Counter
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.internal_api import L1ManagerListener
from prometheus_client import REGISTRY

from infbox.kv.tier import Tier

router = APIRouter(prefix="/infbox")
HITS_IN_RAM, HITS_BEYOND = "lmcache_mp_lookup_hit_l1_tokens_total", "lmcache_mp_lookup_hit_l2_tokens_total"
ASKED = "lmcache_mp_lookup_requested_tokens_total"
# For chunks that are being read or copied to another tier to be so no more.
IN_USE_SECONDS = 20.0


class _Touch(L1ManagerListener):
    """Tells the other tiers of what is used in RAM."""

    def on_l1_keys_read_finished(self, keys: list[ObjectKey]) -> None:
        for tier in Tier.running.values():
            tier.touch(keys)

    def _nothing(self, *_: object, **__: object) -> None:
        pass

    on_l1_keys_reserved_read = _nothing
    on_l1_keys_reserved_write = _nothing
    on_l1_keys_write_finished = _nothing
    on_l1_keys_finish_write_and_reserve_read = _nothing
    on_l1_keys_deleted_by_manager = _nothing
    on_l1_keys_accessed = _nothing


def begin(app: Any) -> None:
    """Once LMCache's engine is there."""
    app.state.engine.storage_manager._l1_manager.register_listener(_Touch())


@router.get("/state")
def state(request: Request) -> dict[str, object]:
    """What is kept: bytes and chunks by tier and tenant, tokens that were asked for and found."""
    engine = request.app.state.engine
    told = engine.report_status()
    return {
        "healthy": bool(told["is_healthy"]),
        "engines": len(told["registered_gpu_ids"]),
        "chunk_tokens": told["chunk_size"],
        "asked_tokens": _counted(ASKED),
        "storing": _storing(engine.storage_manager),
        "cake": _cake(),
        "tiers": [_ram(engine.storage_manager), *(_beyond(tier) for tier in Tier.running.values())],
    }


def _cake() -> dict[str, object] | None:
    """What came of prompts; None where the daemon has no Cake."""
    lift = sys.modules.get("infbox.cake.lift")
    return lift.counted() if lift else None


@router.post("/clear")
def clear(request: Request, tenant: str | None = None) -> JSONResponse:
    """Delete a tenant's chunks, or all. What is in use is waited for; what stays in use is left, and said.

    The RAM comes first: what is being copied from there to another tier would be in that one afterwards.
    """
    storage = request.app.state.engine.storage_manager
    deleted, in_use = _forget(storage, tenant)
    end = time.monotonic() + IN_USE_SECONDS
    while in_use and time.monotonic() < end:
        time.sleep(0.1)
        more, in_use = _forget(storage, tenant)
        deleted += more
    told: dict[str, object] = {"RAM": deleted}
    faults: list[str] = [f"{in_use} chunks in RAM are in use"] if in_use else []
    for name, tier in Tier.running.items():
        try:
            told[name] = tier.clear(tenant)
        except Exception as fault:  # whatever the store's client raises: the other tiers are cleared all the same
            faults.append(f"{name}: {fault}")
    return JSONResponse({"deleted": told, "faults": faults})


def _ram(storage: Any) -> dict[str, object]:
    used, total = storage.get_l1_usage()
    keys = _resident(storage)
    tenants = Counter(key.cache_salt for key in keys)
    return {
        "name": "RAM",
        "bytes": used,
        "capacity_bytes": total,
        "chunks": len(keys),
        "chunks_of_tenants": dict(tenants),
        "hit_tokens": _counted(HITS_IN_RAM),
    }


def _beyond(tier: Tier) -> dict[str, object]:
    usage, keys = tier.get_usage(), tier.held()
    return {
        "name": tier.name,
        "bytes": usage.total_bytes_used,
        "capacity_bytes": usage.total_capacity_bytes,
        "chunks": len(keys),
        "chunks_of_tenants": dict(Counter(key.cache_salt for key in keys)),
        "loaded_chunks": tier.loaded,
        "failures": tier.failures,
    }


def _forget(storage: Any, tenant: str | None) -> tuple[int, int]:
    """Delete from RAM what is not in use. Returns how many chunks are gone, and how many are in use."""
    return storage.delete_l1_keys([key for key in _resident(storage) if tenant is None or key.cache_salt == tenant])


def _storing(storage: Any) -> int:
    """Chunks that wait to be copied from RAM to the other tiers, and copies of several that are under way."""
    told = storage.report_status()["store_controllers"].values()
    return sum(each["pending_keys_count"] + each["in_flight_task_count"] for each in told)


def _resident(storage: Any) -> list[ObjectKey]:
    manager = storage._l1_manager
    with manager._lock:
        return list(manager._objects)


def _counted(name: str) -> int:
    """A counter's value, over all its labels."""
    found = [sample for family in REGISTRY.collect() for sample in family.samples if sample.name == name]
    return int(sum(sample.value for sample in found))
