"""`.infbox-model.json`: what a fetched folder holds, so that the next boot tells at once whether it is whole."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from infbox.errors import ModelError

MANIFEST = ".infbox-model.json"


@dataclass(frozen=True)
class FileEntry:
    """One file: its size in bytes and the hexadecimal SHA-256 of its content."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A fetched model: MODEL_SOURCE as written, what it resolved to, and the files by path relative to the folder."""

    source: str
    revision: str
    files: dict[str, FileEntry]

    @property
    def total_bytes(self) -> int:
        return sum(entry.size for entry in self.files.values())


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of `folder`; None where there is none or it is no manifest (a half-written one is neither)."""
    try:
        raw: Any = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {
            str(path): FileEntry(size=int(entry["size"]), sha256=str(entry["sha256"]))
            for path, entry in cast(dict[str, Any], raw["files"]).items()
        }
        return Manifest(source=str(raw["source"]), revision=str(raw["revision"]), files=files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_manifest(folder: Path, source: str, revision: str) -> Manifest:
    """Hash the files under `folder`, less hidden ones, and write the manifest, synced before it takes its name."""
    found = (path for path in folder.rglob("*") if not path.relative_to(folder).parts[0].startswith("."))
    paths = sorted(path for path in found if path.is_file())
    files = {
        path.relative_to(folder).as_posix(): FileEntry(path.stat().st_size, sha256)
        for path, sha256 in zip(paths, _checksums(paths), strict=True)
    }
    manifest = Manifest(source=source, revision=revision, files=files)
    partial = folder / f"{MANIFEST}.partial"
    with partial.open("w", encoding="utf-8") as file:
        json.dump(asdict(manifest), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.chmod(0o644)
    partial.rename(folder / MANIFEST)
    return manifest


def size_faults(folder: Path, manifest: Manifest) -> list[str]:
    """One sentence for each file that is missing or has not its size; empty when all are right."""
    faults: list[str] = []
    for path, entry in manifest.files.items():
        try:
            size = (folder / path).stat().st_size
        except OSError:
            faults.append(f"{path} is missing")
            continue
        if size != entry.size:
            faults.append(f"{path} has {size:,} bytes instead of {entry.size:,}")
    return faults


def checksum_faults(folder: Path, manifest: Manifest) -> list[str]:
    """One sentence for each file whose content is not what was fetched. Reads everything."""
    paths = list(manifest.files)
    sums = _checksums([folder / path for path in paths])
    return [
        f"{path} has SHA-256 {found} instead of {manifest.files[path].sha256}"
        for path, found in zip(paths, sums, strict=True)
        if found != manifest.files[path].sha256
    ]


def _checksums(paths: list[Path]) -> list[str]:
    """The SHA-256 of each file, several at a time: hashing lets other threads run."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(sha256_of, paths))


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as fault:
        raise ModelError(f"{path} cannot be read: {fault.strerror}", "check the disk and the file's mode") from None
