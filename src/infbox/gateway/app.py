"""The ASGI application: what happens to a request, in order: listed? whose key? what body? then the engine."""

import asyncio
import json
import logging
import re
import uuid
from typing import cast

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from infbox.engine_probe import MODELS_PATH, Ask
from infbox.gateway import allowlist
from infbox.gateway.access_log import AccessRecord
from infbox.gateway.activity import Activity
from infbox.gateway.auth import KeyRing
from infbox.gateway.bodies import ClientGoneError, engine_body, parse_object, read_body
from infbox.gateway.code.context import CodeContext
from infbox.gateway.code.people import People
from infbox.gateway.engine import Engine, broken
from infbox.gateway.readiness import Readiness
from infbox.gateway.refusal import Refusal, send_json
from infbox.gateway.relay import Question, relay
from infbox.gateway.settings import Settings
from infbox.keys import Key

logger = logging.getLogger(__name__)
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def create_app(
    settings: Settings, engine: Engine | None = None, keys: KeyRing | None = None, readiness: Readiness | None = None
) -> ASGIApp:
    """The application for these settings; its parts can be passed in."""
    engine = engine or Engine(settings.engine_socket, settings.connect_timeout_seconds)
    keys = keys or KeyRing(settings.keys_file)
    return Gateway(settings, engine, keys, readiness or Readiness(engine, settings.ready_ttl_seconds))


class Gateway:
    """The application. It has no router: the allow-list compares paths before anyone decodes them."""

    def __init__(self, settings: Settings, engine: Engine, keys: KeyRing, readiness: Readiness) -> None:
        self._settings = settings
        self._engine = engine
        self._keys = keys
        self._readiness = readiness
        self._activity = Activity(settings.activity_file)
        self._people = People()
        self._code = CodeContext(settings, engine, self._people) if settings.watcher_socket else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection: the application's life, or one request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            record = AccessRecord(cast("str", scope["method"]))
            try:
                await self._guarded(scope, receive, record.watching(send), record)
            finally:
                record.write()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._keys.refresh()
        await self._engine.open()
        if self._code is not None:
            await self._code.open()
        keeping = asyncio.create_task(self._activity.keep())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        keeping.cancel()
        self._readiness.close()
        if self._code is not None:
            await self._code.close()
        await self._engine.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _guarded(self, scope: Scope, receive: Receive, send: Send, record: AccessRecord) -> None:
        """Every way in which a request can end. One whose answer has begun ends unfinished: uvicorn then cuts it."""
        try:
            await self._serve(scope, receive, send, record)
        except ClientGoneError:
            record.outcome = "client gone"
        except Refusal as refusal:
            record.outcome = refusal.code
            await refusal.answer(send)
        except asyncio.CancelledError:
            # Only the end of the graceful shutdown cancels a request; its task ends here, with the process to follow.
            record.outcome = "gateway stopping"
            if not record.answered:
                await Refusal(503, "gateway_stopping", "The gateway is stopping.", {"retry-after": "5"}).answer(send)
        except Exception:
            logger.exception("a request failed in the gateway itself")
            record.outcome = "gateway error"
            if not record.answered:
                await Refusal(500, "internal_error", "The gateway failed. See its journal.").answer(send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, record: AccessRecord) -> None:
        route = allowlist.route(cast("str", scope["method"]), cast("bytes", scope["raw_path"]))
        record.path = route.template
        if route.template == allowlist.HEALTH:
            return await send_json(send, 200, b'{"status":"ok"}')
        if route.template == allowlist.READY:
            return await self._ready(send)
        headers = Headers(scope=scope)
        key = self._keys.authenticate(headers)
        record.key = key.name
        with self._activity.request():
            return await self._answer(route, key, headers, receive, send, record)

    async def _answer(
        self, route: allowlist.Route, key: Key, headers: Headers, receive: Receive, send: Send, record: AccessRecord
    ) -> None:
        if route.template == allowlist.MODEL:
            return await self._model(route.model, key, send)
        if route.template == allowlist.MODELS and self._code is not None:
            return await self._models(key, send)
        question = _question(route.template, headers)
        request = await self._request(headers, receive) if question.method == "POST" else None
        with self._people.waiting() as first_token:
            if request is not None:
                await self._fill(question, key, headers, request)

            def generated() -> None:
                first_token()
                self._readiness.token_seen()

            try:
                record.outcome = await relay(self._engine, question, receive, send, generated)
            except Refusal:
                self._readiness.doubt()
                raise
        if record.outcome:
            self._readiness.doubt()
        return None

    async def _request(self, headers: Headers, receive: Receive) -> dict[str, object]:
        return parse_object(await read_body(headers, receive, self._settings.max_body_bytes))

    async def _fill(self, question: Question, key: Key, headers: Headers, request: dict[str, object]) -> None:
        """Make the engine's body of the client's request."""
        prepared = await self._code.prepare(question.path, key, headers, request) if self._code is not None else None
        if prepared is None:
            question.body = engine_body(request, key.tenant)
        else:
            question.body, question.code = prepared

    async def _ready(self, send: Send) -> None:
        reason = await self._readiness.reason()
        if reason:
            raise Refusal(503, "engine_not_ready", reason, {"retry-after": "1"})
        await send_json(send, 200, b'{"status":"ready"}')

    async def _model(self, name: str, key: Key, send: Send) -> None:
        # vLLM lists models but has no path for one of them; OpenAI's API has.
        for model in await self._cards(key):
            if isinstance(model, dict) and cast("dict[str, object]", model).get("id") == name:
                return await send_json(send, 200, json.dumps(model).encode())
        raise Refusal(404, "model_not_found", f"There is no model {name!r} here. GET /v1/models lists them.")

    async def _models(self, key: Key, send: Send) -> None:
        await send_json(send, 200, json.dumps({"object": "list", "data": await self._cards(key)}).encode())

    async def _cards(self, key: Key) -> list[object]:
        """The engine's models, and what this key has of them besides."""
        answer = await self._engine.ask(Ask("GET", MODELS_PATH))
        listing = answer.json()
        models = cast("dict[str, object]", listing).get("data") if isinstance(listing, dict) else None
        if answer.status != 200 or not isinstance(models, list):
            raise broken(f"The engine answered {answer.status} when asked for its models.")
        cards = cast("list[object]", models)
        return cards if self._code is None else [*cards, *await self._code.cards(key, cards)]


def _question(path: str, headers: Headers) -> Question:
    """The engine files requests by id and must never see one twice, so a client's own id gets a suffix."""
    unique = uuid.uuid4().hex
    offered = headers.get("x-request-id", "")
    if not REQUEST_ID.fullmatch(offered):
        return Question(allowlist.METHODS[path], path, unique, unique)
    return Question(allowlist.METHODS[path], path, f"{offered}-{unique[:12]}", offered)
