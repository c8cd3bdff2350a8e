"""Whether the daemon that was given an engine's memory still lives: a lock that the kernel takes back with its process.

A daemon that does not answer may be gone, or slow; only of the first is it certain that it touches that memory no more.
Each daemon locks a file of its own, put in the place of the one before, so that another's is never taken for it.
"""

import fcntl
import os
import time
from pathlib import Path

# What a process has on a GPU ends with it, but somewhat after its files.
GRACE_SECONDS = 1.0
_held: list[int] = []


def _beside(socket: Path) -> Path:
    return socket.with_suffix(".alive")


def hold(socket: Path) -> None:
    """In the daemon, whose API has that socket: live until the process ends.

    Raises:
        OSError: the socket's folder cannot be written.
    """
    path = _beside(socket)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    new.rename(path)
    _held.append(file)


class Lifeline:
    """In an engine: of the daemon that had that socket when this was made."""

    def __init__(self, socket: Path) -> None:
        self._lost_at: float | None = None
        try:
            self._file: int | None = os.open(_beside(socket), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = None

    def lost(self) -> bool:
        """Whether its process has ended, or begun to."""
        if self._lost_at is None and not self._is_held():
            self._lost_at = time.monotonic()
        return self._lost_at is not None

    def gone(self) -> bool:
        """Whether it touches nothing any more."""
        return self.lost() and time.monotonic() - (self._lost_at or 0.0) >= GRACE_SECONDS

    def _is_held(self) -> bool:
        if self._file is None:
            return False
        try:
            fcntl.lockf(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        fcntl.lockf(self._file, fcntl.LOCK_UN)
        return False

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)
