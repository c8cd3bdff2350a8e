"""What is shown where not all fits: the most useful files whole, what the others define, never more than the budget."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import QWEN_TOKENS, tokenizer_json

from infbox.pack import symbols
from infbox.pack.budget import choose, is_machine_written, is_test, rank
from infbox.pack.layout import Pack, Writer
from infbox.pack.overlay import Packer
from infbox.pack.rebase import Rules, build
from infbox.pack.symbols import outline, outlines
from infbox.pack.tokens import PackTokenizer

QWEN = PackTokenizer(tokenizer_json(QWEN_TOKENS))
WRITER = Writer(QWEN)
names = st.text("abcdef/", min_size=1, max_size=12)


def built(files: dict[str, str], budget: int | None) -> Pack:
    rules = Rules(budget_tokens=budget)
    return build(WRITER, "repo", [(path, text.encode()) for path, text in files.items()], rules)


@settings(max_examples=150, deadline=None)
@given(files=st.dictionaries(names, st.text("ab \n", max_size=400), max_size=12), budget=st.integers(40, 900))
def test_no_pack_is_over_its_budget_and_every_file_is_shown_or_named(files: dict[str, str], budget: int) -> None:
    pack = built(files, budget)
    assert pack.tokens <= budget
    shown = pack.workspace()
    assert shown.items() <= files.items()
    assert shown.keys() | pack.omitted.keys() == files.keys()


@settings(max_examples=60, deadline=None)
@given(saves=st.lists(st.tuples(names, st.text("ab \n", max_size=600)), max_size=25), budget=st.integers(100, 500))
def test_no_save_takes_a_pack_over_its_budget(saves: list[tuple[str, str]], budget: int) -> None:
    packer = Packer(QWEN, built({}, budget), Rules(budget_tokens=budget))
    for path, text in saves:
        packer.save(path, text.encode())
        assert packer.seal().tokens <= budget


def test_without_a_budget_all_is_shown() -> None:
    files = {f"{number}.py": "x = 1\n" * 200 for number in range(30)}
    assert built(files, None).workspace() == files


def test_tests_give_way_first_and_recent_central_small_files_last() -> None:
    texts = {
        "old_and_unused.py": "pass\n" * 50,
        "large.py": "pass\n" * 4_000,
        "helpers.py": "pass\n" * 50,
        "tests/test_a.py": "pass\n",
        "uses.py": "import helpers\n" * 50,
        "also_uses.py": "import helpers\n" * 50,
    }
    tokens = {path: len(text) for path, text in texts.items()}
    ranking = rank(texts, tokens)
    assert ranking[-1] == "tests/test_a.py"
    assert ranking.index("helpers.py") < ranking.index("old_and_unused.py") < ranking.index("large.py")
    assert choose(ranking, tokens, tokens["helpers.py"]) >= {ranking[0]}


def test_files_without_room_are_listed_with_what_they_define() -> None:
    files = {"large.py": "class Selector:\n    pass\n\ndef read():\n    pass\n" + "x = 1\n" * 3_000, "a.py": "x = 1\n"}
    pack = built(files, 900)
    assert set(pack.workspace()) == {"a.py"}
    assert pack.omitted == {"large.py": "Selector, read()"}
    assert "large.py: Selector, read()\n" in QWEN.decode(pack.base[-1].ids[1:])


def test_more_names_than_there_is_room_for_are_counted() -> None:
    pack = built({f"folder/{number}.txt": "x" * 900 for number in range(300)}, 2_000)
    said = QWEN.decode(pack.base[-1].ids[1:])
    assert f"({len(pack.omitted)} in all)" in said
    assert 0 < said.count(".txt") < 100


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("uv.lock", ""),
        ("web/package-lock.json", "{}"),
        ("go.sum", ""),
        ("app.min.js", "x"),
        ("requirements.txt", "a==1 --hash=sha256:" + "0123456789abcdef" * 200),
        ("logo.svg", '<path d="' + "M12.3 45.6 78.9c" * 300 + '"/>'),
        ("bundle.js", "var a=b;" * 1_000),
    ],
)
def test_what_programs_write_for_programs_is_machine_written(path: str, text: str) -> None:
    assert is_machine_written(path, text)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("lock.py", "x = 1\n" * 900),
        ("uv.lock.md", "# uv.lock\n"),
        ("notes.md", ("word " * 100 + "\n") * 40),
        ("small.csv", "1,2,3\n" * 20),
    ],
)
def test_what_people_write_is_not(path: str, text: str) -> None:
    assert not is_machine_written(path, text)


def test_tests_are_known_by_their_customs() -> None:
    yes = ["tests/x.py", "pkg/test_x.py", "x_test.go", "x.spec.ts", "conftest.py", "__tests__/a.js"]
    no = ["contest.py", "latest.py", "src/testing_ground.py", "attest/x.py"]
    assert [path for path in yes + no if is_test(path)] == yes


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("a.py", "import os\n@dec\nclass A:\n    def m(self): ...\nasync def f(): ...\n", "A, f()"),
        ("a.ts", "export interface I {}\nexport default class C<T> {}\nnamespace N { export class D {} }", "I, C, D"),
        ("a.tsx", "export function App() { return <div/> }", "App()"),
        ("a.js", "export class Q {}; function* g() {}", "Q, g()"),
        ("a.go", "package m\ntype S struct{}\nfunc F() {}\nfunc (s *S) M() {}\n", "S, F(), M()"),
        ("a.rs", "pub struct S; impl S { fn m(&self){} } pub fn f() {} mod t { enum E {} }", "S, f(), E"),
        ("A.java", "public class A { void m(){} } interface I {}", "A, I"),
        ("a.c", "#ifdef X\nint *f(int a) { return 0; }\n#endif\nstruct s { int a; };\n", "f(), s"),
        ("a.cpp", "namespace n { template<class T> class C {}; int f() {return 1;} }", "C, f()"),
        ("a.rb", "module M\nend\ndef top; end", "M, top()"),
        ("a.php", "<?php\nnamespace A;\nfunction f() {}\nclass C {}", "f(), C"),
        ("a.txt", "class A: pass", ""),
        ("a.py", "", ""),
        ("a.py", "\0\ud800 ((( def", ""),
    ],
)
def test_an_outline_names_what_stands_at_the_top(path: str, text: str, said: str) -> None:
    assert outline(path, text) == said


def test_hostile_files_have_no_outline_and_harm_no_other_file() -> None:
    hostile = {
        "deep.py": "(" * 100_000,
        "ambiguous.cpp": "a<b<" * 30_000,
        "nul.rs": "\0" * 100_000,
        "open.py": '"""' * 40_000,
        "huge.py": "x = 1\n" * 100_000,
    }
    found = outlines({**hostile, "good.py": "class A: ...\n"})
    assert found == {**dict.fromkeys(hostile, ""), "good.py": "A"}


def test_a_file_that_kills_its_parser_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    dies_of_b = "import json, sys\nfor line in sys.stdin:\n [path, _] = json.loads(line)\n path == 'b.py' and exit()\n"
    dies_of_b += " print(json.dumps('said'), flush=True)"
    child = symbols.Child([sys.executable, "-c", dies_of_b])
    monkeypatch.setattr(symbols, "_CHILD", child)
    assert outlines({"a.py": "", "b.py": "", "c.py": ""}) == {"a.py": "said", "b.py": "", "c.py": "said"}
    assert outlines({"d.py": ""}) == {"d.py": "said"}


def test_a_parser_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbols, "_CHILD", symbols.Child(["sleep", "infinity"]))
    monkeypatch.setattr(symbols, "_TIMEOUT_SECONDS", 0.1)
    assert outlines({"a.py": "x" * 100_000, "b.py": ""}) == {"a.py": "", "b.py": ""}
