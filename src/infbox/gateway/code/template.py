"""Where in the engine's prompts a pack's place is: directly behind the header of the system turn.

In front of the client's system text, and so in front of the tools, which many templates write into the system turn: one
prefix is then the same for every client. For Qwen's template the header is `<|im_start|>system` and a newline. It is
found by asking: the ids that the prompts of two conversations, different from their first letter on, have in common.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from infbox.engine_probe import MODELS_PATH, Ask
from infbox.gateway.code.passing import EngineCalls, EngineRefusal, field_of, ids_of
from infbox.gateway.engine import broken

METRICS_PATH = "/metrics"
BLOCK_SIZE = re.compile(rb'^vllm:cache_config_info\{[^}\n]*\bblock_size="([0-9]{1,6})"', re.MULTILINE)
Conversation = list[dict[str, object]]
PROBES: tuple[Conversation, ...] = (
    [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}],
    [{"role": "system", "content": "Z"}, {"role": "user", "content": "Y"}],
)
# What a stand-in must leave alone where it stands in front of a text.
BEGINNINGS = ("a", "\na", " a", "\n\n a")


@dataclass(frozen=True)
class StandIn:
    """A control token that can hold the pack's place in a text: what is written, and its id."""

    text: str
    id: int


@dataclass(frozen=True)
class Template:
    """What is known of the engine that runs now. `context_tokens` is 0 where it does not say.

    block_tokens: how many tokens are a block of its prefix cache, which holds whole blocks only; 1 if it does not say.
    """

    model: str
    context_tokens: int
    header: tuple[int, ...]
    stand_in: StandIn | None
    has_system: bool
    block_tokens: int = 1


class Templates:
    """The template of the engine that runs now: asked for once an engine start, which is a new socket at its path."""

    def __init__(self, calls: EngineCalls, socket_path: Path) -> None:
        self._calls = calls
        self._socket_path = socket_path
        self._known: tuple[tuple[int, ...], Template] | None = None
        self._asking = asyncio.Lock()

    def generation(self) -> tuple[int, ...]:
        """What differs between one start of the engine and the next; () while it is down."""
        try:
            seen = self._socket_path.stat()
        except OSError:
            return ()
        return (seen.st_dev, seen.st_ino, seen.st_ctime_ns)

    async def current(self) -> Template:
        """The template, asked for if the engine is another one than last time.

        Raises:
            Refusal: the engine is down or does not answer as one should.
        """
        async with self._asking:
            generation = self.generation()
            if self._known is None or self._known[0] != generation:
                self._known = (generation, await self._ask())
            return self._known[1]

    async def _ask(self) -> Template:
        model, context_tokens = await self._model()
        has_system, (first, second) = True, PROBES
        try:
            rendered = [await self._render(model, probe) for probe in PROBES]
        except EngineRefusal:  # some templates have no system turn and say so
            has_system, (first, second) = False, ([PROBES[0][1]], [PROBES[1][1]])
            rendered = [await self._render(model, probe) for probe in (first, second)]
        header = common(*rendered)
        stand_in = await self._stand_in(model, first, header)
        return Template(model, context_tokens, tuple(header), stand_in, has_system, await self._block_tokens())

    async def _model(self) -> tuple[str, int]:
        answer = await self._calls.engine.ask(Ask("GET", MODELS_PATH))
        models = field_of(answer.json(), "data")
        first = cast("list[object]", models)[0] if isinstance(models, list) and models else None
        name, context = field_of(first, "id"), field_of(first, "max_model_len")
        if answer.status != 200 or not isinstance(name, str):
            raise broken(f"The engine answered {answer.status} when asked for its models.")
        return name, context if isinstance(context, int) else 0

    async def _block_tokens(self) -> int:
        answer = await self._calls.engine.ask(Ask("GET", METRICS_PATH))
        found = BLOCK_SIZE.search(answer.body)
        return max(int(found[1]), 1) if answer.status == 200 and found else 1

    async def _render(self, model: str, messages: Conversation) -> list[int]:
        return await self._calls.render({"model": model, "messages": messages, "max_tokens": 1})

    async def _stand_in(self, model: str, messages: Conversation, header: Sequence[int]) -> StandIn | None:
        """A token of the header that can stand in front of any text of the first message without changing it."""
        answer = await self._calls.json("/tokenize", {"model": model, "messages": messages, "return_token_strs": True})
        ids, texts = ids_of(field_of(answer, "tokens")), field_of(answer, "token_strs")
        if not isinstance(texts, list) or ids[: len(header)] != list(header):
            return None
        for text, id in dict(zip(cast("list[object]", texts)[: len(header)], header, strict=False)).items():
            if isinstance(text, str) and text and await self._stands(model, messages, header, StandIn(text, id)):
                return StandIn(text, id)
        return None

    async def _stands(self, model: str, messages: Conversation, header: Sequence[int], stand_in: StandIn) -> bool:
        following: list[tuple[int, ...]] = []
        for beginning in BEGINNINGS:
            first = {**messages[0], "content": stand_in.text + beginning}
            ids = await self._render(model, [first, *messages[1:]])
            if ids[: len(header) + 1] != [*header, stand_in.id]:
                return False
            following.append(tuple(ids[len(header) + 1 :]))
        plain = await self._render(model, [{**messages[0], "content": BEGINNINGS[0]}, *messages[1:]])
        return len(set(following)) == len(BEGINNINGS) and following[0] == tuple(plain[len(header) :])


def common(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """The ids that both begin with."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return list(first[:count])
