"""Which repository answers for a folder: the one it lies in, or an empty one of ours for a folder that is none.

git is not asked to find it, since it refuses where the folder is somebody else's, as workspaces are. With an empty
repository as GIT_DIR and the folder as its working tree, git answers for a plain folder as it would after `git init`.
"""

import os
import stat
from dataclasses import dataclass

from infbox.errors import WorkspaceError

_GIT_DIR_POINTER = b"gitdir: "


@dataclass(frozen=True)
class Repository:
    """What answers for a workspace.

    Attributes:
        top: the working tree's uppermost folder, absolute.
        git_dir: where HEAD and the index are, absolute: `.git`, or what a `.git` file of a worktree or submodule names.
        common_dir: where the configuration and info/exclude are; a worktree shares its main repository's.
        found: False for the empty one of ours.
        extra: settings on top, as in `core.ignorecase=true`.
    """

    top: bytes
    git_dir: bytes
    common_dir: bytes
    found: bool = True
    extra: tuple[str, ...] = ()


def find_repository(root: bytes) -> Repository | None:
    """The repository that an absolute folder belongs to: the nearest `.git` at or above it, on the same file system."""
    folder, device = root, os.stat(root).st_dev
    while True:
        if place := git_dir_of(folder):
            return Repository(folder, place, _common_dir(place))
        if folder == b"/":
            return None
        folder = folder.rpartition(b"/")[0] or b"/"
        if os.stat(folder).st_dev != device:
            return None


def empty_repository(root: bytes, place: bytes, ignore_case: bool) -> Repository:
    """An empty repository of ours that speaks for a folder that is none. It is made at `place` unless it is there."""
    try:
        for name in (b"objects", b"refs"):
            os.makedirs(os.path.join(place, name), exist_ok=True)
        if not os.path.exists(head := os.path.join(place, b"HEAD")):
            with open(head, "wb") as file:
                file.write(b"ref: refs/heads/main\n")
    except OSError as fault:
        raise WorkspaceError(
            f"git cannot be asked about {os.fsdecode(root)!r}, which is no repository: {fault}.",
            "is the disk full, or the folder for temporary files not writable?",
        ) from fault
    return Repository(root, place, place, found=False, extra=("core.ignorecase=true",) if ignore_case else ())


def git_dir_of(folder: bytes) -> bytes | None:
    """The repository of a folder by its `.git`; None if git would not take the folder for the top of a working tree."""
    place = os.path.join(folder, b".git")
    try:
        if stat.S_ISDIR(os.stat(place).st_mode):
            return place if _is_git_dir(place) else None
        with open(os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            pointer = file.read(8192) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except OSError:
        return None
    target = pointer.removeprefix(_GIT_DIR_POINTER).rstrip(b"\r\n")
    if not pointer.startswith(_GIT_DIR_POINTER) or b"\0" in target:
        return None
    place = os.path.normpath(os.path.join(folder, target))
    return place if _is_git_dir(place) else None


def _is_git_dir(place: bytes) -> bool:
    """HEAD that names something, and folders of objects and refs, its own or those it shares (a worktree's)."""
    head = os.path.join(place, b"HEAD")
    try:
        if os.path.islink(head):
            named = os.readlink(head).startswith(b"refs/")
        else:
            content = _first_bytes(head, 256)
            reference = content.removeprefix(b"ref:").lstrip() if content.startswith(b"ref:") else b""
            named = reference.startswith(b"refs/") or _is_object_id(content)
        common = _common_dir(place)
    except OSError:
        return False
    return named and all(os.access(os.path.join(common, each), os.X_OK) for each in (b"objects", b"refs"))


def _common_dir(place: bytes) -> bytes:
    pointer = os.path.join(place, b"commondir")
    if not os.path.isfile(pointer):
        return place
    return os.path.normpath(os.path.join(place, _first_bytes(pointer, 8192).rstrip(b"\r\n")))


def _first_bytes(path: bytes, number: int) -> bytes:
    """Of a regular file; of anything else nothing, without waiting for it."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return file.read(number) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""


def _is_object_id(content: bytes) -> bool:
    return len(content) >= 40 and all(byte in b"0123456789abcdefABCDEF" for byte in content[:40])


def folds_case(root: bytes) -> bool:
    """Whether a folder's file system finds its entries under names in the other case, as `git init` would find out."""
    try:
        names = set(os.listdir(root))
        name = next((each for each in names if each.swapcase() != each and each.swapcase() not in names), None)
        if name is None:
            return False
        there = os.lstat(os.path.join(root, name.swapcase()))
        return os.path.samestat(there, os.lstat(os.path.join(root, name)))
    except OSError:
        return False
