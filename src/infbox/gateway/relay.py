"""An answer of the engine on its way to the client: byte by byte, and never a cut answer that looks whole.

A stream of events that ends without `[DONE]` gets an error event at its end, and one that holds an error event has no
`[DONE]`. Any other body that is cut leaves the response unfinished, at which uvicorn closes the connection without the
terminating chunk: a transport error.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from starlette.types import Receive, Send

from infbox.gateway.bodies import ClientGoneError
from infbox.gateway.code.answers import CodeAnswer
from infbox.gateway.engine import Engine, broken
from infbox.gateway.refusal import SERVER_ERROR, error_json

PASSED_HEADERS = ("content-type", "cache-control", "retry-after")
CUT_MESSAGE = "The engine's answer broke off before it was complete."
CUT_EVENT = b"data: " + error_json(CUT_MESSAGE, "engine_stream_cut", SERVER_ERROR) + b"\n\n"
DONE = b"data: [DONE]"
ERROR_EVENT = b'data: {"error"'
TAIL_BYTES = 32
CUT = "engine cut"  # the outcome of an answer that the engine did not finish


@dataclass
class Question:
    """A request to the engine, and the ids that it has there and for the client; `code` if it has a workspace."""

    method: str
    path: str
    engine_request_id: str
    client_request_id: str
    body: bytes | None = None
    code: CodeAnswer | None = None

    def take_body(self) -> bytes | None:
        """The body, let go of: a long prompt must not stay in memory for as long as its answer streams."""
        body, self.body = self.body, None
        return body


class EventTail:
    """The last bytes of a stream of events: enough to tell a complete one from a cut one."""

    def __init__(self) -> None:
        self._tail = b""
        self.failed = False  # whether an event said so; text that a model wrote cannot: JSON escapes its quotes

    def feed(self, chunk: bytes) -> None:
        """Take note of a chunk."""
        self.failed = self.failed or ERROR_EVENT in self._tail + chunk[:TAIL_BYTES] or ERROR_EVENT in chunk
        self._tail = (self._tail + chunk)[-TAIL_BYTES:] if len(chunk) < TAIL_BYTES else chunk[-TAIL_BYTES:]

    @property
    def done(self) -> bool:
        """Whether the last event was `[DONE]`. Text that a model wrote cannot look so: JSON escapes its newlines."""
        text = self._tail.rstrip(b"\r\n")
        return text == DONE or text.endswith((b"\n" + DONE, b"\r" + DONE))

    @property
    def within_event(self) -> bool:
        """Whether an event has begun and not ended."""
        return bool(self._tail) and not self._tail.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))


async def relay(engine: Engine, question: Question, receive: Receive, send: Send, generated: Callable[[], None]) -> str:
    """Ask the engine and pass its answer on; returns the outcome in a word or two, "" when all went well.

    `generated` is called whenever the engine has shown that it generates.

    Raises:
        Refusal: the engine gave no answer that could be passed on; nothing was sent yet.
        ClientGoneError: the client closed its connection; the engine's was closed at once.
    """
    answer = asyncio.create_task(_answer(engine, question, send, generated))
    gone = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise ClientGoneError
    finally:
        answer.cancel()
        gone.cancel()
        await asyncio.gather(answer, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(engine: Engine, question: Question, send: Send, generated: Callable[[], None]) -> str:
    headers = {"x-request-id": question.engine_request_id}
    async with engine.request(question.method, question.path, question.take_body(), headers) as response:
        content_type = response.headers.get("content-type", "")
        if response.status >= 300 and not content_type.startswith("application/json"):
            raise broken(f"The engine answered {response.status} without an explanation.")
        events = content_type.startswith("text/event-stream")
        fields = [(name, response.headers[name]) for name in PASSED_HEADERS if name in response.headers]
        fields.append(("x-request-id", question.client_request_id))
        if question.code is not None and not events:
            return await _send_whole(response, question.code, fields, send, generated)
        if not events and response.content_length is not None:
            fields.append(("content-length", str(response.content_length)))
        if question.code is not None:
            fields.extend(question.code.headers.items())
        raw = [(name.encode(), value.encode("latin-1")) for name, value in fields]
        await send({"type": "http.response.start", "status": response.status, "headers": raw})
        if events:
            return await _pass_events(response, question.code, send, generated)
        return await _pass_body(response, question, send, generated)


async def _send_whole(
    response: aiohttp.ClientResponse,
    code: CodeAnswer,
    fields: list[tuple[str, str]],
    send: Send,
    generated: Callable[[], None],
) -> str:
    """Pass on an answer whose head says what the body does: it is read to its end first."""
    try:
        body = await response.read()
    except aiohttp.ClientError:
        raise broken("The engine closed the connection in the middle of its answer.") from None
    if response.status == 200:
        generated()
        code.whole(body)
        fields.extend(code.headers.items())
    raw = [(name.encode(), value.encode("latin-1")) for name, value in (*fields, ("content-length", str(len(body))))]
    await send({"type": "http.response.start", "status": response.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
    return ""


async def _pass_events(
    response: aiohttp.ClientResponse, code: CodeAnswer | None, send: Send, generated: Callable[[], None]
) -> str:
    tail = EventTail()
    try:
        async for piece in response.content.iter_any():
            chunk = piece if code is None else code.feed(piece)
            if not chunk:
                continue
            tail.feed(chunk)
            if tail.failed:
                # vLLM reports a failure inside a stream as an event, and then says [DONE] as if all were well.
                chunk = chunk.replace(DONE, b": failed")
            else:
                generated()
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except aiohttp.ClientError:
        pass  # what counts is how far the stream came
    if code is not None and (held := code.rest()):
        tail.feed(held)
        await send({"type": "http.response.body", "body": held, "more_body": True})
    whole = tail.done or tail.failed
    last = b"" if whole else (b"\n\n" if tail.within_event else b"") + CUT_EVENT
    await send({"type": "http.response.body", "body": last})
    if not whole:
        return CUT
    return "engine error" if tail.failed else ""


async def _pass_body(
    response: aiohttp.ClientResponse, question: Question, send: Send, generated: Callable[[], None]
) -> str:
    try:
        async for chunk in response.content.iter_any():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except aiohttp.ClientError:
        return CUT  # and the response stays unfinished
    await send({"type": "http.response.body", "body": b""})
    if response.status == 200 and question.method == "POST":
        generated()
    return ""
