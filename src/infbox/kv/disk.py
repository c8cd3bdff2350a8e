# The engine's environment has LMCache and torch, and the one that this is checked in does not.
# pyright: basic, reportMissingImports=false
"""The tier on disk: sealed chunks, in a folder that stays within its size, and each tenant within its own.

LMCache's own disk tier counts from nothing at each start, so what was there before is neither counted nor ever evicted,
and it goes on writing while it evicts: the folder outgrows its cap. This one takes stock first, oldest first, makes
room before it writes, and writes nothing that there is no room for. What is used from RAM counts as used: what is asked
for all day, as a workspace's pack, is not what leaves the disk first.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from lmcache.lmcache_fs import LMCacheFSClient
from lmcache.lmcache_native import Bitmap
from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.internal_api import L2StoreResult
from lmcache.v1.distributed.l2_adapters.base import L2TaskId
from lmcache.v1.distributed.l2_adapters.fs_l2_adapter import _filename_to_object_key, _object_key_to_filename
from lmcache.v1.memory_management import MemoryObj

from infbox.kv.tier import Tier

_log = logging.getLogger(__name__)
WORKERS = 4


class Disk(Tier):
    """A folder of chunks. `params`: `folder`, `capacity_gib`, `tenant_gib` (0: a tenant may have all of it)."""

    def __init__(self, params: dict[str, object], l1_memory_desc: object = None) -> None:
        del l1_memory_desc  # for adapters that register the memory with a device
        self._folder = Path(str(params["folder"]))
        # What a tenant may have.
        self._share = int(float(str(params["tenant_gib"] or params["capacity_gib"])) * 2**30)
        self._loading: dict[L2TaskId, list[ObjectKey]] = {}
        self._storing: dict[L2TaskId, list[ObjectKey]] = {}
        stock = _take_stock(self._folder)
        client = LMCacheFSClient(str(self._folder), WORKERS, "", False, 0)
        super().__init__("disk", client, float(str(params["capacity_gib"])))
        with self._lock:
            self._key_sizes.update(stock)
        self._notify_keys_stored(list(stock), list(stock.values()))
        for tenant in {key.cache_salt for key in stock}:
            self._make_room(tenant, {})
        _log.info("%d chunks of %d bytes are on disk in %s", len(stock), sum(stock.values()), self._folder)

    def submit_store_task(self, keys: list[ObjectKey], objects: list[MemoryObj]) -> L2TaskId:
        """As the other tiers do, with room made for it first; what there can be no room for is not stored.

        LMCache puts together what several requests have computed, whosever they are. Of what is more than a tenant may
        have, the beginning is stored: a prompt's later chunks are of no use without it.
        """
        there = set(self.held())
        sizes = {key: len(each.byte_array) for key, each in zip(keys, objects, strict=True) if key not in there}
        kept: dict[ObjectKey, int] = {}
        for tenant in dict.fromkeys(key.cache_salt for key in sizes):
            own: dict[ObjectKey, int] = {}
            for key, size in sizes.items():
                if key.cache_salt == tenant and sum(own.values()) + size <= self._share:
                    own[key] = size
            if self._make_room(tenant, {**kept, **own}):
                kept |= own
        if len(kept) < len(sizes):
            self.failed("store", self._why_not())
        if kept:
            chosen = [place for place, key in enumerate(keys) if key in kept]
            task = super().submit_store_task([keys[place] for place in chosen], [objects[place] for place in chosen])
            self._storing[task] = [keys[place] for place in chosen]
            return task
        with self._lock:
            task = self._get_next_task_id()
            self._completed_stores[task] = L2StoreResult(True, 0)
        self._store_efd.notify()
        return task

    def submit_load_task(self, keys: list[ObjectKey], objects: list[MemoryObj]) -> L2TaskId:
        """As it is; whose they are is kept until the result."""
        task = super().submit_load_task(keys, objects)
        self._loading[task] = keys
        return task

    def query_load_result(self, task_id: L2TaskId) -> Bitmap | None:
        """As it is; a file that cannot be read as a whole is no chunk."""
        loaded = super().query_load_result(task_id)
        if loaded is not None:
            keys = self._loading.pop(task_id)
            self.refuse([key for place, key in enumerate(keys) if not loaded.test(place)])
        return loaded

    def delete(self, keys: list[ObjectKey]) -> None:
        """Also of the books, where somebody else has deleted the file."""
        super().delete(keys)
        self.forgotten([key for key in keys if not self._file(key).exists()])

    def _file(self, key: ObjectKey) -> Path:
        return self._folder / _object_key_to_filename(key)

    def pop_completed_store_tasks(self) -> dict[L2TaskId, L2StoreResult]:
        """As it is; what failed is counted and told, and leaves no files that are in nobody's books."""
        done = super().pop_completed_store_tasks()
        for task, result in done.items():
            keys = self._storing.pop(task, [])
            if not result.is_successful():
                self.failed("store", self._why_not())
                for key in set(keys).difference(self.held()):
                    with contextlib.suppress(OSError):
                        self._file(key).unlink()
        return done

    def _why_not(self) -> str:
        try:
            if os.statvfs(self._folder).f_flag & os.ST_RDONLY:
                return f"read-only: {self._folder}"
            free = shutil.disk_usage(self._folder).free
        except OSError as fault:
            return f"{fault.strerror}: {self._folder}"
        return f"no room: {free >> 20} MiB are free in {self._folder}, or a prompt is larger than lmcache_l2_size_gib"

    def touch(self, keys: list[ObjectKey]) -> None:
        """These were used: they are the last to leave, also for the next daemon, which goes by the files' times."""
        with self._lock:
            held = [key for key in keys if key in self._key_sizes]
            for key in held:
                self._key_sizes[key] = self._key_sizes.pop(key)
        for key in held:
            with contextlib.suppress(OSError):
                os.utime(self._file(key))

    def _notify_keys_accessed(self, keys: list[ObjectKey]) -> None:
        self.touch(keys)
        super()._notify_keys_accessed(keys)

    def _make_room(self, tenant: str, coming: Mapping[ObjectKey, int]) -> bool:
        """Delete what was used longest ago, first the tenant's own if it has its share, until what is coming fits.

        Returns:
            Whether it does.
        """
        with self._lock:
            coming = dict(coming)
            for keys, sizes in self._pending_store_sizes.values():
                coming |= zip(keys, sizes, strict=True)
            of_tenant = sum(size for key, size in coming.items() if key.cache_salt == tenant)
            usage = self.get_usage()
            has = usage.bytes_by_cache_salt.get(tenant, 0) + of_tenant
            own = self._longest_unused(has - self._share, {key for key in self._key_sizes if key.cache_salt == tenant})
            over = usage.total_bytes_used + sum(coming.values()) - self._max_capacity_bytes
            over -= sum(self._key_sizes[key] for key in own)
            others = self._longest_unused(over, self._key_sizes.keys() - set(own))
        self.delete(own + others)
        usage = self.get_usage()
        fits = usage.bytes_by_cache_salt.get(tenant, 0) + of_tenant <= self._share
        return fits and usage.total_bytes_used + sum(coming.values()) <= self._max_capacity_bytes

    def _longest_unused(self, size: int, of: set[ObjectKey]) -> list[ObjectKey]:
        """Those that make up so many bytes and are not being read, by the time of their last use."""
        found: list[ObjectKey] = []
        for key, length in self._key_sizes.items():
            if size <= 0:
                break
            if key in of and key not in self._locked_keys:
                found.append(key)
                size -= length
        return found


def _take_stock(folder: Path) -> dict[ObjectKey, int]:
    """Chunks and their sizes, those that were used longest ago first; what a killed daemon left half is deleted."""
    found: list[tuple[int, ObjectKey, int]] = []
    for file in folder.iterdir():
        status = file.lstat()
        key = _filename_to_object_key(file.name)
        if key is None:
            _log.warning("%s is no chunk and is deleted", file)
            with contextlib.suppress(OSError):
                file.unlink()
        else:
            found.append((status.st_mtime_ns, key, status.st_size))
    return {key: size for _, key, size in sorted(found, key=lambda each: each[0])}
