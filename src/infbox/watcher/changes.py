"""What was seen in a workspace and not looked at yet.

A path whose writer closed it is *ready*: a request wants it. One that is only being written waits for the close, or for
`OPEN_SECONDS` since it was first written to, so that a log that is never closed is seen, too. A new file that nobody
has written to is ready: a hard link is made without a close.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from infbox.watcher.watches import IN_ATTRIB, IN_CLOSE_WRITE, IN_CREATE, IN_IGNORED, IN_ISDIR, IN_MODIFY, IN_UNMOUNT

DEBOUNCE_SECONDS = 0.04
OPEN_SECONDS = 0.5
# A burst is more paths than a person saves at once; it is waited for while it lasts, or while git holds its lock.
BURST_PATHS = 64
BURST_SECONDS = 5.0


@dataclass
class Batch:
    """What to look at.

    Attributes:
        afresh: list everything again.
        paths: True where the entry itself came, went or changed its kind or mode, False where only content changed.
        since: the monotonic time of the first event.
    """

    afresh: bool = False
    paths: dict[str, bool] = field(default_factory=dict[str, bool])
    since: float | None = None

    def __bool__(self) -> bool:
        return self.afresh or bool(self.paths)


class Changes:
    """Notes of one workspace. Safe for several threads.

    Args:
        clock: monotonic seconds.
        is_held: whether a program is known to be in the middle of many changes (git's index.lock).
    """

    def __init__(self, clock: Callable[[], float], is_held: Callable[[], bool] = lambda: False) -> None:
        self._clock = clock
        self._is_held = is_held
        self._lock = threading.Lock()
        self._ready: dict[str, bool] = {}
        self._created: set[str] = set()
        self._open: dict[str, tuple[float, bool]] = {}
        self._afresh = False
        self._first: float | None = None
        self._last = 0.0

    def note(self, folder: str, name: str, mask: int) -> None:
        """An event in one of the workspace's folders."""
        if mask & (IN_IGNORED | IN_UNMOUNT) or not name:
            if folder == "" or mask & IN_UNMOUNT:
                self.note_all()
            return
        if mask & IN_ATTRIB and mask & IN_ISDIR:
            self.note_all()  # a folder that may be read no more, or again
            return
        path = os.path.join(folder, name)
        with self._lock:
            now = self._seen()
            if mask & IN_MODIFY:
                if path in self._created:
                    self._created.discard(path)
                    del self._ready[path]
                    self._open[path] = now, True
                elif path not in self._ready:
                    self._open.setdefault(path, (now, False))
                return
            structural = not mask & IN_CLOSE_WRITE
            # Whoever created it has not closed it: what is known then is that there is an entry.
            if mask & IN_CREATE and path not in self._ready:
                self._created.add(path)
            else:
                self._created.discard(path)
            _, was_new = self._open.pop(path, (0.0, False))
            self._ready[path] = self._ready.get(path, False) or was_new or structural

    def note_path(self, path: str) -> None:
        """A path that has to be looked at, whatever happened to it."""
        with self._lock:
            self._seen()
            self._open.pop(path, None)
            self._ready[path] = True

    def note_all(self) -> None:
        """Anything may have changed."""
        with self._lock:
            self._seen()
            self._afresh = True

    def take(self) -> Batch:
        """All that a request made now has to see, and writes that have been open for long; the rest stays."""
        with self._lock:
            now = self._clock()
            paths = self._ready
            for path, (since, is_new) in list(self._open.items()):
                if self._afresh or now - since >= OPEN_SECONDS:
                    del self._open[path]
                    paths[path] = is_new
            batch = Batch(self._afresh, paths, self._first)
            self._ready, self._afresh, self._first = {}, False, None
            self._created.clear()
            return batch

    def due(self) -> float | None:
        """When `take` should be called at the latest, by the clock; None: nothing is waiting."""
        with self._lock:
            opened = min((since + OPEN_SECONDS for since, _ in self._open.values()), default=None)
            if not self._ready and not self._afresh:
                return opened
            first = self._first if self._first is not None else self._clock()
            due = first + DEBOUNCE_SECONDS
            if self._clock() >= due and (len(self._ready) > BURST_PATHS or self._is_held()):
                due = min(max(due, self._last + DEBOUNCE_SECONDS), first + BURST_SECONDS)
                if self._is_held():
                    due = min(max(due, self._clock() + DEBOUNCE_SECONDS), first + BURST_SECONDS)
            return due if opened is None else min(due, opened)

    def _seen(self) -> float:
        now = self._clock()
        if self._first is None:
            self._first = now
        self._last = now
        return now


class GitLock:
    """Whether git is changing files: its index.lock is there, and is not one that a killed git has left."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock: tuple[int, int] | None = None
        self._since = 0.0

    def is_held(self, git_folder: str | None) -> bool:
        """For the repository with this `.git`; a lock counts for `BURST_SECONDS`."""
        if git_folder is None:
            return False
        try:
            status = os.stat(f"{git_folder}/index.lock")
        except OSError:
            return False
        lock = (status.st_ino, status.st_ctime_ns)
        if lock != self._lock:
            self._lock, self._since = lock, self._clock()
        return self._clock() - self._since < BURST_SECONDS
