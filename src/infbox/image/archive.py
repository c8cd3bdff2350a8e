"""What a file with an image holds, before it is loaded: an archive of `docker save`, `podman save` or skopeo."""

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

from infbox.errors import ImageError

_HINT = "make it with `podman save --format docker-archive --output FILE NAME`, or with `docker save`"


def digests(path: Path) -> set[str]:
    """The digests that name the archive's images: of their configurations, and of their manifests where it has them.

    Raises:
        ImageError: it cannot be read, or is no archive of an image.
    """
    found: set[str] = set()
    try:
        with tarfile.open(path) as archive:
            names = set(archive.getnames())
            if "manifest.json" in names:
                found |= {_digest(_read(archive, each["Config"])) for each in _json(archive, "manifest.json")}
            if "index.json" in names:
                found |= _indexed(archive, _json(archive, "index.json"))
    except (OSError, tarfile.TarError, ValueError, KeyError, TypeError) as fault:
        raise ImageError(f"{path} cannot be read as an image's archive: {fault}", _HINT) from fault
    if not found:
        raise ImageError(f"{path} is no image's archive: it has neither manifest.json nor index.json", _HINT)
    return found


def _indexed(archive: tarfile.TarFile, index: dict[str, Any]) -> set[str]:
    """Of everything that an index names; what it names may be an index again."""
    found: set[str] = set()
    for each in index.get("manifests", []):
        digest = str(each["digest"])
        found.add(digest)
        try:
            inner = _json(archive, f"blobs/{digest.replace(':', '/')}")
        except KeyError:
            continue  # of another platform, and left out
        found |= _indexed(archive, inner)
        if "config" in inner:
            found.add(str(inner["config"]["digest"]))
    return found


def _json(archive: tarfile.TarFile, name: str) -> Any:
    return json.loads(_read(archive, name))


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file")
    return file.read()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
