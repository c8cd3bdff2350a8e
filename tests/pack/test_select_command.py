"""`infbox index files` and `infbox index explain` as people meet them."""

import os
from pathlib import Path

import pytest
from workspaces import git, write

from infbox.cli import main


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "workspace"
    write(root, **{".gitignore": "*.log\n", "a.py": "a = 1\n", "b.log": "", "sub/c.py": "", ".env": "", "bin": b"\0"})
    (root / "sub/link").symlink_to("../..")
    git(root, "init", "-q")
    monkeypatch.chdir(root)
    return root


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], str]:
    status = main(["index", *arguments])
    out, err = capsys.readouterr()
    return status, out.splitlines(), err


def test_files_lists_what_a_pack_may_hold_and_counts_the_rest(
    workspace: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    (workspace / "new\nline").touch()
    assert main(["index", "files"]) == 0
    out, err = capsysbinary.readouterr()
    assert out == b".gitignore\na.py\nnew\\nline\nsub/c.py\n"
    assert err == b"note: 2 more are left out; each says why: infbox index explain PATH\n"
    assert main(["index", "files", "-z", str(workspace / "sub")]) == 0
    assert capsysbinary.readouterr()[0] == b"c.py\0"


def test_explain_says_taken_or_the_reason_with_the_rule(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = ["a.py", "b.log", ".env", "bin", "sub/link/x", "nothing", "."]
    status, lines, err = said(capsys, "explain", *paths)
    assert (status, err) == (0, "")
    refused = "and links are never followed"
    assert lines == [
        "a.py: taken",
        "b.log: git ignores it (.gitignore:1:*.log)",
        ".env: its name says that it holds secrets (the name .env*)",
        "bin: it is binary: there is a NUL byte among its first 8,000",
        f"sub/link/x: it lies behind a symlink that leaves the workspace, {refused} (sub/link -> ../..)",
        "nothing: there is no such file",
        ".: taken",
    ]


def test_explain_finds_the_repository_around_a_path_from_anywhere(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace / "sub")
    assert said(capsys, "explain", "../b.log", "c.py")[1] == [
        "../b.log: git ignores it (.gitignore:1:*.log)",
        "c.py: taken",
    ]
    monkeypatch.chdir("/")
    assert said(capsys, "explain", str(workspace / "b.log"))[1][0].endswith("git ignores it (.gitignore:1:*.log)")


def test_links_above_the_workspace_are_no_fault_of_the_path(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace.parent / "also").symlink_to(workspace)
    assert said(capsys, "explain", str(workspace.parent / "also/a.py"))[1][0].endswith("also/a.py: taken")


def test_explain_in_a_folder_that_is_no_repository_takes_this_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, **{".gitignore": "x\n", "d/x": "", "d/y": ""})
    monkeypatch.chdir(tmp_path)
    assert said(capsys, "explain", "d/x", "d/y")[1] == ["d/x: git ignores it (.gitignore:1:x)", "d/y: taken"]


def test_a_path_outside_of_the_workspace_is_said_to_be(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines, _ = said(capsys, "explain", "--workspace", "sub", "a.py")
    assert (status, lines) == (0, ["a.py: it is no path in the workspace"])


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["files", "nowhere"], "the workspace 'nowhere' cannot be read: No such file or directory."),
        (["files", "a.py"], "the workspace 'a.py' cannot be read: Not a directory."),
        (["files", ".git"], "the workspace '.git' is git's own folder, or in it."),
        (["explain", ""], "'' names no file."),
        (["explain", "a\0b"], "'a\\x00b' names no file."),
        (["explain", "--workspace", "nowhere", "a.py"], "the workspace 'nowhere' cannot be read"),
    ],
)
def test_bad_input_is_a_clear_error(
    workspace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], fault: str
) -> None:
    status, _, err = said(capsys, *arguments)
    assert status == 1
    assert err.startswith(f"error: {fault}")
    assert "hint: " in err


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5", "²"])
def test_a_limit_that_is_none_is_wrong_usage(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["index", "files", "--max-file-bytes", number])
    assert ended.value.code == 2
    assert "no number of bytes above 0" in capsys.readouterr().err


def test_without_git_the_error_says_what_to_install(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    status, _, err = said(capsys, "files")
    assert status == 1
    assert "apt-get install git" in err
