"""A watcher with its workspaces, and what tests do to them."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tiny_tokenizers import QWEN_TOKENS, tokenizer_json

from infbox.pack.layout import Pack
from infbox.pack.tokens import PackTokenizer
from infbox.watcher.service import Watcher
from infbox.watcher.settings import Settings, WorkspaceSettings
from infbox.watcher.watches import Kernel
from infbox.watcher.workspace import Workspace

TOKENIZER_JSON = tokenizer_json(QWEN_TOKENS)
SOON_SECONDS = 20.0


def git(root: Path, *words: str) -> str:
    command = ["git", "-c", "protocol.file.allow=always", *words]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def write(root: Path, path: str, text: str | bytes) -> None:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(text if isinstance(text, bytes) else text.encode())


def eventually(check: Callable[[], object], seconds: float = SOON_SECONDS) -> None:
    """Wait until `check` is true; how long it takes is not what a test is about."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


def write_walk(root: Path) -> None:
    """A file that makes a workspace too large for a new base with each save."""
    steps = ("forth", "back", "left", "right", "up", "down")
    write(root, "walk.py", "".join(f"def {one}_{other}():\n    return walk\n" for one in steps for other in steps))


class Box:
    """A watcher with one workspace, or several."""

    def __init__(self, folder: Path, *roots: Path, tokens: int | None = None, kernel: Kernel | None = None) -> None:
        self.folder = folder
        self.settings = Settings(
            socket=folder / "watcher.sock",
            state_dir=folder / "state",
            model=folder,
            pack_tokens=tokens,
            workspaces=tuple(WorkspaceSettings(root.name, "t", root) for root in roots),
        )
        self.tokenizer = PackTokenizer(TOKENIZER_JSON)
        self.watcher = Watcher(self.settings, kernel=kernel, tokenizer=self.tokenizer)
        self.name = roots[0].name

    def start(self, *, wait: bool = True) -> "Box":
        self.watcher.start()
        if wait:
            eventually(lambda: all(each.state != "indexing" for each in self.watcher.workspaces.values()))
        return self

    def stop(self) -> None:
        self.watcher.stop()

    @property
    def workspace(self) -> Workspace:
        return self.watcher.workspaces["t", self.name]

    def pack(self) -> Pack:
        return self.watcher.pack("t", self.name)

    def shown(self) -> dict[str, str]:
        return self.pack().workspace()


def listed_by_git(root: Path) -> set[str]:
    """The oracle: regular files that git tracks or would take."""
    said = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root, check=True, capture_output=True
    ).stdout
    names = {os.fsdecode(name) for name in said.split(b"\0") if name}
    return {name for name in names if (root / name).is_file() and not (root / name).is_symlink()}
