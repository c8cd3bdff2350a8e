"""What outlives a restart: the pack itself, so that an engine's KV of it stays good, and what is known of each file.

`pack` is written first, then `files`, each whole or not at all. So `files` is never newer than `pack`: what it says is
unchanged is what the pack shows. A pack without its `files` is used, too: then every file is read again.

    files:  magic, xxh3-128 of the rest, header (JSON, one line), then for each file: length of path, of digest,
            number of reason; stamp, path, digest
"""

import contextlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import xxhash

from infbox.pack.layout import Pack
from infbox.pack.store import read_pack, write_pack
from infbox.pack.tokens import PackTokenizer
from infbox.watcher.files import Entry

_MAGIC = b"infbox-watcher files 1\n"
_HASH_BYTES = 16
_STAMP_BYTES = 32
_LENGTHS = struct.Struct("<IBHB")


@dataclass(frozen=True)
class Kept:
    """What was found. `files` is None where it could not be used; `said` is why, or ""."""

    pack: Pack | None = None
    files: dict[str, Entry] | None = None
    said: str = ""


def write_state(folder: Path, root: str, pack: Pack, files: Mapping[str, Entry]) -> None:
    """Keep a pack and what is known of its files, in `folder`.

    Raises:
        OSError: it cannot be written; what was there before is still there.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o750)
    write_pack(folder / "pack", pack)
    reasons = {reason: number for number, reason in enumerate(sorted({entry.excluded for entry in files.values()}))}
    header = {"root": root, "pack": pack.digest, "reasons": list(reasons)}
    body = bytearray(json.dumps(header).encode() + b"\n")
    for path, entry in files.items():
        name = os.fsencode(path)
        body += _LENGTHS.pack(len(name), len(entry.digest), reasons[entry.excluded], len(entry.stamp))
        body += entry.stamp + name + entry.digest
    _replace(folder / "files", _MAGIC + xxhash.xxh3_128_digest(body) + bytes(body))


def read_state(folder: Path, root: str, tokenizer: PackTokenizer, name: str) -> Kept:
    """What was kept of a workspace; whatever is wrong with it, it is used as far as it is right."""
    there = (folder / "pack").exists()
    pack = read_pack(folder / "pack", tokenizer) if there else None
    if pack is None or pack.header.path != name:
        said = f"{folder / 'pack'} is damaged, of another model or of another workspace" if there else ""
        return Kept(said=said)
    try:
        files = _read_files((folder / "files").read_bytes(), root, pack.digest)
    except FileNotFoundError:
        return Kept(pack, said=f"{folder / 'files'} is gone")
    except (OSError, ValueError, KeyError, TypeError, IndexError, struct.error) as fault:
        return Kept(pack, said=f"{folder / 'files'} cannot be used ({fault})")
    return Kept(pack, files)


def _read_files(content: bytes, root: str, digest: str) -> dict[str, Entry]:
    start = len(_MAGIC) + _HASH_BYTES
    if not content.startswith(_MAGIC):
        raise ValueError("it is no such file")
    body = memoryview(content)[start:]
    if xxhash.xxh3_128_digest(body) != content[len(_MAGIC) : start]:
        raise ValueError("it is damaged")
    end = content.index(b"\n", start)
    header = cast("dict[str, Any]", json.loads(content[start:end]))
    if header["root"] != root or header["pack"] != digest:
        raise ValueError("it is of another folder or pack")
    reasons = cast("list[str]", header["reasons"])
    files: dict[str, Entry] = {}
    position = end + 1
    while position < len(content):
        name_bytes, digest_bytes, reason, stamp_bytes = _LENGTHS.unpack_from(content, position)
        position += _LENGTHS.size
        stamp, position = content[position : position + stamp_bytes], position + stamp_bytes
        name, position = content[position : position + name_bytes], position + name_bytes
        known, position = content[position : position + digest_bytes], position + digest_bytes
        files[os.fsdecode(name)] = Entry(stamp, known, reasons[reason])
    return files


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
