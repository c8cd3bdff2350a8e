"""An engine that misbehaves exactly as told: HTTP/1.1 on a unix socket, one connection a request, no framework."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

MODEL = "scripted-model"


class Exchange:
    """One request that arrived, and the means to answer it; `vanished` is set once the other side has closed."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter):
        self.method, self.path, self.headers, self.body = method, path, headers, body
        self.vanished = asyncio.Event()
        self._writer = writer

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def head(self, status: int = 200, **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
        await self.raw("\r\n".join([*lines, "", ""]).encode())

    async def events(self) -> None:
        await self.head(content_type="text/event-stream; charset=utf-8", transfer_encoding="chunked", server="uvicorn")

    async def chunk(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        await self.head(status, content_type="application/json", content_length=str(len(body)))
        await self.raw(body)

    def cut(self) -> None:
        self._writer.transport.abort()


Script = Callable[[Exchange], Awaitable[None]]


def event(text: str) -> bytes:
    """One chunk of a chat stream, as vLLM words it."""
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


async def well(exchange: Exchange) -> None:
    """What a working engine does."""
    if exchange.path == "/v1/models":
        await exchange.answer(
            {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "v"}]}
        )
    elif exchange.json.get("stream"):
        await exchange.events()
        for text in ("Par", "is"):
            await exchange.chunk(event(text))
        await exchange.chunk(b"data: [DONE]\n\n")
        await exchange.end()
    elif exchange.path == "/v1/completions":
        await exchange.answer(
            {"object": "text_completion", "choices": [{"text": "!"}], "usage": {"completion_tokens": 1}}
        )
    else:
        message = {"role": "assistant", "content": "Paris"}
        await exchange.answer(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": MODEL,
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
            }
        )


class ScriptedEngine:
    """Listens at `path`; every request is recorded in `exchanges` and answered by `script`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.script: Script = well
        self.exchanges: list[Exchange] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._connected, str(self.path))

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            self.path.unlink(missing_ok=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def next_exchange(self) -> Exchange:
        await until(lambda: bool(self.exchanges))
        return self.exchanges[-1]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            exchange = Exchange(method, path, headers, body, writer)
            self.exchanges.append(exchange)
            watch = asyncio.create_task(self._watch(reader, exchange))
            try:
                await self.script(exchange)
            except ConnectionError:
                exchange.vanished.set()
            finally:
                watch.cancel()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    @staticmethod
    async def _watch(reader: asyncio.StreamReader, exchange: Exchange) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        exchange.vanished.set()


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until the condition holds; fail when it does not within `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions of many kinds, most of them not ours to signal
            await asyncio.sleep(0.01)
