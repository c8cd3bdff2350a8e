"""Whatever is done to a workspace, in any order: what the watcher shows is what a fresh look shows.

`make soak` and INFBOX_SOAK=N run more.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from watched_box import Box, git, write

from infbox.pack.formats import shown_text
from infbox.pack.select import Exclusion, Selector

SOAK = int(os.environ.get("INFBOX_SOAK", "0"))

names = st.sampled_from(["a.py", "b.txt", "c.log", "ü x.py", "new\nline", ".hidden", "Makefile"])
folders = st.sampled_from(["", "src", "src/deep", "build", "lib", "x/y/z", "inner"])
patterns = st.sampled_from(["*.log", "build/", "!keep.log", "/src", "deep", "*", "!*/", "x/**", "lib/a.py", "", "#"])
texts = st.text(st.sampled_from("ab\n\0é"), max_size=30) | st.just("line\n" * 50)


class Edits(RuleBasedStateMachine):
    """Random edits of a repository, or of a folder that is none."""

    @initialize(is_repository=st.booleans())
    def begin(self, is_repository: bool) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="infbox-edits-"))
        self.root = self.folder / "work"
        self.root.mkdir()
        self.branches = 0
        if is_repository:
            git(self.root, "init", "-q")
        write(self.root, "a.py", "a\n")
        self.box = Box(self.folder / "box", self.root).start()

    def teardown(self) -> None:
        if hasattr(self, "box"):
            self.box.stop()
            shutil.rmtree(self.folder)

    def attempt(self, *words: str) -> None:
        """Git, whether or not it can do it now."""
        subprocess.run(["git", *words], cwd=self.root, capture_output=True, stdin=subprocess.DEVNULL)

    def place(self, folder: str, name: str) -> Path | None:
        """A place that can be written to, unless a file is where a folder would have to be."""
        place = self.root / folder / name
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            return None
        return None if place.is_dir() else place

    @rule(folder=folders, name=names, text=texts)
    def save(self, folder: str, name: str, text: str) -> None:
        if place := self.place(folder, name):
            place.write_text(text)

    @rule(folder=folders, name=names, text=texts)
    def save_by_rename(self, folder: str, name: str, text: str) -> None:
        if place := self.place(folder, name):
            temporary = place.with_name("tmp~")
            temporary.write_text(text)
            os.replace(temporary, place)

    @rule(folder=folders, name=names)
    def delete(self, folder: str, name: str) -> None:
        place = self.root / folder / name
        if place.is_file():
            place.unlink()

    @rule(folder=folders.filter(bool))
    def delete_tree(self, folder: str) -> None:
        if (self.root / folder).is_dir():
            shutil.rmtree(self.root / folder)

    @rule(one=folders.filter(bool), other=folders.filter(bool))
    def move_tree(self, one: str, other: str) -> None:
        source, aim = self.root / one, self.root / other
        if source.is_dir() and not aim.exists() and aim.parent.is_dir() and source not in aim.parents:
            source.rename(aim)

    @rule(folder=folders, name=names, other=folders)
    def move_file(self, folder: str, name: str, other: str) -> None:
        source, aim = self.root / folder / name, self.place(other, name)
        if source.is_file() and aim:
            source.rename(aim)

    @rule(folder=folders, name=names, outside=st.booleans())
    def link(self, folder: str, name: str, outside: bool) -> None:
        place = self.place(folder, name)
        if place and not place.exists() and not place.is_symlink():
            place.symlink_to("/etc/passwd" if outside else self.root)

    @rule(folder=folders, lines=st.lists(patterns, max_size=3), own=st.sampled_from([".gitignore", ".infboxignore"]))
    def ignore(self, folder: str, lines: list[str], own: str) -> None:
        if place := self.place(folder, own):
            place.write_text("\n".join(lines) + "\n")

    @rule(lines=st.lists(patterns, max_size=2))
    def exclude(self, lines: list[str]) -> None:
        if (self.root / ".git/info").is_dir():
            (self.root / ".git/info/exclude").write_text("\n".join(lines) + "\n")

    @rule(force=st.booleans())
    def commit(self, force: bool) -> None:
        self.attempt("add", "-A", *(["-f"] if force else []))
        self.attempt("commit", "-qm", "x")

    @rule()
    def branch(self) -> None:
        self.branches += 1
        self.attempt("checkout", "-qb", f"b{self.branches}")

    @rule(number=st.integers(0, 5))
    def checkout(self, number: int) -> None:
        self.attempt("checkout", "-qf", f"b{number}" if number else "main")

    @rule()
    def stash(self) -> None:
        self.attempt("stash", "-u")

    @rule(folder=folders, name=names)
    def untrack(self, folder: str, name: str) -> None:
        self.attempt("rm", "-qf", "--cached", f"{folder}/{name}".lstrip("/"))

    @rule(where=st.sampled_from(["", "inner", "src"]))
    def make_repository(self, where: str) -> None:
        if (self.root / where).is_dir():
            subprocess.run(["git", "init", "-q"], cwd=self.root / where, check=True, capture_output=True)

    @rule(where=st.sampled_from(["", "inner", "src"]))
    def unmake_repository(self, where: str) -> None:
        if (self.root / where / ".git").is_dir():
            shutil.rmtree(self.root / where / ".git")

    @rule()
    def restart(self) -> None:
        self.box.stop()
        self.box = Box(self.folder / "box", self.root).start()

    @rule()
    def lose_events(self) -> None:
        self.box.workspace.lost()

    @invariant()
    def it_shows_what_a_fresh_look_shows(self) -> None:
        if not hasattr(self, "box"):
            return
        shown = self.box.shown()
        fresh = Selector(self.root)
        listing = fresh.listing()
        assert set(self.box.workspace.files) == set(listing.files)
        assert self.box.workspace.tree.folders == set(listing.folders) | {""}
        read = {path: fresh.read(path) for path in listing.files}
        kept = {path: shown_text(content) for path, content in read.items() if not isinstance(content, Exclusion)}
        assert shown == kept


TestEdits = Edits.TestCase
TestEdits.settings = settings(
    max_examples=SOAK or 12,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=not SOAK,
    database=None,
)
