"""A gateway on a real unix socket, between a client and an engine that misbehaves as told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import uvicorn
from gateway_box import Box
from scripted_engine import ScriptedEngine, until
from toy_engine import ToyEngine
from toy_watcher import ToyWatcher

from infbox.gateway.server import make_config
from infbox.gateway.settings import Settings
from infbox.gateway.systemd import listen
from infbox.keys import KeyStore


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        socket=tmp_path / "gateway.sock",
        engine_socket=tmp_path / "engine.sock",
        keys_file=tmp_path / "keys.json",
        max_body_bytes=100_000,
        shutdown_timeout_seconds=0,
    )


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[ScriptedEngine]:
    engine = ScriptedEngine(settings.engine_socket)
    await engine.start()
    yield engine
    await engine.stop()


@asynccontextmanager
async def serve(settings: Settings) -> AsyncIterator[Box]:
    """A gateway with these settings, and a first key: alice's, of team-a."""
    store = KeyStore(settings.keys_file)
    key = store.add("alice", "team-a")
    server = uvicorn.Server(make_config(settings))
    serving = asyncio.create_task(server.serve(sockets=[listen(settings.socket)]))
    await until(lambda: server.started)
    connector = aiohttp.UnixConnector(str(settings.socket), force_close=True)
    async with aiohttp.ClientSession("http://box", connector=connector, auto_decompress=False) as client:
        try:
            yield Box(settings, store, key, client)
        finally:
            server.should_exit = True
            await serving


@pytest.fixture
async def box(settings: Settings, engine: ScriptedEngine) -> AsyncIterator[Box]:
    async with serve(settings) as box:
        yield box


@pytest.fixture
def toy(engine: ScriptedEngine) -> ToyEngine:
    engine.script = toy = ToyEngine()
    return toy


@pytest.fixture
async def watcher(tmp_path: Path) -> AsyncIterator[ToyWatcher]:
    watcher = ToyWatcher(tmp_path / "watcher.sock")
    await watcher.start()
    yield watcher
    await watcher.stop()


@pytest.fixture
async def code_box(settings: Settings, toy: ToyEngine, watcher: ToyWatcher) -> AsyncIterator[Box]:
    """A gateway with a watcher, which does not prewarm."""
    more = {"watcher_socket": watcher.path, "watcher_timeout_seconds": 5, "prewarm_piece_seconds": 0}
    async with serve(replace(settings, **more)) as box:
        yield box
