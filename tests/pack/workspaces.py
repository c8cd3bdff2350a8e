"""Workspaces for tests, and git's own answer about them: the oracle of `infbox.pack.select`."""

import os
import subprocess
from pathlib import Path

IDENTITY = ("-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "protocol.file.allow=always")


def git(root: Path, *arguments: str, ask: bytes = b"", must: bool = True) -> bytes:
    """What git prints in a folder. With `must` it has to succeed; that it finds nothing is no failure."""
    command = ["git", *IDENTITY, "-c", "init.defaultBranch=main", *arguments]
    done = subprocess.run(command, cwd=root, input=ask, capture_output=True)
    assert not must or not done.returncode or not done.stderr, done.stderr.decode()
    return done.stdout


def write(root: Path, **files: str | bytes) -> None:
    """Files by name; `__` in a keyword stands for nothing special: give paths as `**{"a/b": "text"}`."""
    for name, content in files.items():
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)


def listed_by_git(root: Path) -> list[str]:
    """The regular files that `git ls-files -co --exclude-standard` names, as `Listing.files` has them."""
    names = git(root, "ls-files", "-z", "-c", "-o", "--exclude-standard").split(b"\0")
    top = os.fsencode(root)
    kept = {name for name in names if name and _is_regular(top, name)}
    return [os.fsdecode(name) for name in sorted(kept)]


def _is_regular(top: bytes, name: bytes) -> bool:
    """Without following a link anywhere on the way."""
    place = os.path.join(top, name)
    return os.path.isfile(place) and os.path.realpath(place) == os.path.join(os.path.realpath(top), name)


def everything(root: Path) -> tuple[list[str], list[str]]:
    """All files and all folders below a root, whatever they are; the names of `.git` and what is in it are left out."""
    files, folders = list[str](), list[str]()
    for place, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name != ".git"]
        folders += [os.path.relpath(os.path.join(place, name), root) for name in inner]
        files += [os.path.relpath(os.path.join(place, name), root) for name in names]
    return files, folders
