"""When a file last changed is what `git log` says of it."""

import random
import subprocess
from pathlib import Path

import pytest

from infbox.pack.history import HistoryError, last_changes, oldest_first


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, "-C", str(folder), *words], capture_output=True, check=True)
    return done.stdout.decode(errors="surrogateescape")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    return tmp_path


def commit(folder: Path, **files: str | None) -> None:
    for name, text in files.items():
        (folder / name).unlink() if text is None else (folder / name).write_text(text)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message=x")


def by_git(folder: Path, path: str) -> int:
    """How many first-parent commits ago `git log` of this one path begins."""
    options = ("--first-parent", "--diff-merges=first-parent", "--format=%H", "--no-patch")
    latest = git(folder, "log", *options, "-1", "HEAD", "--", f":(literal){path}").strip()
    return int(git(folder, "rev-list", "--first-parent", "--count", f"{latest}..HEAD"))


def test_ages_are_those_of_git_log_over_random_histories(repository: Path) -> None:
    choice = random.Random(7)
    names = ["a", "b", "c d", "é", "n\nl", "-x", ":y", '"q"', "t\tb"]
    for number in range(25):
        commit(repository, **{name: f"{number} {name}\n" for name in choice.sample(names, 2)})
        if number % 6 == 5:
            git(repository, "checkout", "--quiet", "-b", f"side{number}", "HEAD~2")
            commit(repository, **{f"side{number}": "side\n"})
            git(repository, "checkout", "--quiet", "main")
            git(repository, "merge", "--quiet", "--no-ff", "--message=merge", f"side{number}")
    paths = [path for path in git(repository, "ls-files", "-z").split("\0") if path]
    assert len(paths) == 13
    assert last_changes(repository, paths) == {path: by_git(repository, path) for path in paths}


def test_a_file_that_was_only_renamed_is_as_old_as_before(repository: Path) -> None:
    commit(repository, a="some text\n")
    commit(repository, b="other\n")
    git(repository, "mv", "a", "z")
    commit(repository)
    assert last_changes(repository, ["z", "b"]) == {"z": 2, "b": 1}


def test_a_name_that_is_no_utf_8_is_known(repository: Path) -> None:
    commit(repository, **{"n\udce9": "x\n"})
    assert last_changes(repository, ["n\udce9"]) == {"n\udce9": 0}


def test_what_git_does_not_know_has_no_age_and_stands_last(repository: Path) -> None:
    commit(repository, a="1\n")
    commit(repository, b="1\n")
    ages = last_changes(repository, ["b", "new", "a"])
    assert ages == {"a": 1, "b": 0}
    assert oldest_first(["b", "new", "also", "a"], ages) == ["a", "b", "also", "new"]


def test_a_person_s_configuration_has_no_say(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(repository, a="1\n")
    for key, value in {
        "log.showSignature": "true",
        "color.ui": "always",
        "diff.renames": "copies",
        "core.pager": "false",
    }.items():
        git(repository, "config", key, value)
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert last_changes(repository, ["a"]) == {"a": 0}


def test_a_repository_without_commits_has_no_ages(repository: Path) -> None:
    assert last_changes(repository, ["a"]) == {}


def test_a_folder_that_is_no_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="cannot read the history"):
        last_changes(tmp_path, ["a"])
