"""The record of a formatting that began: written before mkfs and removed after it, so that a half-made one is known.

It lies on the root disk. A machine that stops in between finds it, and what bears its UUID is made again.
"""

import json
import os
from pathlib import Path
from typing import cast

from infbox.storage.decide import Begun

FOLDER = Path("/var/lib/infbox-storage")


def read_begun(purpose: str, folder: Path | None = None) -> Begun | None:
    """The formatting of `purpose` (data, scratch) that did not end; None if there is none, or no whole record of it."""
    try:
        record = cast("dict[str, object]", json.loads(_path(purpose, folder).read_text()))
        return Begun(tuple(cast("list[str]", record["devices"])), str(record["uuid"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_begun(purpose: str, begun: Begun, folder: Path | None = None) -> None:
    """Write it, for a power cut too: in full, or not at all."""
    path = _path(purpose, folder)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    with temporary.open("w") as file:
        json.dump({"devices": list(begun.devices), "uuid": begun.uuid}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    _sync(path.parent)


def remove_begun(purpose: str, folder: Path | None = None) -> None:
    """The formatting ended."""
    path = _path(purpose, folder)
    if path.exists():
        path.unlink()
        _sync(path.parent)


def _path(purpose: str, folder: Path | None) -> Path:
    return (folder or FOLDER) / f"formatting-{purpose}.json"


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
