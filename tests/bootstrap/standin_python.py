"""A stand-in for a build of python-build-standalone: this machine's own CPython, packed in the same layout.

uv takes it through its own list of downloads, with a checksum, as it takes the real ones.
"""

import hashlib
import io
import json
import platform
import sys
import tarfile
from pathlib import Path

PREFIX = Path(sys.base_prefix)
VERSION = platform.python_version()
LEFT_OUT = {"__pycache__", "config-3.11-x86_64-linux-gnu", "site-packages", "test", "idlelib", "tkinter", "turtledemo"}


def why_none() -> str:
    """Why this machine's CPython cannot stand in; empty if it can."""
    return "this machine's CPython is its distribution's, and cannot be moved" if Path("/usr") == PREFIX else ""


def member(path: Path, content: bytes) -> tuple[tarfile.TarInfo, io.BytesIO]:
    """A file as it goes into the archive. A shared libpython is looked for beside the program, wherever that is."""
    search, moved = f"{PREFIX}/lib".encode(), b"$ORIGIN/../lib"
    if content.startswith(b"\x7fELF") and len(search) >= len(moved):
        content = content.replace(search, moved.ljust(len(search), b"\0"))
    entry = tarfile.TarInfo(f"python/{path.relative_to(PREFIX)}")
    entry.size, entry.mode = len(content), path.stat().st_mode & 0o777
    return entry, io.BytesIO(content)


def pack(folder: Path, served_from: str) -> Path:
    """Write the archive and uv's list of it into `folder`, which the server will have as `served_from`."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = [path for path in sorted((PREFIX / "lib" / name).rglob("*")) if not LEFT_OUT & set(path.parts)]
    programs = [PREFIX / "bin" / name, *sorted((PREFIX / "lib").glob(f"lib{name}.so*"))]
    archive = folder / "python.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for path in [*programs, *library]:
            if path.is_file():
                tar.addfile(*member(path, path.read_bytes()))
    major, minor, patch = sys.version_info[:3]
    build = {
        "name": "cpython", "arch": {"family": platform.machine(), "variant": None}, "os": "linux", "libc": "gnu",
        "major": major, "minor": minor, "patch": patch, "prerelease": "", "variant": None, "build": "20260101",
        "url": f"file://{served_from}/{archive.name}", "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
    }  # fmt: skip
    (folder / "downloads.json").write_text(json.dumps({f"cpython-{VERSION}-linux-{platform.machine()}-gnu": build}))
    return folder
