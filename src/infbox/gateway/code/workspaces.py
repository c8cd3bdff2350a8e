"""The client to the watcher: whose workspaces there are, and their packs as token ids.

A pack is kept for as long as its tag is the watcher's current one, so an unchanged pack costs a 304. Every exchange has
a limit in time: a watcher that hangs is a 503 to those who asked for a workspace, and nothing at all to the others.
"""

import asyncio
import hashlib
import json
import sys
from array import array
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import quote

import aiohttp

from infbox.gateway.code.alias import unknown
from infbox.gateway.refusal import Refusal

RETRY_AFTER_SECONDS = 5
ID_BYTES = 4
KEPT_FRAGMENTS = 16
KEPT_PACKS = 16
MAX_RETRY_AFTER = 3600


@dataclass(frozen=True)
class Workspace:
    """A workspace as the watcher lists it."""

    tenant: str
    name: str
    state: str


@dataclass(frozen=True)
class Pack:
    """One version of a workspace's pack. `base` changes at a rebase only: within one base, versions only grow."""

    workspace: Workspace
    version: int
    digest: str
    base: str
    ids: "array[int]" = field(repr=False, compare=False)

    def content(self, count: int) -> bytes:
        """A digest of the first `count` ids."""
        return hashlib.blake2b(memoryview(self.ids)[:count], digest_size=16).digest()


class Workspaces:
    """HTTP to the watcher's unix socket. Opened and closed with the application, inside its event loop."""

    def __init__(self, socket_path: Path, timeout_seconds: float) -> None:
        self._socket_path = socket_path
        self._timeout_seconds = timeout_seconds
        self._session: aiohttp.ClientSession | None = None
        self._packs: OrderedDict[tuple[str, str], Pack] = OrderedDict()
        self._fragments: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    async def open(self) -> None:
        """Make the session."""
        connector = aiohttp.UnixConnector(str(self._socket_path), limit=0, force_close=True)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None), cookie_jar=aiohttp.DummyCookieJar()
        )

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()

    async def listing(self) -> list[Workspace]:
        """All workspaces of the box.

        Raises:
            Refusal: 503 when the watcher does not say.
        """
        status, _, body = await self._exchange("GET", "/workspaces")
        entries = _field(_json(body), "workspaces") if status == 200 else None
        if not isinstance(entries, list):
            raise unavailable()
        found: list[Workspace] = []
        for entry in cast("list[object]", entries):
            values = [_field(entry, name) for name in ("tenant", "name", "state")]
            if not all(isinstance(value, str) for value in values):
                raise unavailable()
            found.append(Workspace(*cast("list[str]", values)))
        return found

    async def of(self, tenant: str) -> list[Workspace]:
        """A tenant's workspaces. Raises like `listing`."""
        return [workspace for workspace in await self.listing() if workspace.tenant == tenant]

    async def pack(self, tenant: str, name: str) -> Pack:
        """The newest pack; the watcher takes in what is pending first.

        Raises:
            Refusal: 404 for no workspace of that name, 503 while it has no pack or the watcher does not answer.
        """
        return await self._pack(tenant, name, "", self._timeout_seconds)

    async def next_pack(self, tenant: str, name: str, digest: str, wait_seconds: float) -> Pack:
        """The pack that follows the one of `digest`, or the same after `wait_seconds`. Raises like `pack`."""
        query = f"?after={quote(digest, safe='')}&wait={wait_seconds:g}"
        return await self._pack(tenant, name, query, wait_seconds + self._timeout_seconds)

    async def warmed(self, pack: Pack, *, cached_tokens: int, seconds: float) -> None:
        """Tell the watcher that this version has been computed. Raises like `listing`."""
        report = {
            "version": pack.version,
            "digest": pack.digest,
            "tokens": len(pack.ids),
            "cached_tokens": cached_tokens,
            "seconds": round(seconds, 3),
        }
        path = f"{_path(pack.workspace.tenant, pack.workspace.name)}/warm"
        await self._exchange("POST", path, body=json.dumps(report).encode())

    async def cooled(self, tenant: str, name: str) -> None:
        """Tell the watcher that the engine has nothing of a workspace any more. Raises like `listing`."""
        await self._exchange("DELETE", f"{_path(tenant, name)}/warm")

    def fragment(self, pack: Pack, count: int) -> bytes:
        """The first `count` ids of a pack as they stand between the brackets of a JSON list."""
        key = (pack.digest, count)
        found = self._fragments.get(key)
        if found is None:
            found = ",".join(map(str, pack.ids[:count])).encode()
            self._fragments[key] = found
            if len(self._fragments) > KEPT_FRAGMENTS:
                self._fragments.popitem(last=False)
        self._fragments.move_to_end(key)
        return found

    async def _pack(self, tenant: str, name: str, query: str, seconds: float) -> Pack:
        known = self._packs.get((tenant, name))
        headers = {"if-none-match": f'"{known.digest}"'} if known else {}
        status, fields, body = await self._exchange(
            "GET", f"{_path(tenant, name)}/pack{query}", headers=headers, seconds=seconds
        )
        if status == 304 and known is not None:
            return known
        if status == 404:
            raise unknown()
        if status != 200:
            raise _not_ready(status, fields, body)
        pack = _read_pack(Workspace(tenant, name, "ready"), fields, body)
        self._packs[tenant, name] = pack
        self._packs.move_to_end((tenant, name))
        if len(self._packs) > KEPT_PACKS:
            self._packs.popitem(last=False)
        return pack

    async def _exchange(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        seconds: float | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        assert self._session is not None, "open() comes first"  # noqa: S101
        try:
            async with (
                asyncio.timeout(self._timeout_seconds if seconds is None else seconds),
                self._session.request(
                    method, f"http://watcher{path}", data=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                return response.status, response.headers, await response.read()
        except (aiohttp.ClientError, TimeoutError):
            raise unavailable() from None


def _path(tenant: str, name: str) -> str:
    return f"/workspaces/{quote(tenant, safe='')}/{quote(name, safe='')}"


def _read_pack(workspace: Workspace, fields: Mapping[str, str], body: bytes) -> Pack:
    digest = fields.get("etag", "").strip('"')
    version, base = fields.get("x-infbox-version", ""), fields.get("x-infbox-base", "")
    if not (digest and base and version.isdecimal() and len(version) < 19 and body) or len(body) % ID_BYTES:
        raise unavailable()
    ids = array("I", body)
    if sys.byteorder == "big":
        ids.byteswap()
    return Pack(workspace, int(version), digest, base, ids)


def _not_ready(status: int, fields: Mapping[str, str], body: bytes) -> Refusal:
    """The watcher's own words on why there is no pack; it says nothing that its tenant may not know."""
    said, hint = _field(_json(body), "error"), _field(_json(body), "hint")
    if status != 503 or not isinstance(said, str):
        return unavailable()
    offered = fields.get("retry-after", "")
    seconds = int(offered) if offered.isdecimal() and len(offered) < 6 else RETRY_AFTER_SECONDS
    message = f"The workspace is not ready: {said}" + (f" ({hint})" if isinstance(hint, str) and hint else "")
    return Refusal(503, "workspace_not_ready", message, {"retry-after": str(min(max(seconds, 1), MAX_RETRY_AFTER))})


def unavailable() -> Refusal:
    """The watcher is down, hangs, or answers nonsense."""
    return Refusal(
        503,
        "watcher_unavailable",
        "The workspaces' watcher does not answer. Without ':code' the model answers as ever. The operator can look at: "
        "systemctl status infbox-watcher; journalctl -u infbox-watcher -n 50",
        {"retry-after": str(RETRY_AFTER_SECONDS)},
    )


def _json(body: bytes) -> object:
    try:
        return cast("object", json.loads(body))
    except (ValueError, RecursionError):
        return None


def _field(value: object, name: str) -> object:
    return cast("dict[str, object]", value).get(name) if isinstance(value, dict) else None
