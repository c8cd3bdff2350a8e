"""Requests with a workspace, from the client's JSON to the engine's body, put together for `infbox.gateway.app`."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import cast

from starlette.datastructures import Headers

from infbox.gateway import allowlist
from infbox.gateway.bodies import engine_body
from infbox.gateway.code.alias import SUFFIX, choice
from infbox.gateway.code.answers import CodeAnswer, with_usage
from infbox.gateway.code.completions import Completer
from infbox.gateway.code.conversations import Conversations, Pin, newest
from infbox.gateway.code.passing import EngineCalls
from infbox.gateway.code.people import People
from infbox.gateway.code.prewarm import Prewarmer, era
from infbox.gateway.code.splice import check_length, place_in_chat, with_field
from infbox.gateway.code.tally import Tally
from infbox.gateway.code.template import Templates
from infbox.gateway.code.workspaces import Pack, Workspaces
from infbox.gateway.engine import Engine
from infbox.gateway.refusal import Refusal
from infbox.gateway.settings import Settings
from infbox.keys import Key

logger = logging.getLogger(__name__)
PACK_HEADER = "x-infbox-pack"
PACK_TOKENS_HEADER = "x-infbox-pack-tokens"
# GET /v1/models is a plain request: a watcher that hangs must not hold it up.
LISTING_SECONDS = 1.0


class CodeContext:
    """What a gateway with a watcher has in addition."""

    def __init__(self, settings: Settings, engine: Engine, people: People) -> None:
        assert settings.watcher_socket is not None  # noqa: S101
        self._settings = settings
        self._engine = engine
        self._people = people
        self._calls = EngineCalls(engine)
        self._workspaces = Workspaces(settings.watcher_socket, settings.watcher_timeout_seconds)
        self._templates = Templates(self._calls, settings.engine_socket)
        self._tally = Tally()
        self._tasks: list[asyncio.Task[None]] = []
        self._conversations = Conversations(settings.conversation_idle_seconds)
        self._completer = Completer(self._calls)

    async def open(self) -> None:
        """Open the client to the watcher, and begin to prewarm. The engine's client is open already."""
        await self._workspaces.open()
        pieces = self._settings.prewarm_piece_seconds
        if pieces:
            parts = (self._engine, self._workspaces, self._templates, self._people, self._tally)
            self._begin(Prewarmer(*parts, pieces).run())
        if self._settings.metrics_file is not None:
            self._begin(self._tally.keep(self._settings.metrics_file))

    async def close(self) -> None:
        """End all that."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._workspaces.close()

    async def prepare(
        self, path: str, key: Key, headers: Headers, request: dict[str, object]
    ) -> tuple[bytes, CodeAnswer] | None:
        """The engine's body for a request that chose a workspace, and how to read its answer; None for a plain one.

        Raises:
            Refusal: the workspace, the watcher, the engine or the request itself does not allow it.
        """
        chosen = choice(request.get("model"), headers)
        if chosen is None:
            return None
        request = {**request, "model": chosen.model}
        asked, hide_usage = with_usage(request)
        own = {name: value for name, value in asked.items() if name not in ("prompt", "suffix")}
        body = engine_body(own if path == allowlist.COMPLETIONS else asked, key.tenant)
        pack = await self._workspaces.pack(key.tenant, chosen.workspace or await self._only(key.tenant))
        template = await self._templates.current()
        if path == allowlist.CHAT:
            place = await place_in_chat(self._calls, template, request)
            pin = self._pin(key, pack, request)
            check_length(template, place, pin.tokens)
            field = b'"kv_transfer_params":{"prompt_token_ids":[%b]}'
        else:
            place = await self._completer.place(template, request, headers)
            pin = newest(pack)
            check_length(template, place, pin.tokens)
            field = b'"prompt":[%b]'
        ids = place.join(self._workspaces.fragment(pack, pin.tokens))
        end, of_now = len(place.before) + pin.tokens, era(self._templates.generation(), pack)
        workspace = (pack.workspace.tenant, pack.workspace.name)

        def counted(cached: int) -> None:
            self._tally.answered(workspace, of_now, pin.tokens, end, cached)

        answer = CodeAnswer(_headers(pack, pin), counted, hide_usage=hide_usage)
        return with_field(body, field % ids), answer

    async def cards(self, key: Key, cards: list[object]) -> list[object]:
        """What GET /v1/models lists in addition: each model with the workspaces of the key's tenant."""
        try:
            async with asyncio.timeout(LISTING_SECONDS):
                names = [workspace.name for workspace in await self._workspaces.of(key.tenant)]
        except (Refusal, TimeoutError):
            return []
        endings = [SUFFIX, *(f"{SUFFIX}:{name}" for name in names if len(names) > 1)] if names else []
        models = [cast("dict[str, object]", card) for card in cards if isinstance(card, dict)]
        return [
            {**model, "id": f"{model['id']}{ending}", "parent": model["id"]}
            for model in models
            if isinstance(model.get("id"), str)
            for ending in endings
        ]

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.append(asyncio.create_task(_guarded(work)))

    def _pin(self, key: Key, pack: Pack, request: dict[str, object]) -> Pin:
        messages = request.get("messages")
        return self._conversations.pin(key.name, pack, cast("list[object]", messages))

    async def _only(self, tenant: str) -> str:
        """The name of a tenant's only workspace."""
        names = sorted(workspace.name for workspace in await self._workspaces.of(tenant))
        if len(names) == 1:
            return names[0]
        if not names:
            raise Refusal(
                404,
                "no_workspace",
                "This key's tenant has no workspace. The operator makes one: an entry of 'watcher_workspaces' in the "
                "preset, then ansible-playbook site.yml.",
            )
        raise Refusal(
            400,
            "workspace_ambiguous",
            f"This key has several workspaces: {', '.join(names)}. Name one as the model '<model>:code:{names[0]}' or "
            f"in the header 'X-Infbox-Workspace: {names[0]}'.",
        )


async def _guarded(work: Coroutine[None, None, None]) -> None:
    try:
        await work
    except Exception:
        logger.exception("work beside the requests has ended by a fault of the gateway's own")


def _headers(pack: Pack, pin: Pin) -> dict[str, str]:
    return {PACK_HEADER: f"{pack.workspace.name}@{pin.version}", PACK_TOKENS_HEADER: str(pin.tokens)}
