"""A watcher that keeps to its HTTP contract and has no files: tests set the packs."""

import asyncio
import hashlib
import json
import time
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from scripted_engine import Exchange, ScriptedEngine


@dataclass
class ToyWorkspace:
    tenant: str
    name: str
    base: list[int]
    overlay: list[int] = field(default_factory=list)
    version: int = 1
    state: str = "ready"

    @property
    def ids(self) -> list[int]:
        return [*self.base, *self.overlay]

    def save(self, ids: list[int]) -> None:
        self.overlay += ids
        self.version += 1

    def rebase(self, ids: list[int]) -> None:
        self.base, self.overlay = ids, []
        self.version += 1

    @property
    def headers(self) -> dict[str, str]:
        return {
            "ETag": f'"{digest(self.ids)}"',
            "X-Infbox-Version": str(self.version),
            "X-Infbox-Base": digest(self.base),
            "X-Infbox-Base-Tokens": str(len(self.base)),
        }


def digest(ids: list[int]) -> str:
    return hashlib.sha256(repr(ids).encode()).hexdigest()


class ToyWatcher(ScriptedEngine):
    """Serves `workspaces` on a unix socket; `flushes`, `unchanged`, `warm`, `cooled`: what it was asked and told."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.script = self._answer
        self.workspaces: list[ToyWorkspace] = []
        self.flushes = 0
        self.unchanged = 0
        self.warm: list[tuple[str, dict[str, object]]] = []
        self.cooled: list[str] = []

    @property
    def requests(self) -> int:
        return len(self.exchanges)

    def add(self, tenant: str, name: str, ids: list[int]) -> ToyWorkspace:
        workspace = ToyWorkspace(tenant, name, ids)
        self.workspaces.append(workspace)
        return workspace

    async def _answer(self, exchange: Exchange) -> None:
        target = urlsplit(exchange.path)
        parts = [unquote(part) for part in target.path.split("/")[1:]]
        if parts == ["workspaces"]:
            entries = [{"name": w.name, "tenant": w.tenant, "state": w.state} for w in self.workspaces]
            return await exchange.answer({"workspaces": entries})
        _, tenant, name, what = parts
        workspace = next((w for w in self.workspaces if (w.tenant, w.name) == (tenant, name)), None)
        if workspace is None:
            return await exchange.answer({"error": "no such workspace"}, 404)
        if what == "warm" and exchange.method == "DELETE":
            self.cooled.append(name)
            return await exchange.head(204)
        if what == "warm":
            self.warm.append((name, exchange.json))
            return await exchange.head(204)
        assert what == "pack"
        return await self._pack(exchange, workspace, dict(parse_qsl(target.query)))

    async def _pack(self, exchange: Exchange, workspace: ToyWorkspace, query: dict[str, str]) -> None:
        if workspace.state != "ready":
            said = json.dumps({"error": f"it is {workspace.state}: 10 of 20 files", "hint": "infbox index status"})
            await exchange.head(503, retry_after="7", content_length=str(len(said)))
            return await exchange.raw(said.encode())
        if "after" in query:
            end = time.monotonic() + float(query["wait"])
            while digest(workspace.ids) == query["after"] and not exchange.vanished.is_set():
                if time.monotonic() > end:
                    return await exchange.head(304, **workspace.headers)
                await asyncio.sleep(0.005)
        else:
            self.flushes += 1
        if exchange.headers.get("if-none-match") == workspace.headers["ETag"]:
            self.unchanged += 1
            return await exchange.head(304, **workspace.headers)
        body = array("I", workspace.ids).tobytes()
        await exchange.head(200, content_length=str(len(body)), **workspace.headers)
        return await exchange.raw(body)
