# The engine's environment has LMCache and msgspec, and the one that this is checked in does not.
# pyright: basic, reportMissingImports=false
"""In LMCache's daemon: what is stored of a prompt, and its chunks lifted from disk or Redis to RAM, the end first.

A module of LMCache's server (`--server-module`). It loads with LMCache's own prefetch, piece by piece and one piece at
a time, in turns between prompts, so that several of them share what the storage gives. Nothing is locked: what is
evicted before the engine takes it is computed, and a request that ends leaves nothing to give back.
"""

import logging
import threading
import time
from dataclasses import dataclass, field, replace

import msgspec
from lmcache.v1.distributed.api import (
    GroupedObjectKeys,
    PrefetchLockMode,
    PrefetchTaskSpec,
    ipc_key_to_grouped_object_keys,
)
from lmcache.v1.multiprocess.custom_types import IPCCacheServerKey
from lmcache.v1.multiprocess.engine_context import MPCacheServerContext
from lmcache.v1.multiprocess.ext_server_module import ExtServerModuleBuildContext, server_module_handler
from prometheus_client import Counter, Gauge, Histogram

from infbox.cake.wire import LIFT, PROGRESS, STOP, THERE, TOLD, Lifted, Lifting, Progress, Prompt, There, Told
from infbox.kv.tier import Tier

_log = logging.getLogger(__name__)
# A piece is what takes about so long to lift: long enough for what a piece costs beside, short enough to meet closely.
PIECE_SECONDS = 0.1
MOST_CHUNKS = 16
# An engine that has not asked for so long is gone.
FORGET_SECONDS = 60.0
WAIT_SECONDS = 1.0

PROMPTS = Counter("infbox_cake_prompts", "Prompts, by how they were served.", ["how"])
TOKENS = Counter("infbox_cake_tokens", "Tokens of prompts that were split, by where their KV came from.", ["source"])
POINT = Histogram(
    "infbox_cake_split_point", "Share of a split prompt that was computed.", buckets=[n / 10 for n in range(11)]
)
FALLBACKS = Counter("infbox_cake_fallbacks", "Prompts whose split ended before both ends had met, by why.", ["reason"])
SLOWER = Counter("infbox_cake_mispredictions", "Splits that took longer than the better single resource was to take.")
BANDWIDTH = Gauge("infbox_cake_lift_bytes_per_second", "What a prompt's tail was lifted to RAM at, lately.")
RATE = Gauge("infbox_cake_compute_tokens_per_second", "What an engine computes a prompt's first tokens at, lately.")


@dataclass
class Job:
    """A prompt whose tail is lifted: chunks `low` and above are in RAM, those before `claimed` are not wanted."""

    rows: list[GroupedObjectKeys]
    claimed: int
    low: int
    pace: float = 0.0
    ended: bool = False
    moved: float = field(default_factory=time.monotonic)
    asked: float = field(default_factory=time.monotonic)

    def next(self) -> int:
        """The first chunk of the next piece; `low` if there is none."""
        if self.ended or time.monotonic() - self.asked > FORGET_SECONDS:
            return self.low
        chunks = min(max(round(PIECE_SECONDS / self.pace), 1), MOST_CHUNKS) if self.pace else 1
        return max(self.low - chunks, min(self.claimed, self.low))


class Lift:
    """The module."""

    def __init__(self, context: MPCacheServerContext) -> None:
        self._context = context
        self._jobs: dict[str, Job] = {}
        self._changed = threading.Condition()
        self._closed = False
        threading.Thread(target=self._run, name="cake-lift", daemon=True).start()

    @property
    def context(self) -> MPCacheServerContext:
        """LMCache's own."""
        return self._context

    def report_status(self) -> dict[str, int]:
        """For LMCache's state."""
        return {"lifting": len(self._jobs)}

    def close(self) -> None:
        """End the lifting."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @server_module_handler(THERE)
    def there(self, payload: bytes) -> bytes:
        """How much of a prompt is stored: `Prompt` to `There`."""
        rows = self._rows(msgspec.msgpack.decode(payload, type=Prompt).key)
        if not rows:
            return msgspec.msgpack.encode(There())
        in_ram = self._in_ram(rows)
        stored = list(in_ram)
        for tier in Tier.running.values():
            if not all(stored):
                each = [tier.has(row.keys) for row in rows]
                stored = [have or all(column) for have, column in zip(stored, zip(*each, strict=True), strict=True)]
        chunks = _leading(stored)
        return msgspec.msgpack.encode(There(chunks, _leading(in_ram), chunks - sum(in_ram[:chunks])))

    @server_module_handler(LIFT)
    def lift(self, payload: bytes) -> bytes:
        """Lift a `Prompt`, down to its first chunk."""
        prompt = msgspec.msgpack.decode(payload, type=Prompt)
        rows = self._rows(prompt.key)
        if rows:
            with self._changed:
                self._jobs[prompt.key.request_id] = Job(rows, prompt.first, len(rows[0].keys))
                self._changed.notify()
        return b""

    @server_module_handler(PROGRESS)
    def progress(self, payload: bytes) -> bytes:
        """Take over what engines have claimed, and tell how far the tails have come: `Lifting` to `Progress`."""
        asked, now = msgspec.msgpack.decode(payload, type=Lifting), time.monotonic()
        lifted: dict[str, Lifted] = {}
        for request, claimed in asked.claimed.items():
            if job := self._jobs.get(request):
                job.claimed, job.asked = max(job.claimed, claimed), now
                front = _leading(self._in_ram(job.rows))
                lifted[request] = Lifted(job.low, front, now - job.moved, job.pace, job.ended)
        return msgspec.msgpack.encode(Progress(lifted))

    @server_module_handler(STOP)
    def stop(self, payload: bytes) -> bytes:
        """Forget a request, by its id."""
        with self._changed:
            self._jobs.pop(payload.decode(), None)
        return b""

    @server_module_handler(TOLD)
    def told(self, payload: bytes) -> bytes:
        """Count a prompt: `Told`."""
        told = msgspec.msgpack.decode(payload, type=Told)
        PROMPTS.labels(told.how).inc()
        if told.rate:
            RATE.set(told.rate)
        if told.why:
            FALLBACKS.labels(told.why).inc()
        elif told.how == "split":
            TOKENS.labels("computed").inc(told.computed)
            TOKENS.labels("loaded").inc(told.loaded)
            POINT.observe(told.computed / max(told.computed + told.loaded, 1))
            if 0 < told.better < told.seconds:
                SLOWER.inc()
        return b""

    def _rows(self, key: IPCCacheServerKey) -> list[GroupedObjectKeys]:
        """A row of chunks for each worker; empty where a layer's attention has a window, or there is no chunk."""
        registry, hasher = self._context.layout_desc_registry, self._context.token_hasher
        layouts = registry.find_group_layout_descs(key.model_name, key.world_size)
        hashes = hasher.compute_chunk_hashes(list(key.token_ids), end=key.end)
        if not layouts or not hashes:
            return []
        windows = registry.find_attn_desc(key.model_name, key.world_size)
        if any(window >= 0 for window in windows.num_chunks_in_sw):
            return []
        return ipc_key_to_grouped_object_keys(key, hashes, list(range(windows.num_object_groups)), layouts, windows)

    def _in_ram(self, rows: list[GroupedObjectKeys]) -> list[bool]:
        """Of each chunk, whether all workers' parts are in RAM."""
        manager = self._context.storage_manager._l1_manager
        with manager._lock:
            each = [[key in manager._objects for key in row.keys] for row in rows]
        return [all(column) for column in zip(*each, strict=True)]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._due, WAIT_SECONDS)
                if self._closed:
                    return
                gone = time.monotonic() - FORGET_SECONDS
                self._jobs = {request: job for request, job in self._jobs.items() if job.asked > gone}
                due = self._due()
            for job in due:
                self._lift(job)

    def _due(self) -> list[Job]:
        return [job for job in self._jobs.values() if job.next() < job.low]

    def _lift(self, job: Job) -> None:
        """One piece."""
        first, last = job.next(), job.low
        if first >= last:
            return
        rows = [replace(row, keys=row.keys[first:last]) for row in job.rows]
        storage = self._context.storage_manager
        spec = PrefetchTaskSpec(rows, fetching_policy="full", lock_mode=PrefetchLockMode.NO_LOCK)
        handle = storage.submit_prefetch_task(spec)
        while not storage.wait_prefetch_status(handle, WAIT_SECONDS):
            if self._closed:
                return
        result = storage.query_prefetch_status(handle)
        if result is None or any(row.popcount() < last - first for row in result.hit_cells):
            job.ended = True
            _log.info("a tail was lifted down to chunk %d: those before it could not be had", last)
            return
        now = time.monotonic()
        # With what other prompts' pieces took in between.
        job.pace, job.moved, job.low = (now - job.moved) / (last - first), now, first
        BANDWIDTH.set(_chunk_bytes(job.rows) / job.pace)


def counted() -> dict[str, object]:
    """What came of prompts so far, for `infbox kv status`."""
    return {
        "prompts": _by(PROMPTS, "how"),
        "tokens": _by(TOKENS, "source"),
        "fallbacks": _by(FALLBACKS, "reason"),
        "mispredictions": sum(_by(SLOWER, "").values()),
        "bytes_per_second": int(BANDWIDTH._value.get()),
        "tokens_per_second": int(RATE._value.get()),
    }


def _by(counter: Counter, label: str) -> dict[str, int]:
    samples = [sample for family in counter.collect() for sample in family.samples if sample.name.endswith("_total")]
    return {sample.labels.get(label, ""): int(sample.value) for sample in samples}


def _chunk_bytes(rows: list[GroupedObjectKeys]) -> int:
    layouts = [zip(row.layout_desc.shapes, row.layout_desc.dtypes, strict=True) for row in rows]
    return sum(shape.numel() * dtype.itemsize for layout in layouts for shape, dtype in layout)


def _leading(have: list[bool]) -> int:
    return have.index(False) if False in have else len(have)


def build_server_modules(context: ExtServerModuleBuildContext) -> Lift:
    """What LMCache's daemon asks for."""
    return Lift(context.server_context)
