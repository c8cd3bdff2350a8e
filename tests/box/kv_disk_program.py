"""Runs on the box in the engine's environment: the tier on disk, with LMCache's own client below it. Prints JSON."""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from lmcache.v1.distributed.api import ObjectKey

from infbox.kv.disk import Disk

MIB = 2**20
CHUNK = 4 * MIB
told: dict[str, Any] = {}


class Chunk:
    """A buffer as LMCache hands it over."""

    def __init__(self) -> None:
        self.byte_array = memoryview(bytearray(os.urandom(CHUNK)))


def key(tenant: str, number: int) -> ObjectKey:
    return ObjectKey(
        chunk_hash=bytes([number]) * 16, model_name="/m", kv_rank=0x01000100, object_group_id=0, cache_salt=tenant
    )


def disk(folder: Path, tenant_mib: int) -> Disk:
    """A tier of 64 MiB, sixteen chunks."""
    return Disk({"folder": str(folder), "capacity_gib": 1 / 16, "tenant_gib": tenant_mib / 1024})


def store(tier: Disk, *names: tuple[str, int]) -> None:
    chunks = [Chunk() for _ in names]  # LMCache holds them until they are written
    task = tier.submit_store_task([key(*name) for name in names], chunks)
    while task not in tier.pop_completed_store_tasks():
        time.sleep(0.01)


def held(tier: Disk, tenant: str) -> list[int]:
    return sorted(each.chunk_hash[0] for each in tier.held() if each.cache_salt == tenant)


def used(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) // MIB


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    tier = disk(folder, 32)
    store(tier, ("a", 1), ("a", 2), ("b", 1))
    # Two tenants at once, one of them with more than it may have: it keeps the beginning, and nobody else pays for it.
    store(tier, *(("a", number) for number in range(10, 22)), *(("b", number) for number in range(10, 13)))
    told["share"] = {"a": held(tier, "a"), "b": held(tier, "b"), "mib": used(folder), "failures": dict(tier.failures)}
    tier.touch([key("a", 10)])
    store(tier, ("a", 30))
    told["touched"] = held(tier, "a")
    store(tier, ("a", 30))
    told["twice"] = tier.get_usage().total_bytes_used // MIB
    next(folder.glob(f"*{'1e' * 16}@a.data")).unlink()
    tier.delete([key("a", 30)])
    told["deleted by another"] = [30 in held(tier, "a"), tier.get_usage().total_bytes_used // MIB]
    store(tier, *(("c", number) for number in range(8)))
    told["full"] = [used(folder), len(held(tier, "a")), len(held(tier, "b")), held(tier, "c")]
    tier.close()
    (folder / "half-written.tmp").touch()
    (folder / "folder").mkdir()
    tier = disk(folder, 16)
    told["smaller after a restart"] = [len(held(tier, tenant)) for tenant in "abc"]
    told["left"] = sorted(file for file in os.listdir(folder) if not file.endswith(".data"))
    cut = next(each for each in tier.held() if each.cache_salt == "b")
    os.truncate(next(folder.glob(f"*{cut.chunk_hash.hex()}@b.data")), 100)
    place = Chunk()
    task = tier.submit_load_task([cut], [place])
    while (loaded := tier.query_load_result(task)) is None:
        time.sleep(0.01)
    told["cut"] = [loaded.popcount(), cut in tier.held()]
    told["cleared"] = [tier.clear("c"), held(tier, "c"), tier.clear(None) > 0, tier.held()]
    tier.close()
print(json.dumps(told))
