"""A podman that holds what a test gives it and remembers what it was asked; the real one is in molecule's scenario."""

import json
from pathlib import Path

from infbox.image.store import Podman

ID = "a" * 64
DIGEST = f"sha256:{'b' * 64}"
IMAGE = {"Id": ID, "Digest": DIGEST, "RepoDigests": [f"docker.io/vllm/vllm-openai@sha256:{'c' * 64}"], "Names": []}
FAKE = """#!/bin/sh
cd {folder}
echo "$*" >>asked
case "$1 $2" in
"image ls") cat images ;;
"image inspect") echo '[{{"Config": {{"Env": ["PATH=/venv/bin:/usr/bin", "PYTHONPATH=/plugins"]}}}}]' ;;
"image rm") ;;
*) if [ -s faults ]; then head -1 faults >&2; sed -i 1d faults; exit 125; fi
   cp fetched images ;;
esac
"""


class FakePodman(Podman):
    """`folder` holds what it has, what a pull or a load brings, and the faults that these end with first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        program = folder / "podman"
        program.write_text(FAKE.format(folder=folder))
        program.chmod(0o755)
        self.holds([])
        self.would_fetch([IMAGE])
        super().__init__(str(program), self.said.append, folder)

    def holds(self, images: list[dict[str, object]]) -> None:
        (self.folder / "images").write_text(json.dumps(images))

    def would_fetch(self, images: list[dict[str, object]]) -> None:
        (self.folder / "fetched").write_text(json.dumps(images))

    def fails(self, *faults: str) -> None:
        (self.folder / "faults").write_text("".join(f"{fault}\n" for fault in faults))

    def asked(self, word: str) -> list[str]:
        asked = self.folder / "asked"
        return [line for line in asked.read_text().splitlines() if word in line] if asked.exists() else []
