#!/usr/bin/env python3
"""Hosts whose engine runs in a container, and its image: the CPU engine, as `docker save` writes images.

    hosts/engine_image.py up NAME --folder F --inventory I    what `hosts/host.py up` does, with such an inventory

No image of vLLM for processors is among what tests can count on, so this is one of Debian's root filesystem, as a test
host has it, and the environment that role `vllm` would make. It is made once, 4 GB, and kept in the cache.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import host

ROOT = host.HERE.parent
BUILD = ROOT / "roles/vllm/files/cpu"
FOLDER = host.CACHE / "images"
NAME = "localhost/infbox-engine"
# Where a host finds the folder.
IN_HOST = Path("/var/cache/infbox/images")
LAYERS = ["root.tar", "engine.tar"]
MAKE = """
apt-get -qq install --no-install-recommends libnuma1 >/dev/null
cp -r "$BUILD" /tmp/build
"$UV" venv --quiet --relocatable --python /usr/bin/python3 "$WORK/opt/engine"
install() { "$UV" pip install --quiet --python "$WORK/opt/engine/bin/python" --no-deps "$@"; }
install --require-hashes --requirements /tmp/build/requirements.txt
install --no-build-isolation $INDEX "torch==$TORCH" /tmp/build
rm -rf /tmp/build
"""


@dataclass(frozen=True)
class Archive:
    """`digest`: of the image's configuration, which podman and Docker call its id."""

    path: Path
    digest: str

    def variables(self) -> dict[str, object]:
        """Role variables with which a host runs engine and LMCache's daemon in it."""
        return {
            "vllm_runtime": "container",
            "vllm_image": f"{NAME}@{self.digest}",
            "vllm_image_size_gb": 10,
            "vllm_image_archive": str(IN_HOST / self.path.name),
            "lmcache_l1_size_gib": 1,
            "vllm_cpu_kvcache_space_gib": 1,
        }


def make(suite: str, package_folders: list[str]) -> Archive:
    """The archive, made if there is none of this content yet."""
    base = host.image(suite)
    defaults = (ROOT / "roles/vllm/defaults/main.yml").read_text()
    torch = re.search(r"^vllm_torch_version: (\S+)$", defaults, re.MULTILINE)
    index = re.search(r"^vllm_torch_index_url: (\S+)$", defaults, re.MULTILINE)
    if not torch or not index:
        raise host.HostError("roles/vllm/defaults/main.yml names no torch.\n\nhint: mend hosts/engine_image.py")
    content = hashlib.sha256(f"{base} {torch[1]} {MAKE}".encode())
    for name in ("requirements.txt", "pyproject.toml"):
        content.update((BUILD / name).read_bytes())
    path = FOLDER / f"engine-{content.hexdigest()[:12]}.tar"
    if not path.exists():
        print("making the engine's image (once, a few minutes)", file=sys.stderr)
        uv = (ROOT / ".build/uv/bin/uv").resolve()
        if not uv.exists():
            raise host.HostError(f"there is no {uv}.\n\nhint: make setup")
        FOLDER.mkdir(parents=True, exist_ok=True)
        work = FOLDER / "work"
        shutil.rmtree(work, ignore_errors=True)
        (work / "opt").mkdir(parents=True)
        settings = {
            "WORK": str(work), "BUILD": str(BUILD), "UV": str(uv), "TORCH": torch[1], "UV_SYSTEM_CERTS": "true",
            "UV_CACHE_DIR": str(host.UV_CACHE), "UV_FIND_LINKS": " ".join(package_folders),
            "INDEX": "" if package_folders else f"--index={index[1]}",
        }  # fmt: skip
        make_layers(base, work, settings, package_folders)
        pack(work, path)
        shutil.rmtree(work)
    for other in FOLDER.glob("engine-*"):
        if other != path:
            other.unlink()
    with tarfile.open(path) as archive:
        first = archive.extractfile("manifest.json")  # as pack() wrote it
        named = json.load(first)[0]["Config"] if first else ""
    return Archive(path, f"sha256:{named.removesuffix('.json')}")


def make_layers(base: str, work: Path, settings: dict[str, str], package_folders: list[str]) -> None:
    """Make the image's layers: a root filesystem, and the environment, until then of hard links into the cache."""
    name = "infbox-engine-image"
    host.podman("rm", "--force", "--ignore", name)
    volumes = [f"--volume={path}:{path}:ro" for path in (settings["BUILD"], settings["UV"], *package_folders)]
    host.podman(
        "run", f"--name={name}", f"--volume={host.CACHE}:{host.CACHE}", *volumes, "--pull=never",
        *(f"--env={key}={value}" for key, value in settings.items()), base, "sh", "-euc", MAKE,
    )  # fmt: skip
    host.podman("export", "--output", str(work / LAYERS[0]), name)
    host.podman("rm", name)
    owner = ("--owner=0", "--group=0", "--format=pax")
    host.run("tar", "--create", "--file", str(work / LAYERS[1]), *owner, "-C", str(work), "opt")


def pack(work: Path, path: Path) -> None:
    """Write what `docker save` would: the list first, then the configuration, then the layers."""
    digests: list[str] = []
    for name in LAYERS:
        with (work / name).open("rb") as file:
            digests.append(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/opt/engine/bin:/usr/local/bin:/usr/bin:/bin"], "Entrypoint": ["vllm", "serve"]},
        "rootfs": {"type": "layers", "diff_ids": digests},
    }
    text = json.dumps(config).encode()
    named = f"{hashlib.sha256(text).hexdigest()}.json"
    (work / named).write_bytes(text)
    (work / "manifest.json").write_text(json.dumps([{"Config": named, "RepoTags": [], "Layers": LAYERS}]))
    new = path.with_suffix(".new")
    host.run("tar", "--create", "--file", str(new), "-C", str(work), "manifest.json", named, *LAYERS)
    os.rename(new, path)


def up(name: str, suite: str, folder: Path, inventory: Path, group: str) -> None:
    """Start a host with the archive, and write an inventory by which its engine runs in the image."""
    host.require_root()
    with host.one_at_a_time():
        host.prepare_machine()
        archive = make(suite, host.local_package_folders())
    # Images do not lie on a container's own layers: those are an overlay already.
    facts = host.up(name, suite, folder, volumes=["/var/lib/containers", f"{FOLDER}:{IN_HOST}:ro"])
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        # As on this machine itself: crun, which podman brings, refuses the hybrid hierarchy.
        host.podman("exec", name, "apt-get", "-qq", "install", "--no-install-recommends", "runc")
    host.write_inventory(inventory, facts, group, **archive.variables())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["up"])
    parser.add_argument("name")
    parser.add_argument("--suite", default=host.os_release().get("VERSION_CODENAME"), help="release of the host")
    parser.add_argument("--folder", type=Path, required=True, help="where its SSH key and host key go")
    parser.add_argument("--inventory", type=Path, required=True, help="where an inventory of it goes")
    parser.add_argument("--group", default="cpu", help="its preset's group in that inventory")
    options = parser.parse_args()
    try:
        up(options.name, options.suite, options.folder.absolute(), options.inventory, options.group)
    except host.HostError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
