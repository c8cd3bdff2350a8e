"""Runs on the box in the engine's environment: to forget what LMCache's RAM holds while it is in use. Prints JSON."""

import json
import os
import threading
from types import SimpleNamespace
from typing import Any

import torch
from kv_parts import MIB, key
from lmcache.v1.distributed.api import MemoryLayoutDesc
from lmcache.v1.distributed.config import EvictionConfig, L1ManagerConfig, L1MemoryManagerConfig, StorageManagerConfig
from lmcache.v1.distributed.storage_manager import StorageManager

from infbox.kv import api

KEYS = [key(tenant, number) for tenant in "ab" for number in range(3)]
memory = L1MemoryManagerConfig(size_in_bytes=16 * MIB, use_lazy=False, shm_name="")
storage = StorageManager(StorageManagerConfig(L1ManagerConfig(memory), EvictionConfig("LRU")))
request: Any = SimpleNamespace(
    app=SimpleNamespace(state=SimpleNamespace(engine=SimpleNamespace(storage_manager=storage)))
)


def store() -> None:
    assert len(storage.reserve_write(KEYS, MemoryLayoutDesc([torch.Size([MIB // 4])], [torch.float32]))) == len(KEYS)
    storage.finish_write(KEYS)


def cleared(tenant: str | None) -> list[Any]:
    told = json.loads(bytes(api.clear(request, tenant).body))
    return [told["deleted"], told["faults"], len(api._resident(storage))]


told: dict[str, Any] = {}
store()
told["of a tenant"] = cleared("a")
told["all"] = cleared(None)
store()
storage._l1_manager.reserve_read(KEYS[:2])
threading.Timer(1.0, storage._l1_manager.finish_read, [KEYS[:2]]).start()
told["read for a while"] = cleared(None)
store()
storage._l1_manager.reserve_read(KEYS[:2])
api.IN_USE_SECONDS = 0.5
told["read on and on"] = cleared(None)
print(json.dumps(told), flush=True)
os._exit(0)  # the daemon's threads do not end with the program
