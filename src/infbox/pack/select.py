"""Which files of a workspace belong into a pack, and why the others do not: exactly what git would take, and less.

    listing()    git's answer about the whole workspace, and the folders that a watch is needed on
    taken()      the same answer about some paths, without a walk
    read()       the content of one file, unless a pack may not hold it: too large, binary, a secret ...
    explain()    the answer about one path, with the line or the form that says so

`.infboxignore` stands beside `.gitignore`: nested, of the same syntax, also answered by git, and also for files that
git tracks. Links are never followed, so nothing outside of the workspace is read; a repository inside (a submodule, a
clone) is a boundary, and is a workspace of its own or none.

Neighbours: repository.py finds the repository, gitfiles.py asks git, places.py looks at paths, reading.py reads a file,
explaining.py finds the rule, secrets.py knows secrets.
"""

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from infbox.errors import WorkspaceError
from infbox.pack import gitfiles
from infbox.pack.gitfiles import Listed
from infbox.pack.places import IGNORE_FILE, Places, ancestors, folders_above
from infbox.pack.reading import Exclusion, is_binary, proper_path, read_file
from infbox.pack.repository import Repository, empty_repository, find_repository, folds_case
from infbox.pack.secrets import secret_in, secret_name

OWN_RULES = f"--exclude-per-directory={IGNORE_FILE}"
_RULE_FILES = frozenset({".gitignore", IGNORE_FILE, ".git"})

__all__ = ["DEFAULT", "Exclusion", "Limits", "Listing", "Selector"]


@dataclass(frozen=True)
class Limits:
    """Attributes:
    max_file_bytes: a larger file is not taken; what is larger is data, or made by a program.
    git_seconds: how long one question to git may take.
    """

    max_file_bytes: int = 512 * 1024
    git_seconds: float = gitfiles.DEFAULT_SECONDS


DEFAULT = Limits()


@dataclass
class Listing:
    """What git would take of a workspace, before any content is looked at.

    Attributes:
        files: regular files, relative, with slashes, sorted by bytes; what is no UTF-8 is surrogate-escaped.
        folders: where a watch is needed: not ignored, or with a tracked file; "" is the root.
        boundaries: repositories inside, which are not entered.
    """

    files: list[str] = field(default_factory=list[str])
    folders: list[str] = field(default_factory=list[str])
    boundaries: list[str] = field(default_factory=list[str])


class Selector:
    """What belongs to one workspace.

    Args:
        root: the workspace.
        limits: what is too large, and too slow.
        scratch: a folder where an empty repository may be kept that speaks for a workspace which is none; without, a
            temporary one.

    Raises:
        WorkspaceError: there is no such folder, it cannot be read, or is git's own.
    """

    def __init__(self, root: Path, limits: Limits = DEFAULT, scratch: Path | None = None) -> None:
        self.limits = limits
        self.root = os.path.realpath(os.fsencode(root))
        self._scratch = os.fsencode(scratch) if scratch else None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._tracked: tuple[object, Listed, set[bytes]] | None = None
        self._settings: tuple[object, gitfiles.Settings] | None = None
        hint = "give the folder of the workspace, as in /srv/workspaces/alice/project."
        try:
            os.listdir(self.root)
        except (OSError, ValueError) as fault:
            said = fault.strerror if isinstance(fault, OSError) else fault
            raise WorkspaceError(f"the workspace {str(root)!r} cannot be read: {said}.", hint) from None
        if b".git" in self.root.split(b"/"):
            raise WorkspaceError(f"the workspace {str(root)!r} is git's own folder, or in it.", hint)

    def listing(self) -> Listing:
        """All of it, asked anew.

        Raises:
            WorkspaceError: the folder is gone, or git failed.
        """
        repository = self.repository()
        key = self._index_key(repository)
        listed = gitfiles.listed(repository, self.root, self.limits.git_seconds)
        self._tracked = key, listed, ancestors(listed.tracked | listed.gitlinks)
        boundaries = listed.gitlinks | {path[:-1] for path in listed.others if path.endswith(b"/")}
        known = ancestors(listed.tracked | boundaries | listed.others)
        folders, regular = self._walk(repository, known, boundaries)
        files = regular & (listed.tracked | listed.gitlinks | listed.others)
        if any(path.endswith(IGNORE_FILE.encode()) for path in regular) or self._rules_above(repository):
            asked = {**dict.fromkeys(files, False), **dict.fromkeys(folders - {b""}, True)}
            left_out = self.ignored(repository, asked, OWN_RULES)
            files, folders = files - left_out, folders - left_out
        kept = [path for path in boundaries if path.rpartition(b"/")[0] in folders]
        return Listing(*([os.fsdecode(each) for each in sorted(found)] for found in (files, folders, kept)))

    def taken(self, paths: Iterable[str]) -> set[str]:
        """Which of some files and folders a fresh listing would have.

        Raises:
            WorkspaceError: the folder is gone, or git failed.
        """
        asked = set(paths)
        repository = self.repository()
        places = Places(self.root)
        there = {path: folder for path in map(os.fsencode, asked) if (folder := places.is_folder(path)) is not None}
        there = {path: folder for path, folder in there.items() if b".git" not in path.split(b"/")}
        if any(places.has_git(path) for path in there) or (there and self.settings(repository).ignore_case):
            listing = self.listing()  # rare, and what git makes of a repository inside, or of case, is its own affair
            return asked.intersection(listing.files) | asked.intersection(listing.folders)
        listed, folders = self.index(repository)
        there = {path: folder for path, folder in there.items() if not _entered(path, folder, listed.gitlinks)}
        files = listed.tracked | listed.gitlinks if listed.gitlinks else listed.tracked
        known = {path for path, folder in there.items() if path in (folders if folder else files)}
        unknown = {path: folder for path, folder in there.items() if path and path not in known}
        left_out = self.ignored(repository, unknown)
        if places.has_rules() or self._rules_above(repository):
            left_out |= self.ignored(repository, {path: there[path] for path in there if path}, OWN_RULES)
        return {os.fsdecode(path) for path in there.keys() - left_out}

    def rule_files(self) -> frozenset[Path]:
        """Files outside of the listing whose change calls for a fresh one, absolute; some may not be there (yet)."""
        repository = self.repository()
        seconds = self.limits.git_seconds
        places = {os.path.join(self.root, b".git"), *gitfiles.configuration_places()}
        places |= self.settings(repository, fresh=True).files
        if excludes := gitfiles.excludes_file(repository, self.root, seconds):
            places.add(excludes)
        if repository.found:
            own = {
                b"index": repository.git_dir,
                b"config": repository.common_dir,
                b"info/exclude": repository.common_dir,
            }
            places |= {os.path.join(folder, name) for name, folder in own.items()}
            places |= {os.path.join(repository.top, b".git"), os.path.join(repository.git_dir, b"config.worktree")}
            above = folders_above(repository.top, self.root)
            places |= {os.path.join(each, name) for each in above for name in (b".gitignore", IGNORE_FILE.encode())}
        else:
            places = {each for each in places if not each.startswith(repository.git_dir + b"/")}
        return frozenset(Path(os.fsdecode(each)) for each in places)

    @staticmethod
    def is_rule_file(path: str) -> bool:
        """Whether a change of a path inside the workspace calls for a fresh listing: an ignore file, or a `.git`.

        A clone's `.git` is there before it is a repository: list again a moment after the last such change.
        """
        return path.rpartition("/")[2] in _RULE_FILES

    def read(self, path: str) -> bytes | Exclusion:
        """A file's content if a pack may hold it. Whether git would take it is for `listing` and `taken` to say."""
        content = self.load(path)
        if isinstance(content, bytes) and (secret := secret_in(content)):
            return Exclusion("it holds a secret", secret)
        return content

    def load(self, path: str) -> bytes | Exclusion:
        """As `read`, but secrets are known by the names alone: what is enough to notice that a file has changed."""
        name = os.fsencode(path)
        if not proper_path(name):
            return Exclusion("it is no path in the workspace")
        if rule := secret_name(path):
            return Exclusion("its name says that it holds secrets", rule)
        content = read_file(self.root, name, self.limits.max_file_bytes)
        if isinstance(content, bytes) and is_binary(content):
            return Exclusion("it is binary: there is a NUL byte among its first 8,000")
        return content

    def explain(self, path: str) -> Exclusion | None:
        """Why a path is not taken, with the rule; None for a file that a pack may hold, or a folder that is entered.

        Raises:
            WorkspaceError: the folder is gone, or git failed.
        """
        from infbox.pack.explaining import explain

        return explain(self, path)

    def repository(self) -> Repository:
        """What answers for the workspace: its repository, or an empty one of ours.

        Raises:
            WorkspaceError: the workspace is gone.
        """
        try:
            if found := find_repository(self.root):
                return found
        except OSError as fault:
            where = os.fsdecode(self.root)
            raise WorkspaceError(f"the workspace {where!r} cannot be read: {fault.strerror}.", "is it gone?") from None
        return empty_repository(self.root, self.scratch(b"empty.git"), folds_case(self.root))

    def scratch(self, name: bytes) -> bytes:
        """A place of our own, outside of the workspace."""
        if self._scratch is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="infbox-select-", ignore_cleanup_errors=True)
            self._scratch = os.fsencode(self._temporary.name)
        return os.path.join(self._scratch, name)

    def settings(self, repository: Repository, fresh: bool = False) -> gitfiles.Settings:
        """What configuration says; remembered as long as its files are as they were."""
        known = None if fresh else self._settings
        if known is None or known[0] != (repository, _signatures(known[1].files)):
            read = gitfiles.settings(repository, self.root, self.limits.git_seconds)
            known = self._settings = (repository, _signatures(read.files)), read
        return known[1]

    def ignored(self, repository: Repository, paths: dict[bytes, bool], rules: str = gitfiles.STANDARD) -> set[bytes]:
        """`gitfiles.ignored` for this workspace."""
        if not paths:
            return set()
        object_bytes = self.settings(repository).object_bytes
        return gitfiles.ignored(repository, self.root, paths, object_bytes, self.limits.git_seconds, rules)

    def _walk(self, repository: Repository, known: set[bytes], boundaries: set[bytes]) -> tuple[set[bytes], set[bytes]]:
        """Folders that are not ignored, the regular files in them (ignored ones, too).

        Folders with something that git lists are known; the others are asked about together, depth by depth.
        """
        folders: set[bytes] = set()
        regular: set[bytes] = set()
        to_ask: set[bytes] = set()
        to_enter = [b""]
        while to_enter:
            while to_enter:
                folder = to_enter.pop()
                try:
                    with os.scandir(os.path.join(self.root, folder)) as scanned:
                        entries = list(scanned)
                except OSError:
                    continue
                folders.add(folder)
                prefix = folder + b"/" if folder else b""
                for entry in entries:
                    path = prefix + entry.name
                    if entry.is_file(follow_symlinks=False):
                        regular.add(path)
                    elif entry.is_dir(follow_symlinks=False) and entry.name != b".git" and path not in boundaries:
                        (to_enter.append if path in known else to_ask.add)(path)
            to_enter = list(to_ask - self.ignored(repository, dict.fromkeys(to_ask, True)))
            to_ask = set()
        return folders, regular

    def index(self, repository: Repository) -> tuple[Listed, set[bytes]]:
        """What is tracked, and the folders of it; remembered as long as the index is as it was."""
        key = self._index_key(repository)
        if self._tracked is None or self._tracked[0] != key:
            listed = gitfiles.listed(repository, self.root, self.limits.git_seconds, cached_only=True)
            self._tracked = key, listed, ancestors(listed.tracked | listed.gitlinks)
        return self._tracked[1], self._tracked[2]

    @staticmethod
    def _index_key(repository: Repository) -> object:
        return repository, _signatures([os.path.join(repository.git_dir, b"index")])

    def _rules_above(self, repository: Repository) -> bool:
        """Whether a folder of the repository above the workspace has an `.infboxignore`."""
        above = folders_above(repository.top, self.root)
        return any(os.path.lexists(os.path.join(folder, IGNORE_FILE.encode())) for folder in above)


def _entered(path: bytes, is_folder: bool, gitlinks: set[bytes]) -> bool:
    """Whether a path is a submodule, or in one."""
    folder = path if is_folder else path.rpartition(b"/")[0]
    while gitlinks and folder:
        if folder in gitlinks:
            return True
        folder = folder.rpartition(b"/")[0]
    return False


def _signatures(files: Iterable[bytes]) -> tuple[object, ...]:
    """What changes with a file's content, for some files."""
    found: list[object] = []
    for file in sorted(files):
        try:
            it = os.stat(file)
            found.append((file, it.st_ino, it.st_dev, it.st_size, it.st_mtime_ns, it.st_ctime_ns))
        except OSError:
            found.append((file, None))
    return tuple(found)
