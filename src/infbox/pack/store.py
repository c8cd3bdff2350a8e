"""A pack on disk, so that a restarted watcher shows the same tokens as before, to the byte.

A file is: `infboxpk`, the version of this layout (4 bytes), the xxh3-128 of all that follows (16), the length of a JSON
text (8), that text, and all token ids as little-endian 32-bit numbers. The text has every segment with its token count.
Whatever is not exactly such a file of the same tokenizer is no pack: the watcher then makes one from the workspace.
"""

import contextlib
import json
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import xxhash

from infbox.errors import InfboxError
from infbox.pack.layout import Kind, Pack, Segment
from infbox.pack.tokens import PackTokenizer, TokenIds

_log = logging.getLogger(__name__)

_MAGIC = b"infboxpk"
# Raise it with any change of this layout or of what a segment's fields mean.
_LAYOUT = 1
_HEAD = len(_MAGIC) + 4 + 16
# Ten times what the largest pack needs.
_MOST_BYTES = 1 << 30


class StoreError(InfboxError):
    """A pack cannot be written to disk."""


def write_pack(path: Path, pack: Pack) -> None:
    """Write a pack so that `path` is, at any moment, the old one or the new one, whole. For one writer a path.

    Raises:
        StoreError: the folder is missing or read-only, or the disk is full; what was there is left as it was.
    """
    segments = [pack.header, *pack.base, *pack.overlay]
    said: dict[str, Any] = {
        "version": pack.version,
        "born": pack.born,
        "fingerprint": pack.fingerprint,
        "base": len(pack.base),
        "segments": [_row(segment) for segment in segments],
    }
    text = json.dumps(said, separators=(",", ":")).encode()
    content = len(text).to_bytes(8, "little") + text + pack.ids.astype("<u4").tobytes()
    head = _MAGIC + _LAYOUT.to_bytes(4, "little") + xxhash.xxh3_128_digest(content)
    new = path.with_name(f"{path.name}.new")
    try:
        with new.open("wb") as file:
            file.write(head + content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as fault:
        with contextlib.suppress(OSError):
            new.unlink()
        raise StoreError(
            f"the pack cannot be written to {path}: {fault.strerror}", "free space there, or let this user write there"
        ) from None


def read_pack(path: Path, tokenizer: PackTokenizer) -> Pack | None:
    """The pack that was written there with this tokenizer; None, with the reason in the log, where none is."""
    try:
        return _parse(_content(path), tokenizer)
    except FileNotFoundError:
        _log.info("no pack at %s", path)
    except OSError as fault:
        _log.warning("the pack at %s cannot be read: %s", path, fault.strerror)
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as fault:
        _log.warning("the pack at %s is not used: %s", path, fault)
    return None


def _row(segment: Segment) -> list[Any]:
    return [
        segment.kind,
        segment.tokens,
        segment.path,
        segment.body,
        segment.old_path,
        segment.names,
        segment.outlines,
    ]


def _content(path: Path) -> bytes:
    """What a regular file of ours holds behind its checksum."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            raise ValueError("it is no regular file, or too large")
        head, content = file.read(_HEAD), file.read()
    if head[: len(_MAGIC)] != _MAGIC:
        raise ValueError("it is not a pack")
    layout = int.from_bytes(head[len(_MAGIC) : len(_MAGIC) + 4], "little")
    if layout != _LAYOUT:
        raise ValueError(f"its layout is {layout}, and this program's is {_LAYOUT}")
    if head[len(_MAGIC) + 4 :] != xxhash.xxh3_128_digest(content):
        raise ValueError("its checksum is wrong: it is damaged or cut off")
    return content


def _parse(content: bytes, tokenizer: PackTokenizer) -> Pack:
    end = 8 + int.from_bytes(content[:8], "little")
    said = cast("dict[str, Any]", json.loads(content[8:end]))
    if said["fingerprint"] != tokenizer.fingerprint:
        raise ValueError("it was written for another tokenizer or format")
    ids = np.frombuffer(content[end:], "<u4").astype(np.uint32)
    ids.setflags(write=False)
    header, *others = _segments(said["segments"], ids)
    base = int(said["base"])
    segments = header, tuple(others[:base]), tuple(others[base:])
    return Pack(int(said["version"]), tokenizer.fingerprint, *segments, born=int(said["born"]))


def _segments(rows: list[list[Any]], ids: TokenIds) -> Iterator[Segment]:
    position = 0
    for kind, tokens, path, body, old_path, names, outlines in rows:
        if kind not in get_args(Kind):
            raise ValueError(f"it has a segment of the unknown kind {kind!r}")
        part = ids[position : position + tokens]
        position += tokens
        yield Segment(kind, part, path, body, old_path, tuple(names), tuple(outlines))
    if position != ids.size:
        raise ValueError("its segments and tokens do not fit")
