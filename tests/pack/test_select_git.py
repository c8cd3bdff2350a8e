"""Generated trees and changes: what is selected is what git says, whatever the names, the patterns and the state.

The names of a tree are few, and its patterns are made of them, so that most rules meet something.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from workspaces import everything, git, listed_by_git

from infbox.pack.select import Selector

QUICK = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
NAMES = (
    "a",
    "b",
    "ab",
    "a.b",
    "A",
    "[a]",
    "a*",
    "!a",
    "#a",
    " a",
    "a ",
    "a\\b",
    "é",
    "\udcff",
    "a\nb",
    "-a",
    "a?",
    "**",
)
PIECES = ("*", "**", "?", "[ab]", "[!a]", "[a-", "[[:alpha:]]", "\\a", "\\", "a*", "*b", "?b", ".*", "a**b", "[]a]", "")


@dataclass
class Tree:
    """Every path of `names` to depth three is in it; `rules` are ignore files by folder."""

    names: list[str]
    rules: dict[str, str]
    infbox_rules: dict[str, str]
    ignore_case: bool

    def write(self, root: Path) -> None:
        folders = ["", *self.names, *(f"{one}/{two}" for one in self.names[:2] for two in self.names)]
        for folder in folders:
            (root / folder / "d").mkdir(parents=True)
        for place in (root / folder / inner / name for folder in folders for inner in ("", "d") for name in self.names):
            if not place.is_dir():
                place.touch()
        (root / "empty" / self.names[0] / "empty").mkdir(parents=True)
        for kind, rules in ((".gitignore", self.rules), (".infboxignore", self.infbox_rules)):
            for folder, text in rules.items():
                (root / folder / kind).write_bytes(os.fsencode(text))


@st.composite
def trees(draw: st.DrawFn, own_rules: bool = False) -> Tree:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=3, max_size=4, unique=True))
    piece = st.one_of(st.sampled_from([*names, "d"]), st.sampled_from(PIECES))
    body = st.lists(piece, min_size=1, max_size=3).map("/".join)
    start, end = (
        st.sampled_from(["", "", "", "!", "/", "!/", "\\"]),
        st.sampled_from(["", "", "", "/", " ", "\\ ", "/**"]),
    )
    line = st.one_of(st.tuples(start, body, end).map("".join), st.sampled_from(["", "# x", "!*/", "*", "!", "/"]))
    text = st.lists(line, min_size=1, max_size=5).map("\n".join)
    folders = st.sampled_from(["", "", names[0], f"{names[0]}/{names[1]}", "d"])
    rules = st.dictionaries(folders, text, min_size=1, max_size=3)
    return Tree(names, draw(rules), draw(rules) if own_rules else {}, draw(st.booleans()))


def made(tree: Tree, work: Callable[[Path], None]) -> None:
    """Work on a tree that is there for so long."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        root = Path(folder) / "workspace"
        root.mkdir()
        tree.write(root)
        work(root)


def not_ignored(root: Path, paths: list[str]) -> set[str]:
    """Which paths `git check-ignore` does not name, whether tracked or not."""
    asked = b"".join(b"./" + os.fsencode(path) + b"\0" for path in paths)
    named = git(root, "check-ignore", "-z", "--no-index", "--stdin", ask=asked).split(b"\0")
    return set(paths) - {os.fsdecode(name.removeprefix(b"./")) for name in named}


def test_a_folder_that_is_no_repository_has_the_files_it_has_as_one_on_20_000_queries() -> None:
    queries = 0

    def compare(root: Path) -> None:
        nonlocal queries
        files, folders = everything(root)
        listing, taken = Selector(root).listing(), Selector(root).taken([*files, *folders])
        git(root, "init", "-q")
        expected = listed_by_git(root)
        assert listing.files == expected
        assert listing.folders == sorted(["", *not_ignored(root, folders)], key=os.fsencode)
        assert taken == {*expected, *listing.folders} - {""}
        queries += len(files) + len(folders)

    @settings(QUICK, max_examples=220)
    @given(trees())
    def on_many(tree: Tree) -> None:
        made(tree, compare)

    on_many()
    assert queries >= 20_000


@settings(QUICK, max_examples=12)
@given(trees(), st.data())
def test_the_rule_that_explain_names_is_the_one_of_git_check_ignore(tree: Tree, data: st.DataObject) -> None:
    def compare(root: Path) -> None:
        git(root, "init", "-q")
        git(root, "config", "core.ignorecase", str(tree.ignore_case).lower())
        selector = Selector(root)
        paths = [path for some in everything(root) for path in some if os.path.basename(path) != ".gitignore"]
        for path in data.draw(st.lists(st.sampled_from(paths), min_size=4, max_size=4)):
            asked = b"./" + os.fsencode(path) + b"\0"
            answer = git(root, "check-ignore", "-z", "-v", "--stdin", ask=asked).split(b"\0")
            ignored = len(answer) > 1 and not answer[2].startswith(b"!")
            said = selector.explain(path)
            assert (said is not None) == ignored
            assert not said or said.rule == b":".join(answer[:3]).decode("utf-8", "backslashreplace")

    made(tree, compare)


@settings(QUICK, max_examples=20)
@given(trees(own_rules=True))
def test_an_infboxignore_leaves_out_what_it_would_as_a_gitignore(tree: Tree) -> None:
    def compare(root: Path) -> None:
        files, folders = everything(root)
        listing = Selector(root).listing()
        taken = Selector(root).taken([*files, *folders])
        by_git = not_ignored_of(root, [*files, *folders])
        own = Path(shutil.copytree(root, root.parent / "own", symlinks=True))
        for place in list(own.rglob(".gitignore")):
            place.unlink()
        for place in list(own.rglob(".infboxignore")):
            place.rename(place.with_name(".gitignore"))
        kept = by_git & not_ignored_of(own, [*files, *folders])
        assert set(listing.files) == kept & set(files)
        assert set(listing.folders) - {""} == kept & set(folders)
        assert taken == kept

    made(tree, compare)


def not_ignored_of(root: Path, paths: list[str]) -> set[str]:
    git(root, "init", "-q")
    return not_ignored(root, paths)


class Changes(RuleBasedStateMachine):
    """A repository under random change. One selector lives as long as it does, as a watcher's would."""

    path = st.lists(st.sampled_from(["a", "b", "d", "e"]), min_size=1, max_size=3).map("/".join)

    @initialize(part=st.booleans())
    def start(self, part: bool) -> None:
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
        self.top = self.folder / "workspace"
        self.root = self.top / "a" if part else self.top
        self.root.mkdir(parents=True)
        git(self.top, "init", "-q")
        self.selector = Selector(self.root)

    @rule(path=path)
    def write(self, path: str) -> None:
        with suppress(OSError):
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text("x")

    @rule(path=path)
    def make_folder(self, path: str) -> None:
        with suppress(OSError):
            (self.root / path).mkdir(parents=True)

    @rule(path=path)
    def remove(self, path: str) -> None:
        place = self.root / path
        with suppress(OSError):
            shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()

    @rule(path=path, to=path)
    def move(self, path: str, to: str) -> None:
        with suppress(OSError):
            (self.root / path).rename(self.root / to)

    @rule(path=path, to=st.sampled_from(["a", "../d", "/etc", "e/b", "."]))
    def link(self, path: str, to: str) -> None:
        with suppress(OSError):
            (self.root / path).symlink_to(to)

    @rule(
        folder=st.sampled_from(["", "a", "d", "a/b"]),
        lines=st.lists(st.sampled_from(["a", "b/", "d/b", "!e", "!a/", "/d", "*", "e"])),
    )
    def ignore(self, folder: str, lines: list[str]) -> None:
        with suppress(OSError):
            (self.root / folder / ".gitignore").write_text("\n".join(lines))

    @rule(name=st.sampled_from(["", "a", "b/", "*"]))
    def exclude(self, name: str) -> None:
        (self.top / ".git/info/exclude").write_text(name)

    @rule(path=path)
    def track(self, path: str) -> None:
        git(self.top, "add", "-f", "--", os.path.relpath(self.root / path, self.top), must=False)

    @rule(path=path)
    def forget(self, path: str) -> None:
        git(self.root, "rm", "-q", "-r", "--cached", "--ignore-unmatch", "--", path, must=False)

    @rule()
    def commit(self) -> None:
        git(self.top, "commit", "-qm", "x", "--allow-empty", must=False)

    @rule()
    def go_back(self) -> None:
        git(self.top, "checkout", "-qf", "HEAD~1", must=False)

    @rule(path=path)
    def start_a_repository_inside(self, path: str) -> None:
        place = self.root / path
        if os.path.realpath(place) == str(place) and place.is_dir():
            git(place, "init", "-q", must=False)

    @rule(path=path)
    def add_a_gitlink(self, path: str) -> None:
        inside = os.path.relpath(self.root / path, self.top)
        git(self.top, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},{inside}", must=False)

    @rule(value=st.sampled_from(["true", "false"]))
    def configure_case(self, value: str) -> None:
        git(self.top, "config", "core.ignorecase", value)

    @invariant()
    def what_is_taken_is_what_git_lists(self) -> None:
        if not hasattr(self, "root") or not self.root.is_dir():
            return
        files, folders = everything(self.root)
        taken = self.selector.taken([*files, *folders, ""])
        listing = Selector(self.root).listing()
        assert listing.files == listed_by_git(self.root)
        assert taken == {*listing.files, *listing.folders}

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


Changes.TestCase.settings = settings(QUICK, max_examples=20, stateful_step_count=25)
TestChanges = pytest.mark.filterwarnings("ignore")(Changes.TestCase)
