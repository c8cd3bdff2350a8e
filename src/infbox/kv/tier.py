# The engine's environment has LMCache and torch, and the one that this is checked in does not.
# pyright: basic, reportMissingImports=false
"""What tiers behind the RAM have in common: they seal, count what fails, and forget a tenant.

A tier is a plugin of LMCache's daemon: its adapter over a client that stores bytes under names. LMCache looks for a
prompt's chunks in every tier, in the order of its command line, and stores them in all.
"""

import logging
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar

from lmcache.lmcache_native import Bitmap
from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey
from lmcache.v1.distributed.l2_adapters.base import L2TaskId
from lmcache.v1.distributed.l2_adapters.native_connector_l2_adapter import NativeConnectorL2Adapter
from lmcache.v1.distributed.serde.aesgcm import _plaintext_bytes
from lmcache.v1.distributed.serde.async_processor import AsyncSerdeProcessor, _TaskType
from lmcache.v1.distributed.serde.base import Deserializer, SerdeProcessor, Serializer
from lmcache.v1.distributed.serde.factory import register_serde_factory
from lmcache.v1.memory_management import MemoryObj
from prometheus_client import Counter as Counts
from prometheus_client import Gauge

from infbox.kv.seal import OVERHEAD_BYTES, Sealer, SealError, box_key

_log = logging.getLogger(__name__)
SERDE = "infbox_sealed"
SAY_AGAIN_SECONDS = 60.0

FAILURES = Counts("infbox_kv_failures", "Stores and lookups that a tier did not do.", ["tier", "operation"])
LOADED = Counts("infbox_kv_loaded_chunks", "Chunks that were read from a tier.", ["tier"])
REFUSED = Counts("infbox_kv_refused_chunks", "Stored chunks that were damaged, cut or foreign.", ["tier"])
BYTES = Gauge("infbox_kv_bytes", "Bytes that a tier holds, as far as this daemon stored them.", ["tier"])


class Tier(NativeConnectorL2Adapter):
    """A tier by its name. `running` has those of this process."""

    running: ClassVar[dict[str, "Tier"]] = {}
    name: str

    def __init__(self, name: str, client: object, capacity_gib: float = 0) -> None:
        super().__init__(client, max_capacity_gb=capacity_gib, type_name=f"infbox_{name}")
        self.name = name
        self.loaded = 0
        self.failures: Counter[str] = Counter()
        self._said_at: dict[str, float] = {}
        Tier.running[name] = self
        BYTES.labels(name).set_function(lambda: self.get_usage().total_bytes_used)

    def failed(self, operation: str, why: str) -> None:
        """Count a failure, and say why (`kind: more`, empty: it was said) unless that was just said."""
        self.failures[operation] += 1
        FAILURES.labels(self.name, operation).inc()
        kind = why.partition(":")[0]
        if kind and time.monotonic() - self._said_at.get(kind, -SAY_AGAIN_SECONDS) >= SAY_AGAIN_SECONDS:
            self._said_at[kind] = time.monotonic()
            _log.warning("%s: KV is not kept there: %s", self.name, why)

    def query_load_result(self, task_id: L2TaskId) -> Bitmap | None:
        """As it is, and counted."""
        loaded = super().query_load_result(task_id)
        if loaded is not None:
            self.loaded += loaded.popcount()
            LOADED.labels(self.name).inc(loaded.popcount())
        return loaded

    def held(self) -> list[ObjectKey]:
        """What it holds, as far as this daemon knows."""
        with self._lock:
            return list(self._key_sizes)

    def has(self, keys: list[ObjectKey]) -> list[bool]:
        """Whether each is there."""
        with self._lock:
            return [key in self._key_sizes for key in keys]

    def refuse(self, keys: list[ObjectKey]) -> None:
        """Delete what is not what was stored under its name; it is stored anew when it has been computed again."""
        if keys:
            what = "stored chunks are damaged, cut or foreign: deleted and computed again"
            _log.warning("%s: %d %s", self.name, len(keys), what)
            REFUSED.labels(self.name).inc(len(keys))
            self.delete(keys)

    def forgotten(self, keys: list[ObjectKey]) -> None:
        """These are not there any more, whoever deleted them: the books say so, too."""
        with self._lock:
            known = [key for key in keys if key in self._key_sizes]
            sizes = [self._key_sizes.pop(key) for key in known]
        self._notify_keys_deleted(known, sizes)

    def touch(self, keys: list[ObjectKey]) -> None:
        """These were used."""

    def clear(self, tenant: str | None) -> int:
        """Delete what a tenant has, or all. Returns how many chunks."""
        keys = [key for key in self.held() if tenant is None or key.cache_salt == tenant]
        self.delete(keys)
        return len(keys) - len(set(keys).intersection(self.held()))


def name_of(key: ObjectKey) -> bytes:
    """What a sealed chunk is bound to."""
    return f"{key.model_name}@{key.kv_rank:x}@{key.object_group_id:x}@{key.chunk_hash.hex()}@{key.cache_salt}".encode()


class _Seal(Serializer):
    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def estimate_serialized_size(self, layout_desc: MemoryLayoutDesc) -> int:
        return _plaintext_bytes(layout_desc) + OVERHEAD_BYTES

    def serialize(self, src: MemoryObj, dst: MemoryObj, key: ObjectKey) -> int:
        sealed = self._sealer.seal(src.byte_array, key.cache_salt, name_of(key))
        memoryview(dst.byte_array).cast("B")[: len(sealed)] = sealed
        return len(sealed)


class _Unseal(Deserializer):
    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def deserialize(self, src: MemoryObj, dst: MemoryObj, key: ObjectKey) -> None:
        out = memoryview(dst.byte_array).cast("B")
        out[:] = self._sealer.unseal(src.byte_array, len(out), key.cache_salt, name_of(key))


class _Processor(AsyncSerdeProcessor):
    """LMCache gives up a prompt at its first chunk that is no good. All that are so are deleted, and mended."""

    def __init__(self, sealer: Sealer, tier: str) -> None:
        super().__init__(_Seal(sealer), _Unseal(sealer), max_workers=2)
        self._tier = tier

    def _run_task(self, task_id, task_type, src_objs, dst_objs, keys) -> None:
        chunks = list(zip(src_objs, dst_objs, keys, strict=True))
        if task_type is _TaskType.DESERIALIZE:
            chunks = [each for each in chunks if not self._opened(*each)]
            Tier.running[self._tier].refuse([key for _, _, key in chunks])
        super()._run_task(task_id, task_type, *([each[part] for each in chunks] for part in range(3)))

    def _opened(self, src: MemoryObj, dst: MemoryObj, key: ObjectKey) -> bool:
        try:
            self._deserializer.deserialize(src, dst, key)
        except SealError:
            return False
        return True


def _create(kwargs: dict[str, object]) -> SerdeProcessor:
    sealer = Sealer(box_key(Path(str(kwargs["key_file"]))), str(kwargs["context"]))
    return _Processor(sealer, str(kwargs["tier"]))


register_serde_factory(SERDE, _create)
