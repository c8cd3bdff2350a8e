"""The tokenizer inside a GGUF file → tokenizer.json, tokenizer_config.json and chat_template.jinja.

A GGUF file carries vocabulary, merges and token types, but names its pre-tokenizer only by a word. A wrong guess
gives a model that works and is quietly worse, so a word not in `PRE_TOKENIZERS` is refused.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence
from tokenizers.processors import TemplateProcessing

from infbox.errors import ModelError

WAY_OUT = "name the original model with `model_source: hf:ORG/NAME`, or a Hugging Face folder with `folder:/path`"

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' "
    "+ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# `tokenizer.ggml.pre` → the pre-tokenizer of the models that llama.cpp gives that name
PRE_TOKENIZERS: dict[str, Callable[[], PreTokenizer]] = {
    "gpt-2": lambda: ByteLevel(add_prefix_space=False, use_regex=True),
    "smollm": lambda: Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]),
}

_CONTROL, _USER_DEFINED = 3, 4  # gguf.TokenType


class _Adding(Protocol):
    def add_special_tokens(self, tokens: list[AddedToken]) -> int: ...
    def add_tokens(self, tokens: list[AddedToken]) -> int: ...


def build_tokenizer(name: str, metadata: dict[str, Any]) -> Tokenizer:
    """The tokenizer that the metadata of the GGUF file `name` describes.

    Raises:
        ModelError: it is not a byte-level BPE, or its pre-tokenizer is not a known one.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise ModelError(f"{name} has a {kind!r} tokenizer; only 'gpt2' (byte-level BPE) is converted", WAY_OUT)
    pre = metadata.get("tokenizer.ggml.pre")
    if pre not in PRE_TOKENIZERS:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise ModelError(f"{name} names the pre-tokenizer {pre!r}; only these are converted: {known}", WAY_OUT)
    try:
        tokens: list[str] = metadata["tokenizer.ggml.tokens"]
        merges = [_merge(line) for line in metadata["tokenizer.ggml.merges"]]
    except (KeyError, ValueError) as fault:
        raise ModelError(f"{name} has no usable vocabulary and merges: {fault}", WAY_OUT) from None
    types: list[int] = metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    tokenizer = Tokenizer(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre]()
    tokenizer.decoder = ByteLevelDecoder()
    adding = cast(_Adding, tokenizer)  # the library's stubs leave the lists' type open
    pairs = list(zip(tokens, types, strict=True))
    adding.add_special_tokens([_added(token, special=True) for token, kind in pairs if kind == _CONTROL])
    adding.add_tokens([_added(token, special=False) for token, kind in pairs if kind == _USER_DEFINED])
    if metadata.get("tokenizer.ggml.add_bos_token"):
        bos = int(metadata["tokenizer.ggml.bos_token_id"])
        template = f"{tokens[bos]} $A"
        tokenizer.post_processor = TemplateProcessing(
            single=template, pair=f"{template} $B:1", special_tokens=[(tokens[bos], bos)]
        )
    return tokenizer


def write_tokenizer(name: str, metadata: dict[str, Any], folder: Path) -> list[str]:
    """Write the tokenizer's files into `folder`. Returns remarks for the journal."""
    remarks: list[str] = []
    build_tokenizer(name, metadata).save(str(folder / "tokenizer.json"))
    template = metadata.get("tokenizer.chat_template")
    if not template:
        template = CHATML
        remarks.append(f"{name} carries no chat template: ChatML is used")
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": bool(metadata.get("tokenizer.ggml.add_bos_token", False)),
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(metadata.get(f"{metadata.get('general.architecture')}.context_length", 0)) or None,
        "chat_template": template,
    }
    for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if token is not None and 0 <= token < len(tokens):
            config[f"{role}_token"] = tokens[token]
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return remarks


def _merge(line: str) -> tuple[str, str]:
    """`Ġ t` → ("Ġ", "t")"""
    left, right = line.split(" ")
    return left, right


def _added(token: str, *, special: bool) -> AddedToken:
    """A token that is matched in the text as it stands, before anything else."""
    return AddedToken(token, special=special, normalized=False)
