"""What programs share that run on the box in the engine's environment: chunks, and calls of a tier that wait."""

import os
import time
from typing import Any

from lmcache.v1.distributed.api import ObjectKey

from infbox.kv.tier import Tier

MIB = 2**20
CHUNK = 4 * MIB


class Chunk:
    """A buffer as LMCache hands it over."""

    def __init__(self, filled: bool = True) -> None:
        self.byte_array = memoryview(bytearray(os.urandom(CHUNK) if filled else CHUNK))


def key(tenant: str, number: int) -> ObjectKey:
    return ObjectKey(
        chunk_hash=bytes([number]) * 16, model_name="/m", kv_rank=0x01000100, object_group_id=0, cache_salt=tenant
    )


def store(tier: Tier, *names: tuple[str, int]) -> list[Chunk]:
    chunks = [Chunk() for _ in names]  # LMCache holds them until they are written
    task = tier.submit_store_task([key(*name) for name in names], chunks)
    while task not in tier.pop_completed_store_tasks():
        time.sleep(0.01)
    return chunks


def load(tier: Tier, *names: tuple[str, int]) -> tuple[int, list[Chunk]]:
    """How many chunks were there, and the buffers for them."""
    chunks = [Chunk(filled=False) for _ in names]
    return _result(tier.query_load_result, tier.submit_load_task([key(*name) for name in names], chunks)), chunks


def found(tier: Tier, *names: tuple[str, int]) -> int:
    """How many a lookup finds."""
    keys = [key(*name) for name in names]
    count = _result(tier.query_lookup_and_lock_result, tier.submit_lookup_and_lock_task(keys, {}))
    tier.submit_unlock(keys)
    return count


def _result(query: Any, task: int) -> int:
    while (bits := query(task)) is None:
        time.sleep(0.01)
    return bits.popcount()
