"""LMCache's daemon with a disk that is slow, and where reads fail, and that can be made to stand still.

PAIR_READ_FAULTS    share of chunks whose reading fails
PAIR_CHUNK_SECONDS  what reading a chunk takes, at least
PAIR_DROP_SECONDS   how often a part of what is in RAM is let go of; 0: never

Files beside its key: `drop`, and all that is in RAM is let go of; `away`, and no chunk is found on disk; `bandwidth`,
and reads take at least as long as they would at so many bytes a second; `hold-store`, `hold-retrieve`, `hold-ping`, and
such a call of an engine waits until the file is gone, which `held-store` … tells.
"""

import functools
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

from lmcache.v1.multiprocess.modules.lmcache_driven_transfer import LMCacheDrivenTransferModule
from lmcache.v1.multiprocess.modules.management import ManagementModule

from infbox.kv import api, daemon, disk

FAULTS, CHUNK_SECONDS, DROP_SECONDS = (
    float(os.environ.get(name, "0")) for name in ("PAIR_READ_FAULTS", "PAIR_CHUNK_SECONDS", "PAIR_DROP_SECONDS")
)
FOLDER = Path(os.environ["KV_STATE_DIR"])
DROP, AWAY, BANDWIDTH = FOLDER / "drop", FOLDER / "away", FOLDER / "bandwidth"
chance = random.Random(170318)
client = disk.LMCacheFSClient


class SlowAndFaulty:
    """LMCache's client for files, with reads that take their time, and of names that are not there."""

    def __init__(self, *given: Any) -> None:
        self._client = client(*given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def submit_batch_get(self, names: list[str], places: list[Any]) -> int:
        bandwidth = float(BANDWIDTH.read_text()) if BANDWIDTH.exists() else float("inf")
        time.sleep(CHUNK_SECONDS * len(names) + sum(place.nbytes for place in places) / bandwidth)
        away = AWAY.exists()
        return self._client.submit_batch_get(
            [f"none-{name}" if away or chance.random() < FAULTS else name for name in names], places
        )


def let_go(storage: Any) -> None:
    """Of all that is in RAM where that is asked for; otherwise of a part, now and then."""
    last = time.monotonic()
    while True:
        if DROP.exists():
            storage.delete_l1_keys(api._resident(storage))
            DROP.unlink()
        elif DROP_SECONDS and time.monotonic() - last > DROP_SECONDS:
            keys, last = api._resident(storage), time.monotonic()
            storage.delete_l1_keys(chance.sample(keys, len(keys) // 2))
        time.sleep(0.02)


def begin(app: Any) -> None:
    began(app)
    threading.Thread(target=let_go, args=[app.state.engine.storage_manager], daemon=True).start()


def hold(kind: type, name: str) -> None:
    """Have calls of `name` wait while they are to."""
    call = getattr(kind, name)

    @functools.wraps(call)
    def held(*given: Any, **named: Any) -> Any:
        while (FOLDER / f"hold-{name}").exists():
            (FOLDER / f"held-{name}").touch()
            time.sleep(0.02)
        return call(*given, **named)

    setattr(kind, name, held)


hold(LMCacheDrivenTransferModule, "store")
hold(LMCacheDrivenTransferModule, "retrieve")
hold(ManagementModule, "ping")
disk.LMCacheFSClient, began, api.begin = SlowAndFaulty, api.begin, begin
daemon.main()
