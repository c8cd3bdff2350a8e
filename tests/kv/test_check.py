"""The comparison of a computed answer with a loaded one, and the path by which an engine forgets."""

import asyncio
import json
from typing import Any

import pytest

from infbox.kv.check import Answered, compare
from infbox.kv.reset import PATH, ResetPrefixCache

COMPUTED = Answered(["a", "b", "c"], [2.0, 0.1, 2.0], 500, 0)


def loaded(*tokens: str) -> Answered:
    return Answered(list(tokens), [9.0] * len(tokens), 500, 256)


@pytest.mark.parametrize(
    ("answer", "margin", "fault"),
    [
        (loaded("a", "b", "c"), 0, ""),
        (loaded("a", "x", "c"), 0, "token 2 is 'x' for 'b', which led by 0.100"),
        (loaded("a", "x", "y"), 0.5, ""),
        (loaded("x", "b", "c"), 0.5, "token 1 is 'x' for 'a', which led by 2.000"),
        (loaded("a", "b"), 0.5, "it has 2 tokens for 3"),
        (loaded(), 0, "it has 0 tokens for 3"),
    ],
)
def test_a_difference_is_a_fault_where_the_computed_token_led(answer: Answered, margin: float, fault: str) -> None:
    assert compare(COMPUTED, answer, margin) == fault


class Engine:
    """Stands for vLLM's client: answers what it is told to."""

    def __init__(self, done: bool) -> None:
        self.state = self
        self.engine_client = self
        self.done = done

    async def reset_prefix_cache(self) -> bool:
        return self.done


@pytest.mark.parametrize("done", [True, False])
def test_the_engine_says_whether_it_forgot(done: bool) -> None:
    assert json.loads(answered("POST", PATH, done)) == {"done": done}


@pytest.mark.parametrize(("method", "path"), [("GET", PATH), ("POST", "/v1/completions"), ("POST", PATH + "/")])
def test_all_else_goes_on_to_the_engine(method: str, path: str) -> None:
    assert answered(method, path, True) == b"the engine's own"


def answered(method: str, path: str, done: bool) -> bytes:
    """The body that comes of a request."""
    sent: list[dict[str, Any]] = []

    async def engine(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.body", "body": b"the engine's own"})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "app": Engine(done)}
    asyncio.run(ResetPrefixCache(engine)(scope, None, send))
    return sent[-1]["body"]
