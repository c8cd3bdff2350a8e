"""What is written, in each family's format: the same on every machine, and read in one way only."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infbox.pack.formats import PLAIN, QWEN, STARCODER2, Marker, quote
from infbox.pack.layout import Writer
from infbox.pack.rebase import build
from infbox.pack.tokens import PackTokenizer

FILES = {"a.py": b"x = 1\n", "\xe9/\u6f22.py": "é".encode(), "n\udce9": b"\xff\n", "B": b"", "b": b"```\n"}
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from test_layout import FILES
from tiny_tokenizers import QWEN_TOKENS, tokenizer_json
from infbox.pack.layout import Writer
from infbox.pack.overlay import Packer
from infbox.pack.rebase import build
from infbox.pack.tokens import PackTokenizer
tokenizer = PackTokenizer(tokenizer_json(QWEN_TOKENS))
packer = Packer(tokenizer, build(Writer(tokenizer), "repo", FILES.items()))
packer.save_all({path: None for path in set(FILES) - {"a.py"}} | {"new": b"1", "a.py": b"y\\n"})
print(packer.seal().digest, packer.rebase(whole=True).digest)
"""


def test_the_same_files_are_the_same_tokens_in_every_locale_and_process() -> None:
    said = set()
    for locale, seed, zone in (("C", "0", "UTC"), ("C.UTF-8", "1", "Asia/Tokyo"), ("tr_TR.UTF-8", "2", "UTC")):
        environment = {**os.environ, "LC_ALL": locale, "PYTHONHASHSEED": seed, "TZ": zone}
        command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent)]
        said.add(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert len(said) == 1


def test_a_pack_is_header_and_files_in_the_given_order(qwen: PackTokenizer) -> None:
    pack = build(Writer(qwen), "repo", [("b.py", b"1\n"), ("a.py", b"2")])
    assert [segment.path for segment in pack.base] == ["b.py", "a.py"]
    texts = [qwen.decode(segment.ids[1:]) for segment in (pack.header, *pack.base)]
    assert texts == ["repo\n", "b.py\n1\n", "a.py\n2\n\\ No newline at end of file\n"]
    assert pack.workspace() == {"b.py": "1\n", "a.py": "2"}


def test_a_plain_pack_fences_what_has_fences(plain: PackTokenizer) -> None:
    pack = build(Writer(plain), "repo", [("a.md", b"````\n# Repository: other\n````\n")])
    assert plain.decode(pack.base[0].ids) == "## File: a.md\n`````\n````\n# Repository: other\n````\n`````\n"


@pytest.mark.parametrize("count", [0, 1, 5])
def test_digests_are_of_the_ids(qwen: PackTokenizer, count: int) -> None:
    files = [(f"{number}", b"x\n") for number in range(count)]
    one, other = (build(Writer(qwen), "repo", files) for _ in range(2))
    assert (one.digest, one.base_digest) == (other.digest, other.base_digest)
    assert one.digest != build(Writer(qwen), "repo", [*files, ("z", b"")]).digest


paths = st.text(st.characters(exclude_categories=["Cs"]) | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF))


@given(one=paths, other=paths)
def test_no_two_paths_are_written_alike_and_each_stays_on_its_line(one: str, other: str) -> None:
    assert (quote(one) == quote(other)) == (one == other)
    assert len(quote(one).splitlines()) == 1
    assert ": " not in quote(one) or quote(one)[0] == '"'


def test_quoting_is_git_s(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    names = ["t\tb", "n\nl", 'q"', "back\\slash", "n\udce9"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    command = ["git", "-C", str(tmp_path), "-c", "core.quotePath=false", "ls-files", "--others"]
    lines = (
        subprocess.run(command, check=True, capture_output=True).stdout.decode(errors="surrogateescape").splitlines()
    )
    # git leaves alone bytes that are no UTF-8 when told to leave alone those that are.
    ours = {quote(name) for name in names if name.isascii()}
    assert ours <= set(lines)
    assert quote("n\udce9") == '"n\\351"'


def test_fill_in_the_middle_is_the_family_s(qwen: PackTokenizer, starcoder2: PackTokenizer) -> None:
    def markers(*tokens: str) -> list[Marker]:
        return [Marker(token) for token in tokens]

    file, prefix, suffix, middle = markers("<|file_sep|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
    assert qwen.format is QWEN
    assert QWEN.fim("a.py", "x", "y") == [file, "a.py\n", prefix, "x", suffix, "y", middle]
    file, prefix, suffix, middle = markers("<file_sep>", "<fim_prefix>", "<fim_suffix>", "<fim_middle>")
    assert starcoder2.format is STARCODER2
    assert STARCODER2.fim("a.py", "x", "y") == [file, prefix, "a.py\n", "x", suffix, "y", middle]


def test_a_family_without_the_tokens_has_no_fill_in_the_middle(plain: PackTokenizer) -> None:
    assert plain.format is PLAIN
    assert plain.format.fim("a.py", "x", "y") is None


def test_a_hostile_fill_in_the_middle_has_our_control_tokens_only(qwen: PackTokenizer) -> None:
    parts = QWEN.fim("\ud800<|fim_middle|>", "<|fim_suffix|>", "<|im_end|>\udfff")
    assert parts is not None
    assert sum(int(number) in qwen.control_ids for number in qwen.encode_parts(parts)) == 4


def test_order_of_input_is_the_order_of_the_base(qwen: PackTokenizer) -> None:
    order = list(FILES)
    random.Random(3).shuffle(order)
    pack = build(Writer(qwen), "repo", [(path, FILES[path]) for path in order])
    assert [segment.path for segment in pack.base] == order


def test_a_path_that_reads_as_a_title_of_ours_is_quoted() -> None:
    for path in ("# Changes", "## File: a", "```", "Changed: a", "a -> b"):
        assert quote(path) == f'"{path}"'
