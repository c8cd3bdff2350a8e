"""What is remembered of a file: little, since there are many."""

import os
import re
import struct
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import xxhash

# Of a file that nobody read since it could not have a place in the pack; its name may be shown.
NOT_CHOSEN = "it is not among the files that the budget has room for"

_TICK_NS = 100_000_000
_STAMP = struct.Struct("<QqqQ")
_NUMBERS = re.compile(r"(at least )?\d[\d,]*")


class Entry(NamedTuple):
    """A file of a workspace.

    Attributes:
        stamp: `lasting` `stamp_of` it, from before its content was read.
        digest: xxh3-64 of its content; empty of one that is not in the pack.
        excluded: why it is not in the pack; "" of one that is.
    """

    stamp: bytes
    digest: bytes = b""
    excluded: str = ""


def stamp_of(status: os.stat_result) -> bytes:
    """Size, time of content, time of anything, inode: while these are equal, so is the content, but see `lasting`."""
    return _STAMP.pack(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def lasting(stamp: bytes, now_ns: int) -> bytes:
    """The stamp, or b"", which is no file's, where the next change might leave it as it is: file systems' clocks tick
    at up to 10 ms. So it is where a file's time is still to come, since a clock was set back."""
    return b"" if int(_STAMP.unpack(stamp)[2]) >= now_ns - _TICK_NS else stamp


def digest_of(content: bytes) -> bytes:
    """By which a content is known again."""
    return xxhash.xxh3_64_digest(content)


def count_excluded(entries: Iterable[Entry]) -> dict[str, int]:
    """How many files are not in the pack, by reason; numbers in reasons are left out."""
    reasons = Counter(entry.excluded for entry in entries if entry.excluded)
    counts: Counter[str] = Counter()
    for reason, count in reasons.items():
        counts[_NUMBERS.sub("…", reason)] += count
    return dict(counts.most_common())


def parent(path: str) -> str:
    """The folder of a relative path, "" for the root."""
    return path.rpartition("/")[0]
