"""Workspaces on a real file system, with real git and real inotify."""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from watched_box import Box, git, write
from watcher_program import Program

from infbox.watcher.watches import Kernel


@pytest.fixture(autouse=True)
def own_git(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's git configuration but the test's."""
    home = tmp_path_factory.mktemp("home")
    (home / ".gitconfig").write_text("[user]\nname = t\nemail = t@example.com\n[init]\ndefaultBranch = main\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty folder for a workspace."""
    place = tmp_path / "work"
    place.mkdir()
    return place


@pytest.fixture
def repository(root: Path) -> Path:
    """A git repository with a few files, one folder of which is ignored."""
    git(root, "init", "-q")
    write(root, "a.py", "one = 1\n")
    write(root, "src/b.py", "two = 2\n")
    write(root, ".gitignore", "build/\n*.log\n")
    write(root, "build/out.py", "made = True\n")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    return root


@pytest.fixture
def make_box(tmp_path: Path) -> Iterator[Callable[..., Box]]:
    """Boxes that end with the test. The state's folder is the same for all of a test."""
    made: list[Box] = []

    def make(*roots: Path, tokens: int | None = None, kernel: Kernel | None = None) -> Box:
        box = Box(tmp_path / "box", *roots, tokens=tokens, kernel=kernel)
        made.append(box)
        return box

    yield make
    for box in made:
        box.stop()


@pytest.fixture
def box(repository: Path, make_box: Callable[..., Box]) -> Box:
    """A watcher of `repository` that is ready."""
    return make_box(repository).start()


@pytest.fixture
def program(repository: Path, tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path / "box", repository)
    yield made
    made.end(signal.SIGKILL)
    shutil.rmtree(made.run_folder)
