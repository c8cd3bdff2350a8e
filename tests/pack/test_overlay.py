"""Whatever is saved, deleted, renamed and rebased: a pack reads as the files, and a save only appends."""

from pathlib import PurePosixPath

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tiny_tokenizers import QWEN_TOKENS, SMOL_TOKENS, tokenizer_json

from infbox.pack.budget import is_machine_written
from infbox.pack.formats import shown_text
from infbox.pack.layout import Pack, Writer
from infbox.pack.overlay import Packer
from infbox.pack.rebase import Rules, build, rebase
from infbox.pack.tokens import PackTokenizer

QWEN = PackTokenizer(tokenizer_json(QWEN_TOKENS))
PLAIN = PackTokenizer(tokenizer_json(SMOL_TOKENS, in_vocabulary=True))

LINES = [
    "def save():\n",
    "    return\n",
    "\n",
    "\r\n",
    "@@ -1 +1 @@\n",
    "-gone\n",
    "+new\n",
    "\\ No newline at end of file\n",
]
contents = (
    st.lists(st.sampled_from([*LINES, "<|file_sep|>x\n", "é\n", "last"]), max_size=12).map("".join).map(str.encode)
)
paths = st.sampled_from(["a", "b/c", "b/d e", "uv.lock", "n\udce9\n", "Changed: a", "# Changes", "z"])


def is_prefix(one: Pack, other: Pack) -> bool:
    return one.tokens <= other.tokens and bool((one.ids == other.ids[: one.tokens]).all())


class Workspace(RuleBasedStateMachine):
    """Edits of files, followed by a packer; the files themselves are the oracle."""

    tokenizer = QWEN
    pack_rules = Rules(overlay_fraction=0.1, overlay_minimum_tokens=60)

    @initialize(files=st.dictionaries(paths, contents))
    def start(self, files: dict[str, bytes]) -> None:
        self.files = dict(files)
        self.packer = Packer(
            self.tokenizer, build(Writer(self.tokenizer), "r", files.items(), self.pack_rules), self.pack_rules
        )
        self.sealed = self.packer.pack
        self.begun: Pack | None = None
        self.exposed = [self.sealed]

    @rule(path=paths, content=contents)
    def save(self, path: str, content: bytes) -> None:
        self.files[path] = content
        self.packer.save(path, content)

    @rule(path=paths, line=st.sampled_from(LINES))
    def add_a_line(self, path: str, line: str) -> None:
        self.save(path, self.files.get(path, b"") + line.encode())

    @rule(path=paths)
    def delete(self, path: str) -> None:
        self.files.pop(path, None)
        self.packer.save(path, None)

    @rule(old=paths, new=paths)
    def rename(self, old: str, new: str) -> None:
        if old in self.files:
            content = self.files.pop(old)
            self.files[new] = content
            self.packer.save_all({old: None, new: content} if old != new else {new: content})

    @rule()
    def request(self) -> None:
        before, self.sealed = self.sealed, self.packer.seal()
        assert self.sealed.version >= before.version
        assert self.sealed.version != before.version or self.sealed.digest == before.digest
        self.keeps_to_prefixes()
        self.reads_as_the_files(self.sealed)

    def keeps_to_prefixes(self) -> None:
        """Of all packs ever exposed: the same base digest, so a prefix."""
        for earlier in self.exposed:
            assert earlier.base_digest != self.packer.pack.base_digest or is_prefix(earlier, self.packer.pack)
        self.exposed.append(self.packer.pack)

    @rule(whole=st.booleans())
    def rebase(self, whole: bool) -> None:
        version = self.packer.pack.version
        rebased = self.packer.rebase(whole)
        assert rebased.version > version
        self.reads_as_the_files(rebased)
        assert not (whole and rebased.overlay)
        self.sealed = rebased
        self.keeps_to_prefixes()

    @precondition(lambda self: self.begun is None)
    @rule()
    def begin_a_rebase(self) -> None:
        self.begun = self.packer.pack

    @precondition(lambda self: self.begun is not None)
    @rule(whole=st.booleans())
    def end_the_rebase(self, whole: bool) -> None:
        assert self.begun is not None
        self.packer.swap(rebase(self.packer.writer, self.begun, self.pack_rules, whole=whole))
        self.begun = None
        self.sealed = self.packer.pack
        self.request()

    @invariant()
    def base_and_overlay_are_the_pack(self) -> None:
        pack = self.packer.pack
        assert pack.base_tokens + pack.overlay_tokens == pack.tokens == pack.ids.size
        budget = self.pack_rules.budget_tokens
        assert budget is None or pack.tokens <= budget

    def reads_as_the_files(self, pack: Pack) -> None:
        texts = {path: shown_text(content) for path, content in self.files.items()}
        assert {path: text for path, text in texts.items() if not is_machine_written(path, text)} == pack.workspace()
        assert set(pack.omitted) == texts.keys() - pack.workspace().keys()


class PlainWorkspace(Workspace):
    tokenizer = PLAIN


class SmallWorkspace(Workspace):
    """With a budget that does not hold all files: what is shown is right, and every file is shown or named."""

    pack_rules = Rules(overlay_minimum_tokens=60, budget_tokens=220)

    def reads_as_the_files(self, pack: Pack) -> None:
        texts = {path: shown_text(content) for path, content in self.files.items()}
        shown = pack.workspace()
        assert shown == {path: texts[path] for path in shown}
        assert shown.keys() | pack.omitted.keys() == texts.keys()
        assert not shown.keys() & pack.omitted.keys()


_settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestWorkspace = Workspace.TestCase
TestPlainWorkspace = PlainWorkspace.TestCase
TestSmallWorkspace = SmallWorkspace.TestCase
TestWorkspace.settings = TestPlainWorkspace.settings = TestSmallWorkspace.settings = _settings


def packer(files: dict[str, str]) -> Packer:
    pack = build(Writer(QWEN), "repo", [(path, text.encode()) for path, text in files.items()])
    return Packer(QWEN, pack, Rules())


def entries(pack: Pack) -> list[tuple[str, str]]:
    return [(segment.kind, segment.path) for segment in pack.overlay if segment.kind != "note"]


BODY = "".join(f"line {number}\n" for number in range(40))


def test_a_save_appends_a_diff() -> None:
    kept = packer({"a.py": BODY, "b.py": "x\n"})
    before = kept.pack
    kept.save("a.py", BODY.replace("line 7\n", "line seven\n").encode())
    after = kept.seal()
    assert is_prefix(before, after)
    assert after.base_digest == before.base_digest
    assert entries(after) == [("changed", "a.py")]
    assert "-line 7\n+line seven\n" in QWEN.decode(after.ids[before.tokens + 1 :])


def test_saves_between_two_requests_coalesce_and_an_undone_one_costs_nothing() -> None:
    kept = packer({"a.py": BODY})
    before = kept.pack
    kept.save("a.py", b"other")
    kept.save("a.py", BODY.encode())
    assert not kept.pending
    assert kept.seal() is before


def test_the_order_of_events_has_no_say() -> None:
    changes = {"b.py": b"x = 1\n", "a.py": b"y\n", "new": b"z\n"}
    packs = []
    for order in (list(changes), list(reversed(changes))):
        kept = packer({"a.py": BODY, "b.py": BODY})
        for path in order:
            kept.save(path, changes[path])
        packs.append(kept.seal())
    assert packs[0].digest == packs[1].digest


def test_a_rewritten_file_is_shown_whole() -> None:
    kept = packer({"a.py": BODY})
    kept.save("a.py", b"short\n")
    assert entries(kept.seal()) == [("file", "a.py")]


def test_a_moved_file_is_a_rename_with_its_diff() -> None:
    kept = packer({"a.py": BODY})
    kept.save_all({"a.py": None, "b/a.py": (BODY + "more\n").encode()})
    pack = kept.seal()
    assert entries(pack) == [("renamed", "b/a.py")]
    assert pack.workspace() == {"b/a.py": BODY + "more\n"}


def test_lock_files_are_named_and_never_shown() -> None:
    kept = packer({"a.py": BODY, "uv.lock": BODY})
    assert kept.pack.omitted == {"uv.lock": ""}
    kept.save("uv.lock", b"other\n")
    kept.save("web/yarn.lock", b"more\n")
    pack = kept.seal()
    assert entries(pack) == [("omitted", "")]
    assert set(pack.omitted) == {"uv.lock", "web/yarn.lock"}


def test_a_deleted_file_that_was_only_named_is_no_longer_named() -> None:
    kept = packer({"a.py": BODY, "uv.lock": BODY})
    kept.save("uv.lock", None)
    assert entries(kept.seal()) == [("deleted", "uv.lock")]
    assert not kept.pack.omitted


def test_a_save_during_a_rebase_is_not_lost() -> None:
    kept = packer({"a.py": BODY, "b.py": BODY})
    kept.save("a.py", (BODY + "one\n").encode())
    begun = kept.seal()
    kept.save("b.py", b"two\n")
    kept.seal()
    kept.save("c.py", b"three\n")
    kept.swap(rebase(kept.writer, begun, kept.rules, whole=True))
    assert kept.seal().workspace() == {"a.py": BODY + "one\n", "b.py": "two\n", "c.py": "three\n"}
    assert kept.pack.version > begun.version + 1


@pytest.mark.parametrize("count", [300])
def test_many_new_and_lost_files_are_one_update(count: int) -> None:
    kept = packer({f"old/{number}.py": f"{number}\n" * 3 for number in range(count)})
    kept.save_all(dict.fromkeys((f"old/{number}.py" for number in range(count)), None))
    kept.save_all({str(PurePosixPath("new", f"{number}.py")): b"%d\n" % number * 3 for number in range(count)})
    pack = kept.seal()
    assert {kind for kind, _ in entries(pack)} == {"renamed"}
    assert np.array_equal(pack.ids[: pack.base_tokens], packer_base(count))


def packer_base(count: int) -> np.ndarray:
    return packer({f"old/{number}.py": f"{number}\n" * 3 for number in range(count)}).pack.ids
