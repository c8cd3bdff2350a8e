"""One inotify instance for all folders of all workspaces.

watchdog's layer for this has no read that does not wait, so a request could not ask for what the kernel holds already;
inotify_simple is the bare system calls.

A `Listener` names its folders as it likes; events are passed on in the kernel's order. A watch descriptor belongs to an
inode, so one that is known under two names (a link, a bind mount, two workspaces in one another) tells all of them.
"""

import errno
import os
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, cast

import inotify_simple  # pyright: ignore[reportMissingTypeStubs]

IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE = 0x2, 0x4, 0x8
IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x40, 0x80, 0x100, 0x200
IN_DELETE_SELF, IN_MOVE_SELF, IN_UNMOUNT, IN_Q_OVERFLOW, IN_IGNORED = 0x400, 0x800, 0x2000, 0x4000, 0x8000
IN_ONLYDIR, IN_DONT_FOLLOW, IN_EXCL_UNLINK, IN_ISDIR = 0x0100_0000, 0x0200_0000, 0x0400_0000, 0x4000_0000

# The same for every watch: a second one on an inode replaces the first one's.
_ENTRIES = IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE
MASK = _ENTRIES | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR | IN_EXCL_UNLINK

SYSCTL = "fs.inotify.max_user_watches"


class Event(NamedTuple):
    """What the kernel says: flags, and the name of the entry in the watched folder, "" for the folder itself."""

    wd: int
    mask: int
    cookie: int
    name: str


class Kernel(Protocol):
    """The system calls, as inotify_simple has them; tests put faults here."""

    def fileno(self) -> int: ...
    def add_watch(self, path: str, mask: int) -> int: ...
    def rm_watch(self, wd: int) -> None: ...
    def read(self, timeout: int) -> Iterable[Event]: ...
    def close(self) -> None: ...


class Listener(Protocol):
    """Who is told of events. Called with the lock of `Watches` held: it notes, and works later."""

    def seen(self, folder: str, name: str, mask: int) -> None:
        """Something happened to `name` in `folder`."""
        ...

    def lost(self) -> None:
        """Events were lost."""
        ...


def open_kernel() -> Kernel:
    """An inotify instance.

    Raises:
        OSError: the user's instances (fs.inotify.max_user_instances) or the files are exhausted.
    """
    return cast("Kernel", cast("Any", inotify_simple).INotify(nonblocking=True))


class Watches:
    """All watches. Safe for several threads.

    Attributes:
        exhausted: whether the kernel refused a watch for want of room, since one was last given.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._lock = threading.RLock()
        self._owners: dict[int, list[tuple[Listener, str]]] = {}
        self._folders: dict[Listener, dict[str, int]] = {}
        self.exhausted = False

    def fileno(self) -> int:
        """To wait on, with poll(2)."""
        return self._kernel.fileno()

    def count(self, listener: Listener) -> int:
        """How many folders a listener has watches on."""
        return len(self._folders.get(listener, {}))

    def add(self, listener: Listener, folder: str, path: str, *, follow: bool = False) -> int:
        """Watch the folder at `path`; events name it `folder`. Returns 0, or the errno for which there is no watch."""
        with self._lock:
            try:
                wd = self._kernel.add_watch(path, MASK if follow else MASK | IN_DONT_FOLLOW)
            except OSError as fault:
                self.exhausted |= fault.errno == errno.ENOSPC
                return fault.errno or errno.EIO
            self.exhausted = False
            mine = self._folders.setdefault(listener, {})
            if mine.get(folder) != wd:
                self._forget(listener, folder)
                mine[folder] = wd
            owners = self._owners.setdefault(wd, [])
            if (listener, folder) not in owners:
                owners.append((listener, folder))
            return 0

    def has(self, listener: Listener, folder: str) -> bool:
        """Whether a folder is watched."""
        return folder in self._folders.get(listener, {})

    def folders(self, listener: Listener) -> list[str]:
        """The folders that a listener watches."""
        with self._lock:
            return list(self._folders.get(listener, {}))

    def drop(self, listener: Listener, folders: Iterable[str]) -> None:
        """Watch these no more."""
        with self._lock:
            for folder in folders:
                self._forget(listener, folder)

    def drop_tree(self, listener: Listener, folder: str) -> None:
        """Watch a folder and what lies below it no more: its watches have gone elsewhere with it."""
        with self._lock:
            below = folder + "/"
            self.drop(listener, [each for each in self.folders(listener) if each == folder or each.startswith(below)])

    def read(self) -> int:
        """Pass on all that the kernel holds, without waiting. Returns how many events there were."""
        count = 0
        with self._lock:
            while events := self._read_once():
                count += len(events)
                for event in events:
                    self._pass_on(event)
        return count

    def close(self) -> None:
        """Give everything back."""
        with self._lock:
            self._kernel.close()
            self._owners.clear()
            self._folders.clear()

    def _read_once(self) -> Sequence[Event]:
        try:
            return list(self._kernel.read(timeout=0))
        except BlockingIOError:
            return []
        except ValueError:  # closed
            return []

    def _pass_on(self, event: Event) -> None:
        if event.mask & IN_Q_OVERFLOW:
            for listener in list(self._folders):
                listener.lost()
            return
        owners = self._owners.get(event.wd)
        if not owners:
            return
        if event.mask & IN_IGNORED:
            for listener, folder in owners:
                self._folders.get(listener, {}).pop(folder, None)
            del self._owners[event.wd]
        for listener, folder in tuple(owners):
            if event.mask & IN_ISDIR and event.mask & IN_MOVED_FROM:
                self.drop_tree(listener, os.path.join(folder, event.name))
            listener.seen(folder, event.name, event.mask)

    def _forget(self, listener: Listener, folder: str) -> None:
        wd = self._folders.get(listener, {}).pop(folder, None)
        if wd is None:
            return
        owners = self._owners.get(wd, [])
        if (listener, folder) in owners:
            owners.remove((listener, folder))
        if not owners:
            self._owners.pop(wd, None)
            try:
                self._kernel.rm_watch(wd)
            except OSError:
                return  # the kernel has dropped it already
