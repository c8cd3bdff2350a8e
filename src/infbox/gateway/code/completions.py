"""Completions and fill-in-the-middle with a workspace.

The prompt stands behind the same prefix as a chat's messages: the header of the system turn, then the pack. One prefix
is then warm for both; a model that completes code does so behind a header of three tokens as well as without.

With `suffix` the request is fill-in-the-middle in a repository, written as the model's family was trained on it
(`infbox.pack.formats`); vLLM itself refuses `suffix`. Which family it is the engine's own tokenizer tells: its markers
are one token each. `X-Infbox-Path` says which file is being written.
"""

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import cast

from starlette.datastructures import Headers

from infbox.gateway.code.passing import EngineCalls
from infbox.gateway.code.splice import Place, impossible, refuse_fields
from infbox.gateway.code.template import Template
from infbox.pack.formats import FORMATS, Marker, Part, PlainFormat, format_for

PATH_HEADER = "x-infbox-path"
UNNAMED = "untitled"
MAX_PATH = 512
# Texts that are control tokens in one tokenizer or another.
LIKE_CONTROL = re.compile(
    r"<\|[^|<>\n]{1,64}\|>|</?s>|</?think>|</?tool_(?:call|response)>|"
    + "|".join(sorted({re.escape(name) for family in FORMATS for name in family.markers}))
)
MAX_PIECES = 2048


class Completer:
    """Places completions of the engine that runs now; remembers its family for as long as it is that engine."""

    def __init__(self, calls: EngineCalls) -> None:
        self._calls = calls
        self._family: tuple[Template, PlainFormat, dict[str, int]] | None = None

    async def place(self, template: Template, request: dict[str, object], headers: Headers) -> Place:
        """A completion request's ids, and where among them the pack stands.

        Raises:
            EngineRefusal: the engine does not take the text.
            Refusal: 400 for what cannot be had together with a workspace; or the engine is down.
        """
        refuse_fields(request)
        prompt = _single(request.get("prompt"))
        suffix = request.get("suffix")
        if suffix is None or suffix == "":
            if not isinstance(prompt, str):
                return Place(template.header, prompt)
            (ids,) = await self._tokens(template, [prompt])
            return Place(template.header, ids)
        if not isinstance(prompt, str) or not isinstance(suffix, str):
            raise impossible("With 'suffix' the prompt and the suffix must be text.")
        return Place(template.header, await self._fim(template, _path(headers), prompt, suffix))

    async def _fim(self, template: Template, path: str, prefix: str, suffix: str) -> list[int]:
        family, markers = await self._markers(template)
        parts = family.fim(path, prefix, suffix)
        if parts is None:
            raise impossible("This model's family has no tokens for filling in the middle: 'suffix' cannot be used.")
        texts, order = _pieces(parts)
        if len(texts) > MAX_PIECES:
            raise impossible("The prompt and the suffix spell out too many control tokens.")
        tokens = iter(await self._tokens(template, texts))
        return [id for piece in order for id in ([markers[piece.token]] if isinstance(piece, Marker) else next(tokens))]

    async def _tokens(self, template: Template, texts: list[str]) -> list[list[int]]:
        """The ids of each text; an empty one has none, which the engine would not have as a prompt."""
        asked = iter(await self._calls.tokens(template.model, [text for text in texts if text]))
        return [next(asked) if text else [] for text in texts]

    async def _markers(self, template: Template) -> tuple[PlainFormat, dict[str, int]]:
        if self._family is None or self._family[0] is not template:
            names = sorted({name for family in FORMATS for name in family.markers})
            ids = dict(zip(names, await self._calls.tokens(template.model, names), strict=True))
            markers = {name: found[0] for name, found in ids.items() if len(found) == 1}
            self._family = (template, format_for(markers), markers)
        return self._family[1], self._family[2]


def _single(prompt: object) -> str | list[int]:
    """The one prompt of a request."""
    if isinstance(prompt, list) and len(cast("list[object]", prompt)) == 1 and isinstance(prompt[0], str | list):
        prompt = cast("object", prompt[0])
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt and all(type(id) is int for id in cast("list[object]", prompt)):
        ids = cast("list[int]", prompt)
        if all(0 <= id < 2**31 for id in ids):
            return ids
    raise impossible("With a workspace 'prompt' must be one text, or one list of token ids.")


def _path(headers: Headers) -> str:
    """The file that is being written, as the client names it; one line of text, whatever the header holds."""
    raw = headers.get(PATH_HEADER, "").encode("latin-1")[:MAX_PATH].decode(errors="replace")
    return "".join(letter if letter.isprintable() else " " for letter in raw).strip() or UNNAMED


def _pieces(parts: Iterable[Part]) -> tuple[list[str], list[Marker | None]]:
    """The texts to tokenise, and the order of markers and texts (None).

    A text that spells out a control token is cut in the middle of it, so that it stays text: the file that is written
    may be one about control tokens.
    """
    texts: list[str] = []
    order: list[Marker | None] = []
    for part in parts:
        pieces = [part] if isinstance(part, Marker) else _cut(part)
        texts.extend(piece for piece in pieces if isinstance(piece, str))
        order.extend(piece if isinstance(piece, Marker) else None for piece in pieces)
    return texts, order


def _cut(text: str) -> list[str]:
    cuts = [0, *(found.start() + 2 for found in LIKE_CONTROL.finditer(text)), len(text)]
    return [text[begin:end] for begin, end in pairwise(cuts)]
