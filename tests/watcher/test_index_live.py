"""`infbox index status` and `show`, against the real program."""

import json
from pathlib import Path

import pytest
from watched_box import git, write, write_walk
from watcher_program import Program

from infbox.cli import main
from infbox.commands.index_live import progress


def infbox(program: Program, *words: str) -> int:
    return main(["index", *words, "--socket", str(program.socket)])


def test_status_is_for_people_and_as_json(
    program: Program,
    repository: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program.start()
    write(repository, "bin.dat", b"\0")
    program.pack()
    assert infbox(program, "status") == 0
    said = capsys.readouterr().out
    assert "t/work" in said
    assert "4, 3 of them for the pack" in said
    assert "it is binary" in said
    assert infbox(program, "status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["workspaces"][0]["files"] == 4


def test_show_prints_what_the_model_reads(
    program: Program,
    repository: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_walk(repository)
    program.start()
    git(repository, "mv", "a.py", "moved.py")
    assert infbox(program, "show") == 0
    said = capsys.readouterr().out
    assert said.startswith("<|repo_name|>work\n")
    assert "<|file_sep|>src/b.py\ntwo = 2\n" in said
    assert "Renamed: a.py -> moved.py" in said
    assert infbox(program, "show", "t/work") == infbox(program, "show", "work") == 0
    assert infbox(program, "show", "other") == 1
    assert "give one of: t/work" in capsys.readouterr().err


def test_without_a_watcher_it_says_whom_to_look_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "status", "--socket", str(tmp_path / "none.sock")]) == 1
    assert "systemctl status infbox-watcher" in capsys.readouterr().err


def test_progress_is_a_bar() -> None:
    assert progress(0, 0) == "listing files"
    assert progress(50, 100) == f"[{'#' * 15}{'.' * 15}] 50 of 100 files"
    assert "2,000 of 2,000" in progress(2000, 2000)
