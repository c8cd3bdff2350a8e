"""Text to token ids, so that no file can speak with the model's control tokens.

`PackTokenizer` holds a `tokenizer.json` twice: as it is, for the ids of our own markers, and without its added tokens,
for everything else. `encode_special_tokens` of the tokenizers library would not do: it leaves alone added tokens that
are not flagged as special, and Qwen's `<|file_sep|>`, `<|fim_prefix|>` and `<tool_call>` are such. In the second one
those strings are in no vocabulary, so no text can become their ids; `encode` checks that none does.

Tokens are remembered by content: xxh3-128 of the text; a tokenizer has its own memory.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import xxhash
from tokenizers import Tokenizer

from infbox.errors import ModelError
from infbox.pack.formats import FORMAT_VERSION, Marker, Part, PlainFormat, format_for

TokenIds = npt.NDArray[np.uint32]

# 64 MB of ids: several times the largest pack.
_REMEMBERED_TOKENS = 16_000_000
# Keys that put a space in front of a text; a segment begins in the middle of another text.
_PREFIXES: Mapping[str, object] = {"add_prefix_space": False, "prepend_scheme": "never"}


class PackTokenizer:
    """The tokenizer of one model, for packs.

    Attributes:
        format: how this model's family writes repositories.
        control_ids: the ids that only markers may have.
        fingerprint: of the tokenizer and of `FORMAT_VERSION`, in hexadecimal; the same on every machine.

    Raises:
        ModelError: the text is not a tokenizer.json, or its vocabulary cannot be taken apart from its control tokens.
    """

    def __init__(self, tokenizer_json: str, remembered_tokens: int = _REMEMBERED_TOKENS) -> None:
        try:
            parsed = cast("dict[str, Any]", json.loads(tokenizer_json))
            added = cast("list[dict[str, Any]]", parsed.get("added_tokens") or [])
            control = {str(token["content"]): int(token["id"]) for token in added if not _is_blank(token)}
            self._text = Tokenizer.from_str(json.dumps(_without(parsed, control)))
        except Exception as fault:  # the library raises bare Exception
            raise ModelError(
                f"the tokenizer cannot be used for packs: {fault}", "give a model's tokenizer.json"
            ) from None
        self.format: PlainFormat = format_for(control)
        self.control_ids = frozenset(control.values())
        self.fingerprint = xxhash.xxh3_128_hexdigest(f"{FORMAT_VERSION}\0{tokenizer_json}".encode())
        self._markers = {token: np.array([control[token]], np.uint32) for token in self.format.markers}
        largest = max((*control.values(), *self._text.get_vocab().values()), default=0)
        self._is_control = np.zeros(largest + 1, np.bool_)
        self._is_control[list(self.control_ids)] = True
        self._remembered: OrderedDict[bytes, TokenIds] = OrderedDict()
        self._room = remembered_tokens

    @classmethod
    def from_file(cls, path: Path) -> "PackTokenizer":
        """The tokenizer of a model's folder or of a `tokenizer.json`."""
        path = path / "tokenizer.json" if path.is_dir() else path
        try:
            return cls(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as fault:
            raise ModelError(f"{path} cannot be read: {fault}", "name a model's folder or its tokenizer.json") from None

    def encode(self, text: str) -> TokenIds:
        """The ids of a text in which nothing is a control token. Read-only."""
        # Half a surrogate pair is no character; a client's JSON can hold one.
        text = text.encode(errors="replace").decode()
        key = xxhash.xxh3_128_digest(text)
        ids = self._remembered.get(key)
        if ids is None:
            ids = np.array(self._text.encode(text, add_special_tokens=False).ids, np.uint32)
            if self._is_control[ids].any():
                raise ModelError("text became a control token", "this tokenizer.json cannot be used for packs")
            ids.setflags(write=False)
            self._remember(key, ids)
        else:
            self._remembered.move_to_end(key)
        return ids

    def encode_parts(self, parts: Iterable[Part]) -> TokenIds:
        """Markers as their ids, text as text, joined."""
        return join(self._markers[part.token] if isinstance(part, Marker) else self.encode(part) for part in parts)

    def decode(self, ids: TokenIds) -> str:
        """Text of ids that hold no control token; what the model reads, for tests and for people."""
        return self._text.decode(ids.tolist(), skip_special_tokens=False)

    def _remember(self, key: bytes, ids: TokenIds) -> None:
        self._remembered[key] = ids
        self._room -= ids.size
        while self._room < 0 and self._remembered:
            self._room += self._remembered.popitem(last=False)[1].size


def join(pieces: Iterable[TokenIds]) -> TokenIds:
    """Token ids one after the other, read-only."""
    joined = np.concatenate([np.empty(0, np.uint32), *pieces])
    joined.setflags(write=False)
    return joined


def common_prefix(one: TokenIds, other: TokenIds) -> int:
    """How many tokens two prompts share at their beginning; those need no prefill."""
    length = min(one.size, other.size)
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if different.size else length


def _is_blank(token: Mapping[str, Any]) -> bool:
    """Runs of white space that some families add for code; they say nothing to a model, and files may use them."""
    return not token.get("special") and not str(token["content"]).strip()


def _without(tokenizer: Mapping[str, Any], control: Mapping[str, int]) -> dict[str, Any]:
    """The same tokenizer.json as if it had no control tokens, and nothing put around or in front of a text."""
    model = cast("dict[str, Any]", tokenizer["model"])
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"its model is {model['type']}, and only BPE is known here")
    vocabulary = cast("dict[str, int]", model["vocab"])
    kept = {piece: number for piece, number in vocabulary.items() if piece not in control}
    # An unknown piece must not become a control token either; byte-level vocabularies have none.
    unknown = None if model.get("unk_token") in control else model.get("unk_token")
    added = cast("list[dict[str, Any]]", tokenizer.get("added_tokens") or [])
    blank = [token for token in added if _is_blank(token)]
    pieces = {
        "version": tokenizer.get("version", "1.0"),
        "added_tokens": blank,
        "normalizer": _plain_start(tokenizer.get("normalizer")),
        "pre_tokenizer": _plain_start(tokenizer.get("pre_tokenizer")),
        "decoder": tokenizer.get("decoder"),
        "model": {**model, "vocab": kept, "unk_token": unknown, "dropout": None},
    }
    return {**pieces, "truncation": None, "padding": None, "post_processor": None}


def _plain_start(part: Any) -> Any:
    """A normalizer or pre-tokenizer that adds nothing in front of a text."""
    if isinstance(part, list):
        steps = cast("list[Any]", part)
        return [_plain_start(step) for step in steps if not (isinstance(step, dict) and step.get("type") == "Prepend")]  # pyright: ignore[reportUnknownMemberType]
    if isinstance(part, dict):
        known = cast("dict[str, Any]", part)
        if known.get("type") == "Prepend":
            return None
        return {key: _PREFIXES.get(key, _plain_start(value)) for key, value in known.items()}
    return part
