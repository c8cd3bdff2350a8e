"""Which files and folders a workspace has, kept up to date.

Git is asked about what is new, once for all of it; what is known stays known until a rule changes, and then all is
listed afresh. A new folder is watched first and listed then, so nothing is made in between that nobody sees. Folders
without a watch (the kernel has no room, or the folder may not be read) are listed again at each look.
"""

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from infbox.errors import WorkspaceError
from infbox.pack.select import Selector
from infbox.watcher.files import Entry, parent, stamp_of
from infbox.watcher.watches import SYSCTL, Listener, Watches

POLL_SECONDS = 2.0
# Of git's own folder: what makes a folder a repository, and what chooses its files.
_GIT_NAMES = frozenset({"HEAD", "objects", "refs", "commondir", "index", "config", "config.worktree", "info", "gitdir"})
_GIT_MARKS = frozenset({"HEAD", "objects", "refs", "commondir"})
_REFUSED_AT_MOST = 50_000


@dataclass
class Look:
    """What became of a look.

    Attributes:
        files: paths of files that may have another content, with what lstat said of them.
        gone: paths of files that are no more, or no longer the workspace's.
    """

    files: dict[str, os.stat_result] = field(default_factory=dict[str, os.stat_result])
    gone: set[str] = field(default_factory=set[str])


class Tree:
    """One workspace's files and folders. Not for several threads at once, but for
    `is_rule_event`, which any may call with the lock of `watches`.

    Args:
        select: makes a selector; raises WorkspaceError where there is no workspace.
        known: the files that are remembered; only read here.

    Attributes:
        folders: all folders that have or should have a watch, "" is the root.
        unwatched: those that have none, with the errno.
    """

    def __init__(
        self,
        root: Path,
        select: Callable[[], Selector],
        watches: Watches,
        listener: Listener,
        known: dict[str, Entry],
    ) -> None:
        self._root = str(root)
        self._select = select
        self._watches = watches
        self._listener = listener
        self._known = known
        self._selector: Selector | None = None
        self._identity: tuple[int, int] | None = None
        self._refused: set[str] = set()
        self._rules: dict[str, frozenset[str]] = {}
        self._git_folders: set[str] = set()
        self.folders: set[str] = set()
        self.unwatched: dict[str, int] = {}
        self.git_folder: str | None = None

    @property
    def selector(self) -> Selector:
        """Of the last fresh listing."""
        if self._selector is None:
            raise WorkspaceError(f"{self._root} was never listed")
        return self._selector

    def is_here(self) -> bool:
        """Whether the root is still the folder that was listed."""
        try:
            status = os.stat(self._root)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def is_rule_event(self, folder: str, name: str) -> bool | None:
        """Whether an event calls for a fresh listing; None: it is about a file or folder like any other."""
        if folder.startswith("/"):
            return name in self._rules.get(folder, frozenset())
        if name == ".git":
            if folder:
                self._watch_git(f"{folder}/.git")
            return True
        return None

    def list_afresh(self, paths: Collection[str] = (), distrust: bool = False) -> Look:
        """List everything.

        Args:
            paths: of which an event told that they may have another content, whatever their stamp says.
            distrust: take no watch for granted; events were lost.

        Raises:
            WorkspaceError: there is no such workspace, or git cannot say.
        """
        self._selector = None
        selector = self._select()
        root = os.stat(self._root)
        if self._identity != (root.st_dev, root.st_ino) or distrust:
            self._watches.drop(self._listener, self._watches.folders(self._listener))
        self._identity = (root.st_dev, root.st_ino)
        self._refused = set()
        # Before the listing: what changes the rules from now on is seen.
        self._watch_rules(selector)
        listing = selector.listing()
        folders = set(listing.folders) | {""}
        for boundary in listing.boundaries:
            self._watch_git(f"{boundary}/.git")
        obsolete = [each for each in self._watches.folders(self._listener) if each[:1] != "/" and each not in folders]
        self._watches.drop(self._listener, obsolete)
        self.folders = folders
        self.unwatched = {}
        self._selector = selector
        fresh = [folder for folder in sorted(folders) if not self._watches.has(self._listener, folder)]
        files = set(listing.files)
        late = [name for name in self._enter(fresh) if name not in files and name not in folders]
        look = Look(gone=self._known.keys() - files)
        forced = set(paths)
        for path in files:
            self._stat(path, look, path in forced)
        self._add_unknown(late, look)
        look.gone -= look.files.keys()
        return look

    def look_at(self, paths: dict[str, bool]) -> Look:
        """Look at paths, and at what has no watch.

        Args:
            paths: True where the entry itself may be another one, not only its content.
        """
        look = Look()
        unknown: list[str] = []
        scan: set[str] = set()
        for path, structural in paths.items():
            if path in self.folders:
                if structural:
                    self._look_at_folder(path, look, unknown)
            elif path in self._known:
                self._stat(path, look, True)
                if path in look.gone:
                    unknown.append(path)  # a folder in its place, maybe
            elif structural or path not in self._refused:
                self._refused.discard(path)
                unknown.append(path)
        for folder, _ in list(self.unwatched.items()):
            if not self._watch(folder) or folder in self.folders:
                scan.add(folder)
        if scan:
            unknown += self._scan(scan, look)
        self._add_unknown(unknown, look)
        look.gone -= look.files.keys()
        return look

    def drop_watches(self) -> None:
        """Hold none for now: there is no workspace."""
        self._watches.drop(self._listener, self._watches.folders(self._listener))
        self.folders, self.unwatched, self._identity = set(), {}, None

    def place(self, path: str) -> str:
        """Where a path of the workspace is."""
        return f"{self._root}/{path}" if path else self._root

    def watch_fault(self, name: str) -> WorkspaceError | None:
        """Why there are folders without a watch in the workspace of that name."""
        faults = dict(self.unwatched)
        if errno.ENOSPC in faults.values():
            return WorkspaceError(
                f"{len(faults)} folders of {name} have no watch and are polled every {POLL_SECONDS:g} seconds: "
                f"{SYSCTL} is used up",
                f"raise it: sysctl {SYSCTL}=1048576, and in /etc/sysctl.d",
            )
        for folder, number in faults.items():
            return WorkspaceError(
                f"{self.place(folder)} of {name} cannot be watched: {os.strerror(number)}",
                "let the watcher's group read it",
            )
        return None

    def _look_at_folder(self, path: str, look: Look, unknown: list[str]) -> None:
        """A known folder that was made, moved or deleted: forget what was in it, and meet it like a new one."""
        below = path + "/"
        inside = [each for each in self.folders if each == path or each.startswith(below)]
        self._watches.drop(self._listener, inside)
        self.folders.difference_update(inside)
        for each in inside:
            self.unwatched.pop(each, None)
        look.gone.update(each for each in self._known if each.startswith(below))
        unknown.append(path)

    def _add_unknown(self, paths: Iterable[str], look: Look) -> None:
        """Ask git which of these belong here, go into the folders among them, and so on."""
        asked: set[str] = set()
        todo = set(paths)
        while todo:
            exist = {path: mode for path in todo if (mode := self._mode(path))}
            for path in exist:
                if path.rpartition("/")[2] == ".git":
                    self._watch_git(path)
            taken = self.selector.taken(sorted(exist)) if exist else set[str]()
            asked |= todo
            if len(self._refused) < _REFUSED_AT_MOST:
                self._refused.update(path for path in exist if path not in taken)
            fresh = [path for path in sorted(taken) if stat.S_ISDIR(exist[path])]
            for path in taken:
                if stat.S_ISREG(exist[path]):
                    self._stat(path, look)
            self.folders.update(fresh)
            todo = {name for name in self._enter(fresh) if name not in asked}

    def _enter(self, folders: list[str]) -> list[str]:
        """Watch folders, then list them: the paths of all that is in them."""
        for folder in folders:
            self._watch(folder)
        return [f"{folder}/{name}" if folder else name for folder in folders for name in self._names(folder)]

    def _scan(self, folders: set[str], look: Look) -> list[str]:
        """List known folders again. Returns what is new in them."""
        here = {f"{folder}/{name}" if folder else name for folder in folders for name in self._names(folder)}
        for path in list(self._known):
            if parent(path) in folders:
                self._stat(path, look)
        gone = {each for each in self.folders if each and parent(each) in folders and each not in here}
        unknown: list[str] = []
        for folder in gone:
            self._look_at_folder(folder, look, unknown)
        return unknown + [path for path in here if path not in self._known and path not in self.folders]

    def _watch(self, folder: str) -> bool:
        fault = self._watches.add(self._listener, folder, self.place(folder), follow=not folder)
        if not fault:
            self.unwatched.pop(folder, None)
            return True
        if fault in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            # Its own folder's watch tells of the next one by that name.
            self.unwatched.pop(folder, None)
            self.folders.discard(folder)
        else:
            self.unwatched[folder] = fault
        return False

    def _watch_rules(self, selector: Selector) -> None:
        """Watch the folders in which rules lie that are no files of the workspace."""
        wanted: dict[str, set[str]] = {}
        for rule_file in selector.rule_files():
            place = rule_file
            # A folder that is not there yet is waited for in the one above.
            while not os.path.isdir(place.parent) and place.parent != place:
                place = place.parent
            wanted.setdefault(str(place.parent), set()).add(place.name)
        own = f"{self._root}/.git"
        if os.path.isdir(own):
            wanted.setdefault(own, set()).update(_GIT_NAMES)
        self._git_folders = {each for each in set(self._git_folders) if os.path.isdir(each)}
        for folder in set(self._git_folders):
            wanted.setdefault(folder, set()).update(_GIT_MARKS)
        self._rules = {folder: frozenset(names) for folder, names in wanted.items()}
        for folder in self._watches.folders(self._listener):
            if folder[:1] == "/" and folder not in wanted:
                self._watches.drop(self._listener, [folder])
        for folder in wanted:
            if not self._watches.has(self._listener, folder):
                self._watches.add(self._listener, folder, folder, follow=True)
        self.git_folder = own if os.path.isdir(own) else None

    def _watch_git(self, path: str) -> None:
        """Watch the `.git` of a repository inside, which may not be one yet: `git init` takes a moment."""
        folder = self.place(path)
        if folder not in self._git_folders or not self._watches.has(self._listener, folder):
            self._git_folders.add(folder)
            self._rules = {**self._rules, folder: self._rules.get(folder, frozenset()) | _GIT_MARKS}
            self._watches.add(self._listener, folder, folder)

    def _names(self, folder: str) -> list[str]:
        try:
            return [name for name in os.listdir(self.place(folder)) if name != ".git" or folder]
        except OSError:
            return []

    def _mode(self, path: str) -> int:
        try:
            return os.lstat(self.place(path)).st_mode
        except OSError:
            return 0

    def _stat(self, path: str, look: Look, force: bool = False) -> None:
        try:
            status = os.lstat(self.place(path))
        except OSError:
            look.gone.add(path)
            return
        if not stat.S_ISREG(status.st_mode):
            look.gone.add(path)
            return
        entry = self._known.get(path)
        if force or entry is None or entry.stamp != stamp_of(status):
            look.files[path] = status
