"""Diffs are what `patch` and `git apply` take, and are applied as these apply them."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infbox.pack.diffs import PatchError, apply, unified

LINES = [
    "a\n",
    "b\n",
    "\n",
    "c\r\n",
    " d\n",
    "-e\n",
    "+f\n",
    "@@ -1 +1 @@\n",
    "\\ 9 more lines removed\n",
    "\x0c\n",
    "é\n",
]
texts = st.builds(
    lambda lines, end: "".join(lines) + end,
    st.lists(st.sampled_from(LINES), max_size=30),
    st.sampled_from(["", "", "end", "\\ No newline at end of file"]),
)
PATCH = ["patch", "--silent", "--force", "--binary", "--no-backup-if-mismatch", "file"]
GIT = ["git", "apply", "--unidiff-zero", "--whitespace=nowarn", "diff"]


@settings(max_examples=400, deadline=None)
@given(old=texts, new=texts, whole=st.booleans())
def test_a_diff_applied_to_the_old_text_is_the_new_text(old: str, new: str, whole: bool) -> None:
    assert apply(old, unified(old, new, whole=whole)) == new


@pytest.mark.parametrize("command", [PATCH, GIT], ids=["patch", "git"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old=texts.filter(bool), new=texts.filter(bool))
def test_other_programs_make_the_same_of_a_diff(tmp_path: Path, command: list[str], old: str, new: str) -> None:
    hunks = unified(old, new, whole=True)
    (tmp_path / "file").write_bytes(old.encode())
    diff = f"--- a/file\n+++ b/file\n{hunks}" if hunks else ""
    (tmp_path / "diff").write_bytes(diff.encode())
    if hunks:
        subprocess.run(command, cwd=tmp_path, input=diff.encode(), check=True, capture_output=True)
    assert (tmp_path / "file").read_bytes() == new.encode()


def test_equal_texts_have_no_diff() -> None:
    assert unified("a\nb", "a\nb") == ""


def test_one_line_of_context_stands_around_a_change() -> None:
    assert unified("1\n2\n3\n4\n5\n", "1\n2\nx\n4\n5\n") == "@@ -2,3 +2,3 @@\n 2\n-3\n+x\n 4\n"


def test_a_long_run_of_removed_lines_is_told_by_its_ends() -> None:
    old = "".join(f"{number}\n" for number in range(50))
    hunks = unified(old, "0\n49\n")
    assert hunks == "@@ -1,50 +1,2 @@\n 0\n-1\n-2\n\\ 45 more lines removed\n-48\n 49\n"
    assert apply(old, hunks) == "0\n49\n"


def test_a_diff_of_another_text_is_refused() -> None:
    hunks = unified("a\nb\nc\n", "a\nx\nc\n")
    with pytest.raises(PatchError, match="does not fit at line 2"):
        apply("a\nz\nc\n", hunks)


def test_very_long_texts_are_compared_in_bounded_time() -> None:
    old = "".join(f"{number * 7919 % 10_007}\n" for number in range(30_000))
    new = "".join(f"{number * 104_729 % 10_007}\n" for number in range(30_000))
    assert apply(old, unified(old, new)) == new
