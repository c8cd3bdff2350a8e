"""Reads one file of a workspace that may be anybody's: no link is followed on the way, no device or FIFO is opened.

What is read lies in the workspace even if somebody puts a link into the way meanwhile: a file is opened by its path,
and the kernel is asked where it is. Where that is somewhere else, the path is walked folder by folder, each opened in
the one before, to find out what is in the way.
"""

import errno
import os
import stat
from dataclasses import dataclass

BINARY_LOOK_BYTES = 8000  # git's own: a NUL byte among these makes a file binary
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = (
    (stat.S_ISDIR, "it is a folder"),
    (stat.S_ISLNK, "it is a symlink, and links are never followed"),
    (stat.S_ISFIFO, "it is a FIFO"),
    (stat.S_ISSOCK, "it is a socket"),
    (stat.S_ISBLK, "it is a device"),
    (stat.S_ISCHR, "it is a device"),
)


@dataclass(frozen=True)
class Exclusion:
    """Why a path is not taken.

    Attributes:
        reason: a sentence.
        rule: what says so, where a line or a form does, as in `.gitignore:3:*.log`; else "".
    """

    reason: str
    rule: str = ""

    def __str__(self) -> str:
        return f"{self.reason} ({self.rule})" if self.rule else self.reason


def proper_path(path: bytes) -> bool:
    """Whether a relative path names something below its root, in the one way that git would write it."""
    return b"\0" not in path and not any(part in (b"", b".", b"..") for part in path.split(b"/"))


def read_file(root: bytes, path: bytes, max_bytes: int) -> bytes | Exclusion:
    """A regular file's content, or why there is none to have: not there, not a file, too large, unreadable.

    Args:
        root: absolute, without links.
        path: relative, proper.
        max_bytes: a larger file is not read.
    """
    try:
        file = _open_at_once(root + b"/" + path)
        if file is None:
            file = _open_step_by_step(root, path)
    except OSError as fault:
        return unreadable(root, path, fault)
    if isinstance(file, Exclusion):
        return file
    try:
        size = os.fstat(file).st_size
        if size > max_bytes:
            return _too_large(size, max_bytes)
        content = os.read(file, size + 1)
        while size < len(content) <= max_bytes and (more := os.read(file, max_bytes + 1 - len(content))):
            content += more  # it grows while it is read
    except OSError as fault:
        return unreadable(root, path, fault)
    finally:
        os.close(file)
    return content if len(content) <= max_bytes else _too_large(len(content), max_bytes)


def _open_at_once(place: bytes) -> int | None:
    """A regular file, opened by its whole path if the kernel says that there was no link on the way; else None."""
    try:
        if not stat.S_ISREG(os.lstat(place).st_mode):
            return None
        file = os.open(place, _FILE)
    except OSError:
        return None
    try:
        if os.readlink(b"/proc/self/fd/%d" % file) == place and stat.S_ISREG(os.fstat(file).st_mode):
            return file
    except OSError:
        pass
    os.close(file)
    return None


def _open_step_by_step(root: bytes, path: bytes) -> int | Exclusion:
    *folders, name = path.split(b"/")
    place = os.open(root, _FOLDER)
    try:
        for folder in folders:
            inner = os.open(folder, _FOLDER, dir_fd=place)
            os.close(place)
            place = inner
        if other := other_kind(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode):
            return other
        file = os.open(name, _FILE, dir_fd=place)
    finally:
        os.close(place)
    if other := other_kind(os.fstat(file).st_mode):
        os.close(file)
        return other
    return file


def other_kind(mode: int) -> Exclusion | None:
    """What something is that is no regular file."""
    return (
        None
        if stat.S_ISREG(mode)
        else Exclusion(next((what for is_it, what in _KINDS if is_it(mode)), "it is no file"))
    )


def unreadable(root: bytes, path: bytes, fault: OSError) -> Exclusion:
    """What a fault while a file was opened or read says of it."""
    if fault.errno in (errno.ELOOP, errno.ENOTDIR) and (link := link_on_the_way(root, path)):
        return link
    if fault.errno in (errno.ENOENT, errno.ENOTDIR):
        return Exclusion("there is no such file")
    return Exclusion(f"it cannot be read: {os.strerror(fault.errno or 0)}")


def link_on_the_way(root: bytes, path: bytes) -> Exclusion | None:
    """The first symlink on the way to a path, or the path itself, and whether it leaves the workspace."""
    place, parts = root, path.split(b"/")
    for number, part in enumerate(parts):
        place = os.path.join(place, part)
        try:
            target = os.readlink(place)
        except OSError:
            continue
        inside = (os.path.realpath(place) + b"/").startswith(root.rstrip(b"/") + b"/")
        what = "it is a symlink" if number == len(parts) - 1 else "it lies behind a symlink"
        where = b"/".join(parts[: number + 1])
        rule = f"{printable(where)} -> {printable(target)}"
        return Exclusion(f"{what}{'' if inside else ' that leaves the workspace'}, and links are never followed", rule)
    return None


def is_binary(content: bytes) -> bool:
    """git's own test: a NUL byte in the beginning."""
    return b"\0" in content[:BINARY_LOOK_BYTES]


def printable(path: bytes) -> str:
    """A name as a person may see it, on one line: what is no text, and control characters, as escapes."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _too_large(size: int, max_bytes: int) -> Exclusion:
    more = "at least " if size == max_bytes + 1 else ""
    return Exclusion(f"it has {more}{size:,} bytes, and the limit is {max_bytes:,}")
