"""Tokenizers for the tests of packs, small ones of our own (see `tiny_tokenizers`)."""

import pytest
from tiny_tokenizers import QWEN_TOKENS, SMOL_TOKENS, STARCODER2_TOKENS, tokenizer_json

from infbox.pack.tokens import PackTokenizer


@pytest.fixture(scope="session")
def qwen() -> PackTokenizer:
    return PackTokenizer(tokenizer_json(QWEN_TOKENS))


@pytest.fixture(scope="session")
def plain() -> PackTokenizer:
    return PackTokenizer(tokenizer_json(SMOL_TOKENS, in_vocabulary=True))


@pytest.fixture(scope="session")
def starcoder2() -> PackTokenizer:
    return PackTokenizer(tokenizer_json(STARCODER2_TOKENS, in_vocabulary=True))


@pytest.fixture(params=["qwen", "plain"])
def tokenizer(request: pytest.FixtureRequest) -> PackTokenizer:
    return request.getfixturevalue(request.param)
