"""What is at some paths of a workspace, and which folders lie above them. No link is followed."""

import os
import stat
from collections.abc import Iterable

from infbox.pack.reading import proper_path

IGNORE_FILE = ".infboxignore"


class Places:
    """What is at some paths and in the folders above them; each is looked at once."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._folders: dict[bytes, tuple[bool, bool, bool]] = {}

    def is_folder(self, path: bytes) -> bool | None:
        """True for a folder, False for a regular file; None for all else, and for what lies behind a link."""
        if not path:
            return True if self._look(path)[0] else None
        if not proper_path(path) or not self._look(path.rpartition(b"/")[0])[0]:
            return None
        try:
            mode = os.lstat(os.path.join(self._root, path)).st_mode
        except OSError:
            return None
        if stat.S_ISDIR(mode):
            return True if self._look(path)[0] else None
        return False if stat.S_ISREG(mode) else None

    def has_git(self, path: bytes) -> bool:
        """Whether the path or a folder above it, below the root, has a `.git`."""
        while path:
            if path in self._folders and self._folders[path][1]:
                return True
            path = path.rpartition(b"/")[0]
        return False

    def has_rules(self) -> bool:
        """Whether any folder looked at has an `.infboxignore`."""
        return any(rules for _, _, rules in self._folders.values())

    def _look(self, folder: bytes) -> tuple[bool, bool, bool]:
        if folder not in self._folders:
            place = os.path.join(self._root, folder)
            try:
                real = stat.S_ISDIR(os.lstat(place).st_mode) and os.access(place, os.R_OK)
            except OSError:
                real = False
            if folder and real:
                real = self._look(folder.rpartition(b"/")[0])[0]
            found = [real and os.path.lexists(os.path.join(place, name)) for name in (b".git", IGNORE_FILE.encode())]
            self._folders[folder] = real, found[0], found[1]
        return self._folders[folder]


def ancestors(paths: Iterable[bytes]) -> set[bytes]:
    """All folders above some paths."""
    found: set[bytes] = set()
    for path in paths:
        folder = path.rstrip(b"/").rpartition(b"/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition(b"/")[0]
    return found


def folders_above(top: bytes, root: bytes) -> list[bytes]:
    """The folders from a repository's top down to the one that a workspace is in; none if it is the top."""
    found: list[bytes] = []
    while root != top:
        root = os.path.dirname(root)
        found.append(root)
    return found
