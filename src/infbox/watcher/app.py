"""HTTP on the watcher's socket. Whoever reaches the socket may have every pack: the gateway says whose is whose.

GET  /workspaces                  all of them, in short
GET  /workspaces/T/N/pack         token ids, little-endian uint32; what is pending is looked at first
     ?after=DIGEST&wait=SECONDS   waits for another pack than that; looks at nothing
POST /workspaces/T/N/warm         the gateway has warmed a version
DELETE /workspaces/T/N/warm       the engine is another one: nothing is warm
GET  /status                      what `infbox index status` shows
GET  /metrics                     for Prometheus
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infbox.pack.layout import Pack
from infbox.watcher.metrics import prometheus
from infbox.watcher.service import Watcher
from infbox.watcher.status import brief, status
from infbox.watcher.workspace import UnavailableError, Workspace

LONGEST_WAIT_SECONDS = 300.0
RETRY_AFTER_SECONDS = 2
_LARGEST_BODY = 65_536


class Waiters:
    """Requests that wait for another pack. Lives on the event loop; `notify` may be called from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: dict[Workspace, set[asyncio.Event]] = {}
        self.closing = False

    def open(self) -> None:
        """Belong to the running loop."""
        self._loop = asyncio.get_running_loop()

    def notify(self, workspace: Workspace) -> None:
        """Something of a workspace is another one."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._set, workspace)

    def close(self) -> None:
        """Let all go: the program ends."""
        self.closing = True
        for workspace in list(self._events):
            self._set(workspace)

    async def wait(self, workspace: Workspace, seconds: float) -> None:
        """Until `notify`, or so long."""
        event = asyncio.Event()
        self._events.setdefault(workspace, set()).add(event)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await event.wait()
        finally:
            self._events[workspace].discard(event)

    def _set(self, workspace: Workspace) -> None:
        for event in self._events.get(workspace, ()):
            event.set()


def create_app(watcher: Watcher, waiters: Waiters | None = None) -> Starlette:
    """The application. It starts the watcher with itself, and stops it."""
    waiting = waiters or Waiters()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        waiting.open()
        watcher.on_change(waiting.notify)
        watcher.start()
        yield
        await anyio.to_thread.run_sync(watcher.stop)

    def find(request: Request) -> Workspace | None:
        return watcher.workspaces.get((request.path_params["tenant"], request.path_params["name"]))

    async def workspaces(request: Request) -> Response:
        return JSONResponse({"workspaces": [brief(each) for each in watcher.workspaces.values()]})

    async def pack(request: Request) -> Response:
        workspace = find(request)
        if workspace is None:
            return _unknown(request)
        after = request.query_params.get("after")
        if after is None:
            key = workspace.settings.tenant, workspace.settings.name
            try:
                found = await anyio.to_thread.run_sync(watcher.pack, *key)
            except UnavailableError as fault:
                return _unavailable(fault)
            return await anyio.to_thread.run_sync(_answer, found, request.headers.get("if-none-match"))
        wait = _seconds(request.query_params.get("wait", "0"))
        if wait is None:
            return JSONResponse({"error": "wait is no number of seconds from 0 up"}, 400)
        return await _another(workspace, after.strip('"'), wait)

    async def _another(workspace: Workspace, after: str, seconds: float) -> Response:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while True:
            found = workspace.pack if workspace.state == "ready" else None
            left = end - loop.time()
            if found is not None and (found.digest != after or left <= 0 or waiting.closing):
                return await anyio.to_thread.run_sync(_answer, found, f'"{after}"')
            if found is None and (left <= 0 or waiting.closing):
                fault = workspace.fault if workspace.state == "failed" else None
                return _unavailable(fault or UnavailableError(f"{workspace.name} is being indexed"))
            await waiting.wait(workspace, left)

    async def warm(request: Request) -> Response:
        workspace = find(request)
        if workspace is None:
            return _unknown(request)
        if request.method == "DELETE":
            workspace.cooled()
            return Response(status_code=204)
        try:
            body = cast("object", json.loads((await request.body())[:_LARGEST_BODY]))
            fields = cast("dict[str, Any]", body)
            seconds = fields.get("seconds")
            digest, tokens = str(fields["digest"]), int(fields["tokens"])
            cached = int(fields.get("cached_tokens") or 0)
            seconds = None if seconds is None else float(seconds)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return JSONResponse({"error": 'the body is not {"version", "digest", "tokens", "cached_tokens"}'}, 400)
        workspace.warmed(seconds, digest, tokens, cached)
        return Response(status_code=204)

    async def all_status(request: Request) -> Response:
        return JSONResponse(await anyio.to_thread.run_sync(status, watcher))

    async def metrics(request: Request) -> Response:
        text = await anyio.to_thread.run_sync(prometheus, watcher)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    routes = [
        Route("/workspaces", workspaces),
        Route("/workspaces/{tenant}/{name}/pack", pack),
        Route("/workspaces/{tenant}/{name}/warm", warm, methods=["POST", "DELETE"]),
        Route("/status", all_status),
        Route("/metrics", metrics),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def _answer(pack: Pack, known: str | None) -> Response:
    headers = {
        "ETag": f'"{pack.digest}"',
        "X-Infbox-Version": str(pack.version),
        "X-Infbox-Base": pack.base_digest,
        "X-Infbox-Base-Tokens": str(pack.base_tokens),
    }
    if known == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(pack.ids.astype("<u4").tobytes(), headers=headers, media_type="application/octet-stream")


def _unknown(request: Request) -> Response:
    name = f"{request.path_params['tenant']}/{request.path_params['name']}"
    return JSONResponse({"error": f"there is no workspace {name!r}"}, 404)


def _unavailable(fault: Any) -> Response:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return JSONResponse({"error": fault.message, "hint": fault.hint}, 503, headers)


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return min(seconds, LONGEST_WAIT_SECONDS) if seconds >= 0 else None
