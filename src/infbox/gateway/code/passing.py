"""What the gateway asks the engine about a request before it sends it. Refusals of the engine are passed on."""

import asyncio
from typing import cast

from starlette.types import Send

from infbox.engine_probe import Ask
from infbox.gateway.engine import Engine, broken
from infbox.gateway.refusal import Refusal, send_json

RENDER_CHAT = "/v1/chat/completions/render"
RENDER_COMPLETION = "/v1/completions/render"
# Rendering computes nothing on the accelerator; a process that takes this long for it hangs.
TIMEOUT_SECONDS = 60.0


class EngineRefusal(Refusal):
    """The engine refused a request; the client gets its very words."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status, "engine_refused", "The engine refused the request.")
        self.body = body

    async def answer(self, send: Send) -> None:
        """Send the engine's answer to the client."""
        await send_json(send, self.status, self.body)


class EngineCalls:
    """Questions to the engine that generate nothing."""

    def __init__(self, engine: Engine, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self.engine = engine
        self._timeout_seconds = timeout_seconds

    async def json(self, path: str, body: dict[str, object]) -> object:
        """The engine's answer to a POST.

        Raises:
            EngineRefusal: it said no, in JSON.
            Refusal: it is down, broken or does not know the path.
        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                answer = await self.engine.ask(Ask("POST", path, body))
        except TimeoutError:
            raise broken("The engine did not say in time which tokens a request has.") from None
        value = answer.json()
        if answer.status == 404 and field_of(value, "detail") is not None:
            raise broken(f"The engine has no {path}: it was started without --enable-scale-out.")
        if answer.status != 200:
            if value is None:
                raise broken(f"The engine answered {answer.status} without an explanation.")
            raise EngineRefusal(answer.status, answer.body)
        return value

    async def render(self, request: dict[str, object]) -> list[int]:
        """The ids of the prompt that a chat request would have. Raises like `json`."""
        rendered = await self.json(RENDER_CHAT, request)
        return ids_of(field_of(rendered, "token_ids"))

    async def tokens(self, model: str, texts: list[str]) -> list[list[int]]:
        """The ids of each text, without any that mark a beginning or an end. Raises like `json`.

        Control tokens that a text spells out become control tokens, as in any prompt that is sent to the engine.
        """
        if not texts:
            return []
        body: dict[str, object] = {"model": model, "prompt": texts, "add_special_tokens": False, "max_tokens": 1}
        rendered = await self.json(RENDER_COMPLETION, body)
        if not isinstance(rendered, list) or len(cast("list[object]", rendered)) != len(texts):
            raise broken("The engine's tokens of a text are not what they should be.")
        return [ids_of(field_of(one, "token_ids")) for one in cast("list[object]", rendered)]


def field_of(value: object, name: str) -> object:
    """A field of a JSON object; None where there is none."""
    return cast("dict[str, object]", value).get(name) if isinstance(value, dict) else None


def ids_of(value: object) -> list[int]:
    """Token ids in an engine's answer."""
    if not isinstance(value, list) or not all(type(id) is int and id >= 0 for id in cast("list[object]", value)):
        raise broken("The engine's tokens of a text are not what they should be.")
    return cast("list[int]", value)
