"""Rules that change, repositories inside, watches where they belong: git is the oracle."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from watched_box import Box, eventually, git, listed_by_git, write


def test_an_edited_ignore_file_drops_its_matches_and_gives_them_back(box: Box, repository: Path) -> None:
    write(repository, ".gitignore", "build/\nsrc/new*\n")
    write(repository, "src/new.py", "new\n")
    assert box.shown().keys() == listed_by_git(repository) == {"a.py", "src/b.py", ".gitignore"}
    write(repository, ".gitignore", "\n")
    assert box.shown().keys() == listed_by_git(repository)
    assert "build/out.py" in box.shown()
    write(repository, "build/deep/more.py", "more\n")
    assert "build/deep/more.py" in box.shown()
    write(repository, ".gitignore", "build/\n")
    assert box.shown().keys() == listed_by_git(repository)


def test_a_tracked_file_in_an_ignored_folder_is_followed(box: Box, repository: Path) -> None:
    git(repository, "add", "-f", "build/out.py")
    assert box.shown().keys() == listed_by_git(repository)
    write(repository, "build/out.py", "edited\n")
    write(repository, "build/other.py", "ignored\n")
    shown = box.shown()
    assert shown["build/out.py"] == "edited\n"
    assert shown.keys() == listed_by_git(repository)
    shutil.rmtree(repository / "build")
    assert box.shown().keys() == listed_by_git(repository)
    write(repository, "build/out.py", "again\n")
    assert box.shown()["build/out.py"] == "again\n"
    git(repository, "rm", "-qf", "--cached", "build/out.py")
    assert box.shown().keys() == listed_by_git(repository)


def test_excludes_of_the_repository_and_of_the_person(box: Box, repository: Path) -> None:
    write(repository, ".git/info/exclude", "src/\n")
    write(repository, "src/c.py", "untracked\n")
    assert box.shown().keys() == listed_by_git(repository)
    write(repository, ".git/info/exclude", "")
    assert "src/c.py" in box.shown()
    write(Path(os.environ["HOME"]), ".config/git/ignore", "c.py\n")
    eventually(lambda: box.shown().keys() == listed_by_git(repository))
    assert "src/c.py" not in box.shown()


def test_an_infboxignore_drops_tracked_files(box: Box, repository: Path) -> None:
    write(repository, ".infboxignore", "src/\n")
    assert "src/b.py" not in box.shown()
    (repository / ".infboxignore").unlink()
    assert "src/b.py" in box.shown()


def test_a_repository_inside_is_not_entered(box: Box, repository: Path) -> None:
    write(repository, "inner/file.py", "inner\n")
    assert "inner/file.py" in box.shown()
    git(repository / "inner", "init", "-q")
    git(repository / "inner", "add", ".")
    git(repository / "inner", "commit", "-qm", "inner")
    assert not any(path.startswith("inner/") for path in box.shown())
    shutil.rmtree(repository / "inner/.git")
    assert "inner/file.py" in box.shown()


def test_a_folder_that_becomes_a_repository(root: Path, make_box: Callable[..., Box]) -> None:
    write(root, ".gitignore", "*.log\n")
    write(root, "a.py", "a\n")
    write(root, "b.log", "b\n")
    box = make_box(root).start()
    assert box.shown().keys() == {".gitignore", "a.py"}
    git(root, "init", "-q")
    git(root, "add", "-f", "b.log")
    assert box.shown().keys() == listed_by_git(root) == {".gitignore", "a.py", "b.log"}
    shutil.rmtree(root / ".git")
    assert box.shown().keys() == {".gitignore", "a.py"}


def test_a_workspace_within_a_repository(repository: Path, make_box: Callable[..., Box]) -> None:
    box = make_box(repository / "src").start()
    assert box.shown().keys() == {"b.py"}
    write(repository, ".gitignore", "new.py\n")
    write(repository, "src/new.py", "new\n")
    write(repository, "src/other.py", "other\n")
    assert box.shown().keys() == {"b.py", "other.py"}


def test_an_ignored_tree_holds_no_watch(box: Box, repository: Path) -> None:
    before = box.watcher.watches.count(box.workspace)
    for number in range(300):
        write(repository, f"build/{number}/x.py", "x\n")
    box.pack()
    assert box.watcher.watches.count(box.workspace) == before
    assert box.workspace.tree.folders == {"", "src"}


def test_files_that_git_ignores_are_asked_about_once(box: Box, repository: Path, monkeypatch: object) -> None:
    write(repository, "noise.log", "0\n")
    box.pack()
    asked: list[object] = []
    selector = box.workspace.tree.selector
    taken = selector.taken
    selector.taken = lambda paths: asked.append(paths) or taken(paths)  # type: ignore[method-assign]
    for number in range(20):
        write(repository, "noise.log", f"{number}\n")
        box.pack()
    assert asked == []
