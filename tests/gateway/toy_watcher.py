"""A watcher that keeps to its HTTP contract and has no files: tests set the packs."""

import asyncio
import hashlib
from array import array
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from scripted_engine import until
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from infbox.gateway.systemd import listen


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


class ToyWatcher:
    """Serves `workspaces` on a unix socket; `flushes`, `unchanged` and `warm` are what it was asked and told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.workspaces: list[ToyWorkspace] = []
        self.flushes = 0
        self.unchanged = 0
        self.warm: list[tuple[str, dict[str, object]]] = []
        self.requests = 0
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    def add(self, tenant: str, name: str, ids: list[int]) -> ToyWorkspace:
        workspace = ToyWorkspace(tenant, name, ids)
        self.workspaces.append(workspace)
        return workspace

    async def start(self) -> None:
        pack = "/workspaces/{tenant}/{name}"
        routes = [
            Route("/workspaces", self._list),
            Route(f"{pack}/pack", self._pack),
            Route(f"{pack}/warm", self._warm, methods=["POST"]),
        ]
        config = uvicorn.Config(Starlette(routes=routes), log_config=None, lifespan="off", timeout_graceful_shutdown=0)
        self._server = uvicorn.Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listen(self.path)]))
        await until(lambda: self._server is not None and self._server.started)

    async def stop(self) -> None:
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving
            self._server = None
            self.path.unlink(missing_ok=True)

    async def _list(self, _: Request) -> Response:
        self.requests += 1
        entries = [{"name": w.name, "tenant": w.tenant, "state": w.state} for w in self.workspaces]
        return JSONResponse({"workspaces": entries})

    def _find(self, request: Request) -> ToyWorkspace | None:
        self.requests += 1
        wanted = (request.path_params["tenant"], request.path_params["name"])
        return next((w for w in self.workspaces if (w.tenant, w.name) == wanted), None)

    async def _pack(self, request: Request) -> Response:
        workspace = self._find(request)
        if workspace is None:
            return JSONResponse({"error": "no such workspace"}, 404)
        if workspace.state != "ready":
            said = {"error": f"it is {workspace.state}: 10 of 20 files", "hint": "infbox index status"}
            return JSONResponse(said, 503, {"Retry-After": "7"})
        if "after" in request.query_params:
            end = asyncio.get_running_loop().time() + float(request.query_params["wait"])
            while digest(workspace.ids) == request.query_params["after"]:
                if asyncio.get_running_loop().time() > end or await request.is_disconnected():
                    return Response(status_code=304, headers=workspace.headers)
                await asyncio.sleep(0.005)
        else:
            self.flushes += 1
        if request.headers.get("if-none-match") == workspace.headers["ETag"]:
            self.unchanged += 1
            return Response(status_code=304, headers=workspace.headers)
        body = array("I", workspace.ids).tobytes()
        return Response(body, media_type="application/octet-stream", headers=workspace.headers)

    async def _warm(self, request: Request) -> Response:
        workspace = self._find(request)
        assert workspace is not None
        self.warm.append((workspace.name, await request.json()))
        return Response(status_code=204)
