"""podman's images on this box. Every call of podman but the one that runs a service is here."""

import json
import shutil
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from infbox.errors import ImageError
from infbox.image.reference import Reference

STORE = Path("/var/lib/containers")
PROGRESS_SECONDS = 15.0
# What no further try would cure, as podman and registries say it.
FINAL = ("manifest unknown", "name unknown", "unauthorized", "denied", "no space left", "x509", "invalid reference")


@dataclass(frozen=True)
class Image:
    """`id`: the digest of its configuration without `sha256:`; `environment`: the variables that it sets."""

    id: str
    environment: dict[str, str]


class Podman:
    """`program` is podman; `say` tells the journal."""

    def __init__(self, program: str = "podman", say: Callable[[str], None] = print, store: Path = STORE) -> None:
        self.program, self.say, self.store = program, say, store

    def find(self, digest: str) -> Image | None:
        """The image that a digest names, by its manifest's or its configuration's; None if it is not here."""
        for each in self._told("image", "ls", "--all", "--format", "json"):
            named = {f"sha256:{each['Id']}", str(each.get("Digest", ""))}
            named |= {name.partition("@")[2] for name in strings(each.get("RepoDigests"))}
            if digest in named:
                return self._image(str(each["Id"]))
        return None

    def _image(self, id_: str) -> Image:
        """One that is here."""
        config = cast("dict[str, object]", self._told("image", "inspect", id_)[0].get("Config") or {})
        pairs = [line.partition("=") for line in strings(config.get("Env"))]
        return Image(id_, {name: value for name, _, value in pairs})

    def pull(self, reference: Reference) -> str:
        """Fetch it from its registry; returns what podman said when it failed, and nothing when it did not."""
        return self._slowly(f"pulling {reference}", "pull", str(reference))

    def load(self, archive: Path) -> str:
        """Take it from a file; returns as `pull` does."""
        return self._slowly(f"loading {archive}", "load", "--input", str(archive))

    def remove(self, id_: str) -> None:
        """Delete an image that nothing uses; one that is used stays."""
        subprocess.run([self.program, "image", "rm", id_], capture_output=True)  # noqa: S603

    def _slowly(self, what: str, *words: str) -> str:
        """Run podman, and tell meanwhile how much more is on the disk; layers are told by podman when they are done."""
        self.say(what)
        before = self._used()
        ended = threading.Event()

        def tell() -> None:
            waited = 0.0
            while not ended.wait(PROGRESS_SECONDS):
                waited += PROGRESS_SECONDS
                more = max(self._used() - before, 0) / 1e9
                self.say(f"{what}: {waited:.0f} s, {more:.1f} GB more on the disk")

        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            done = subprocess.run(  # noqa: S603
                [self.program, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
        except OSError as fault:
            raise ImageError(f"podman cannot be run: {fault}", "run role container_toolkit") from fault
        finally:
            ended.set()
            teller.join()
        if not done.returncode:
            return ""
        lines = [line.strip() for line in done.stderr.splitlines()]
        faults = [number for number, line in enumerate(lines) if line.startswith("Error")]
        return " ".join(lines[faults[-1] if faults else -1 :]) or f"status {done.returncode}"

    def _used(self) -> int:
        """Bytes in use on the disk of the images."""
        folder = next(path for path in (self.store, *self.store.parents) if path.exists())
        return shutil.disk_usage(folder).used

    def _told(self, *words: str) -> list[dict[str, object]]:
        return cast("list[dict[str, object]]", json.loads(self._ask(*words) or "[]"))

    def _ask(self, *words: str) -> str:
        try:
            done = subprocess.run([self.program, *words], capture_output=True, text=True)  # noqa: S603
        except OSError as fault:
            raise ImageError(f"podman cannot be run: {fault}", "run role container_toolkit") from fault
        if done.returncode:
            raise ImageError(f"`podman {' '.join(words)}` failed: {done.stderr.strip()[-400:]}", "run it by hand")
        return done.stdout


def strings(value: object) -> list[str]:
    """A list of JSON as strings; an absent one is empty."""
    return [str(each) for each in cast("list[object]", value or [])]
