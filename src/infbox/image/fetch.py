"""Bring the image that is wanted onto the box; know which one services run in, and which one last worked.

Three files of one line each, in FOLDER. `current`: services start in this one; it changes only once an image is here,
so that a mistake in a digest, or a registry that is away, leaves what runs as it is. `good`: the box answered with it.
`fetched`: the ids of what came to the box through here, which may be deleted when something newer is good.
"""

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from infbox.errors import ImageError
from infbox.image.archive import digests
from infbox.image.reference import Reference, how_to_pin
from infbox.image.store import FINAL, Image, Podman

FOLDER = Path("/var/lib/infbox/image")
SETTINGS = Path("/etc/infbox/image.env")
SERVICES = ("infbox-lmcache.service", "infbox-vllm.service")
PAUSES_SECONDS = (5.0, 15.0, 30.0, 60.0)


@dataclass(frozen=True)
class Settings:
    """What is wanted, and the file that it comes from instead of its registry."""

    reference: Reference
    archive: Path | None

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "Settings":
        """From IMAGE_REFERENCE and IMAGE_ARCHIVE.

        Raises:
            ImageError: the reference is none.
        """
        archive = environment.get("IMAGE_ARCHIVE", "")
        return cls(Reference.parse(environment.get("IMAGE_REFERENCE", "")), Path(archive) if archive else None)


class Records:
    """The files in `folder`."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder

    def read(self, name: str) -> str:
        """A file's text; empty if there is none."""
        try:
            return (self.folder / name).read_text().strip()
        except OSError:
            return ""

    def write(self, name: str, text: str) -> bool:
        """Make it a file's text, in full or not at all; returns whether it changed, and touches it only then."""
        if self.read(name) == text:
            return False
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        new = self.folder / f".{name}.new"
        new.write_text(text + "\n")
        new.rename(self.folder / name)
        return True


def fetch(settings: Settings, podman: Podman, records: Records, sleep: Callable[[float], None] = time.sleep) -> Image:
    """Have the image here, and have services run in it from their next start.

    Raises:
        ImageError: it cannot be had, or the archive holds another.
    """
    reference = settings.reference
    image = podman.find(reference.digest)
    if image is None:
        if settings.archive:
            _load(settings.archive, reference, podman)
        else:
            _pull(reference, podman, sleep)
        image = podman.find(reference.digest)
        if image is None:
            message = f"podman has fetched {reference}, and has no image of that digest"
            raise ImageError(message, how_to_pin(reference.name))
        records.write("fetched", "\n".join(sorted({*records.read("fetched").split(), image.id})))
    if records.write("current", str(reference)):
        podman.say(f"services run in {reference} from their next start")
    return image


def _load(archive: Path, reference: Reference, podman: Podman) -> None:
    held = digests(archive)
    if reference.digest not in held:
        said = " and ".join(sorted(held))
        hint = f"if it is the right file, set `vllm_image` to {reference.name}@{min(held)}"
        raise ImageError(f"`vllm_image_archive` {archive} holds {said}, and `vllm_image` is {reference.digest}", hint)
    if said := podman.load(archive):
        raise ImageError(f"{archive} cannot be loaded: {said}", "is the disk of /var/lib/containers full? `df -h`")


def _pull(reference: Reference, podman: Podman, sleep: Callable[[float], None]) -> None:
    said = ""
    for pause in (*PAUSES_SECONDS, None):
        said = podman.pull(reference)
        if not said:
            return
        if pause is None or any(word in said.lower() for word in FINAL):
            break
        podman.say(f"{said}; again in {pause:.0f} s")
        sleep(pause)
    raise ImageError(
        f"{reference} cannot be pulled: {said}",
        "is the digest right, and the registry reachable from the box? One that wants a login: `podman login` there; "
        "one that is out of reach: `vllm_image_archive`",
    )


def mark_good(podman: Podman, records: Records) -> bool:
    """The box answers with the current image: it is what to go back to. Others that were fetched are deleted."""
    current = records.read("current")
    if not current:
        raise ImageError("no image was fetched", "start infbox-image.service")
    changed = records.write("good", current)
    if changed and (image := podman.find(Reference.parse(current).digest)):
        for other in set(records.read("fetched").split()) - {image.id}:
            podman.remove(other)
        records.write("fetched", image.id)
    return changed


def roll_back(records: Records, settings: Path = SETTINGS, systemctl: str = "systemctl") -> str:
    """Have services run in the image that last worked; returns it, or nothing where the current one is it.

    What is wanted becomes that image too, until a playbook says otherwise; else the next boot would take the other.

    Raises:
        ImageError: the services do not come up with that image either.
    """
    good = records.read("good")
    if not good or good == records.read("current"):
        return ""
    lines = [f'IMAGE_REFERENCE="{good}"' if _names(line) else line for line in settings.read_text().splitlines()]
    new = settings.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write("\n".join(lines) + "\n")
    new.rename(settings)
    records.write("current", good)

    def ask(*words: str) -> int:
        return subprocess.run([systemctl, *words]).returncode  # noqa: S603

    units = [unit for unit in SERVICES if not ask("--quiet", "is-enabled", unit)]
    if ask("restart", *units):
        raise ImageError(f"with {good}, which worked before, they do not come up either", "journalctl -u infbox-vllm")
    return good


def _names(line: str) -> bool:
    return line.startswith("IMAGE_REFERENCE=")
