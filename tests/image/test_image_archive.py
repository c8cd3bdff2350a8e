"""An archive says which images it holds before gigabytes of it are unpacked."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from infbox.errors import ImageError
from infbox.image.archive import digests


def write(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def blobs(*contents: bytes) -> dict[str, bytes]:
    return {f"blobs/{digest(content).replace(':', '/')}": content for content in contents}


def test_one_of_docker_save_is_named_by_its_configuration(tmp_path: Path) -> None:
    config = b'{"architecture": "amd64"}'
    manifest = json.dumps([{"Config": "x.json", "RepoTags": None, "Layers": ["layer.tar"]}]).encode()
    path = write(tmp_path / "a.tar", {"layer.tar": b"-" * 5000, "x.json": config, "manifest.json": manifest})
    assert digests(path) == {digest(config)}


def test_one_of_oci_by_its_manifest_too_and_by_its_index(tmp_path: Path) -> None:
    config = b"{}"
    manifest = json.dumps({"config": {"digest": digest(config)}, "layers": []}).encode()
    other = f"sha256:{'9' * 64}"  # of a platform that was left out
    inner = json.dumps({"manifests": [{"digest": digest(manifest)}, {"digest": other}]}).encode()
    index = json.dumps({"manifests": [{"digest": digest(inner)}]}).encode()
    path = write(tmp_path / "a.tar", {"index.json": index, **blobs(config, manifest, inner)})
    assert digests(path) == {digest(config), digest(manifest), digest(inner), other}


@pytest.mark.parametrize("content", [None, b"no tar", b""])
def test_what_is_no_archive_is_said_to_be_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.tar"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.tar .*archive"):
        digests(path)


def test_another_tar_is_no_archive_of_an_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="neither"):
        digests(write(tmp_path / "a.tar", {"etc/passwd": b""}))
    with pytest.raises(ImageError, match="cannot be read"):
        digests(write(tmp_path / "a.tar", {"manifest.json": b"[{}]"}))
