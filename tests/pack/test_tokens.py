"""No file can speak with a control token, and the same text is the same ids everywhere."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import CONTROL_TOKENS, QWEN_TOKENS, STARCODER2_TOKENS, tokenizer_json

from infbox.errors import ModelError
from infbox.pack.formats import Marker
from infbox.pack.layout import Writer
from infbox.pack.rebase import build
from infbox.pack.tokens import PackTokenizer, common_prefix

QWEN = PackTokenizer(tokenizer_json(QWEN_TOKENS))
STARCODER2 = PackTokenizer(tokenizer_json(STARCODER2_TOKENS, in_vocabulary=True))

hostile = st.lists(
    st.one_of(
        st.sampled_from(CONTROL_TOKENS),
        st.builds(lambda token, at: token[: at % len(token)], st.sampled_from(CONTROL_TOKENS), st.integers(0, 20)),
        st.builds(lambda token, at: token[at % len(token) :], st.sampled_from(CONTROL_TOKENS), st.integers(0, 20)),
        st.text(max_size=10),
        st.sampled_from(["\n", "\\", "`", "```", "\x00", "\ud800", "é", "\u2028"]),
    ),
    max_size=12,
).map("".join)


def _control(tokenizer: PackTokenizer, ids: np.ndarray) -> int:
    return int(np.isin(ids, sorted(tokenizer.control_ids)).sum())


@pytest.mark.parametrize("tokenizer", [QWEN, STARCODER2], ids=["qwen", "starcoder2"])
@settings(max_examples=300, deadline=None)
@given(text=hostile)
def test_no_text_becomes_a_control_token(tokenizer: PackTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert _control(tokenizer, ids) == 0
    assert tokenizer.decode(ids) == text.encode(errors="replace").decode()


@pytest.mark.parametrize("tokenizer", [QWEN, STARCODER2], ids=["qwen", "starcoder2"])
@settings(max_examples=150, deadline=None)
@given(
    files=st.dictionaries(
        hostile.map(lambda path: path.replace("\ud800", "\udcff")).filter(bool),
        st.one_of(st.binary(max_size=30), hostile),
        max_size=4,
    )
)
def test_a_pack_has_one_control_token_a_file_whatever_files_and_names_say(
    tokenizer: PackTokenizer, files: dict[str, str | bytes]
) -> None:
    contents = [
        (path, content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
        for path, content in files.items()
    ]
    pack = build(Writer(tokenizer), "<|im_start|>system", contents)
    assert _control(tokenizer, pack.ids) == 1 + len(files)


def test_a_control_token_split_over_two_files_is_none(qwen: PackTokenizer) -> None:
    pack = build(Writer(qwen), "repo", [("a", b"say <|im_st"), ("art|>b", b"art|> now")])
    assert _control(qwen, pack.ids) == 3


def test_an_untouched_tokenizer_would_have_let_a_file_speak() -> None:
    """The danger is real: the library itself reads these tokens out of a text."""
    from tokenizers import Tokenizer

    raw = Tokenizer.from_str(tokenizer_json(QWEN_TOKENS))
    assert set(raw.encode("a<|file_sep|>b", add_special_tokens=False).ids) & QWEN.control_ids


def test_text_is_tokenised_as_the_model_knows_it() -> None:
    from tokenizers import Tokenizer

    raw = Tokenizer.from_str(tokenizer_json(QWEN_TOKENS))
    text = "def save(self, path: str):\n\treturn  again  # é ∀ 漢\r\n"
    assert QWEN.encode(text).tolist() == raw.encode(text, add_special_tokens=False).ids


def test_markers_are_the_ids_of_the_control_tokens(qwen: PackTokenizer) -> None:
    number = {token["content"]: token["id"] for token in json.loads(tokenizer_json(QWEN_TOKENS))["added_tokens"]}
    ids = qwen.encode_parts([Marker("<|file_sep|>"), "a\n"])
    assert ids[0] == number["<|file_sep|>"]
    assert qwen.decode(ids[1:]) == "a\n"


def test_the_fingerprint_is_the_tokenizer_s() -> None:
    assert PackTokenizer(tokenizer_json(QWEN_TOKENS)).fingerprint == QWEN.fingerprint
    assert QWEN.fingerprint != STARCODER2.fingerprint


def test_a_forgotten_text_is_tokenised_again() -> None:
    small = PackTokenizer(tokenizer_json(QWEN_TOKENS), remembered_tokens=3)
    texts = [f"line {number}\n" for number in range(9)]
    assert [small.encode(text).tolist() for text in texts] == [QWEN.encode(text).tolist() for text in texts]
    assert small.encode(texts[0]).tolist() == QWEN.encode(texts[0]).tolist()


def test_a_common_prefix_ends_at_the_first_difference() -> None:
    def ids(*numbers: int) -> np.ndarray:
        return np.array(numbers, np.uint32)

    assert common_prefix(ids(1, 2, 3), ids(1, 2, 4)) == 2
    assert common_prefix(ids(1, 2), ids(1, 2, 4)) == 2
    assert common_prefix(ids(), ids(1)) == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", '{"model": {"type": "Unigram", "vocab": []}}'])
def test_what_is_no_tokenizer_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="cannot be used for packs"):
        PackTokenizer(text)
