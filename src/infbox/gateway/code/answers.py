"""What an answer to a request with a workspace says of the prefix cache.

An answer that comes whole tells it in its head, `X-Infbox-Cached-Tokens`. The engine tells it in the last event of a
stream and in no earlier one (vLLM 0.32: what `continuous_usage_stats` adds has no details), so a stream's head cannot:
a client reads it in the usage event that it asks for with `stream_options: {"include_usage": true}`. For the gateway's
own counters that event is asked for anyway, and taken out where the client did not want it.
"""

import json
from collections.abc import Callable
from typing import cast

from infbox.gateway.code.passing import field_of

CACHED_HEADER = "x-infbox-cached-tokens"
USAGE = b'"usage":'  # text that a model wrote cannot hold it: JSON escapes its quotes
ENDINGS = (b"\r\n\r\n", b"\n\n", b"\r\r")


class CodeAnswer:
    """An answer on its way: `headers` are added to its own, `counted` gets the tokens that came from the cache."""

    def __init__(self, headers: dict[str, str], counted: Callable[[int], None], *, hide_usage: bool) -> None:
        self.headers = headers
        self._counted = counted
        self._hide_usage = hide_usage
        self._held = b""

    def whole(self, body: bytes) -> None:
        """Read a whole answer; called before its head is sent."""
        try:
            cached = cached_tokens(cast("object", json.loads(body)))
        except (ValueError, RecursionError):
            return
        if cached is not None:
            self.headers[CACHED_HEADER] = str(cached)
            self._counted(cached)

    def feed(self, chunk: bytes) -> bytes:
        """A piece of a stream came; what of it goes on to the client now. Only the beginning of an event is held."""
        self._held += chunk
        passed: list[bytes] = []
        while (end := _end(self._held)) >= 0:
            event, self._held = self._held[:end], self._held[end:]
            if not self._is_hidden(event):
                passed.append(event)
        return b"".join(passed)

    def rest(self) -> bytes:
        """What was held when the stream ended."""
        held, self._held = self._held, b""
        return held

    def _is_hidden(self, event: bytes) -> bool:
        """Whether an event is the usage event that only we asked for."""
        if USAGE not in event:
            return False
        try:
            value = cast("object", json.loads(event.strip().removeprefix(b"data:")))
        except (ValueError, RecursionError):
            return False
        if field_of(value, "choices") != []:
            return False
        cached = cached_tokens(value)
        if cached is not None:
            self._counted(cached)
        return self._hide_usage


def cached_tokens(answer: object) -> int | None:
    """The tokens of the prompt that came from the cache; None where the answer does not say."""
    cached = field_of(field_of(field_of(answer, "usage"), "prompt_tokens_details"), "cached_tokens")
    return cached if type(cached) is int and cached >= 0 else None


def with_usage(request: dict[str, object]) -> tuple[dict[str, object], bool]:
    """A request that has its stream end with the usage event, and whether only we asked for it."""
    options = request.get("stream_options")
    if request.get("stream") is not True or not (options is None or isinstance(options, dict)):
        return request, False
    kept = cast("dict[str, object]", options or {})
    if kept.get("include_usage"):
        return request, False
    return {**request, "stream_options": {"include_usage": True}}, True


def _end(held: bytes) -> int:
    """Where the first event ends; -1 where none does."""
    found = [held.find(ending) + len(ending) for ending in ENDINGS if ending in held]
    return min(found, default=-1)
