"""The program itself: socket, systemd's messages, and how its end looks to a client in mid-stream."""

import asyncio
import os
import resource
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from scripted_engine import Exchange, ScriptedEngine, event

from infbox.errors import InfboxError
from infbox.gateway.settings import Settings
from infbox.gateway.systemd import listen
from infbox.keys import KeyStore

PROGRAM = Path(sys.executable).with_name("infbox-gateway")


class Manager:
    """The end of NOTIFY_SOCKET that systemd holds."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0"))
        self._socket.setblocking(False)

    async def next(self) -> bytes:
        async with asyncio.timeout(15):
            return await asyncio.get_running_loop().sock_recv(self._socket, 100)


class Program:
    """Runs `infbox-gateway` with the settings of the test."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.manager = Manager(f"@infbox-test-{os.getpid()}-{id(self)}")
        self.key = KeyStore(settings.keys_file).add("alice")
        self.process: asyncio.subprocess.Process

    async def start(self, **environment: str) -> None:
        environment = {
            "GATEWAY_SOCKET": str(self.settings.socket),
            "GATEWAY_ENGINE_SOCKET": str(self.settings.engine_socket),
            "GATEWAY_KEYS_FILE": str(self.settings.keys_file),
            "GATEWAY_SHUTDOWN_TIMEOUT_SECONDS": "1",
            "NOTIFY_SOCKET": self.manager.address,
            **environment,
        }
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(PROGRAM, env=environment, stdout=pipe, stderr=pipe)

    def client(self) -> aiohttp.ClientSession:
        connector = aiohttp.UnixConnector(str(self.settings.socket), force_close=True)
        return aiohttp.ClientSession("http://box", connector=connector, headers={"X-API-Key": self.key})

    async def ended(self) -> tuple[int, str, str]:
        async with asyncio.timeout(15):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), err.decode()


@pytest.fixture
async def program(settings: Settings) -> AsyncIterator[Program]:
    program = Program(settings)
    yield program
    if program.process.returncode is None:
        program.process.kill()
        await program.process.communicate()


class Stream:
    """A client that reads a stream to whatever end it comes to."""

    def __init__(self, client: aiohttp.ClientSession) -> None:
        self._client = client
        self.got = b""
        self.begun = asyncio.Event()

    async def read(self) -> None:
        async with self._client.post("/v1/chat/completions", json={"stream": True}) as answer:
            async for chunk in answer.content.iter_any():
                self.got += chunk
                self.begun.set()


async def endless(exchange: Exchange) -> None:
    await exchange.events()
    await exchange.chunk(event("Pa"))
    await exchange.vanished.wait()


async def test_it_says_ready_once_it_accepts_and_its_socket_is_the_groups(program: Program, engine: ScriptedEngine):
    await program.start()
    assert await program.manager.next() == b"READY=1"
    assert stat.S_IMODE(program.settings.socket.stat().st_mode) == 0o660
    async with program.client() as client, client.get("/health") as answer:
        assert answer.status == 200
    soft, hard = resource.prlimit(program.process.pid, resource.RLIMIT_NOFILE)
    assert soft == hard == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@pytest.mark.parametrize(("sign", "stopping"), [(signal.SIGTERM, True), (signal.SIGKILL, False)])
async def test_a_stream_cut_by_the_gateways_end_is_a_transport_error(
    program: Program, engine: ScriptedEngine, sign: signal.Signals, stopping: bool
):
    engine.script = endless
    await program.start()
    await program.manager.next()
    async with program.client() as client:
        stream = Stream(client)
        reading = asyncio.create_task(stream.read())
        await asyncio.wait_for(stream.begun.wait(), 10)
        program.process.send_signal(sign)
        with pytest.raises(aiohttp.ClientPayloadError):
            await asyncio.wait_for(reading, 15)
    assert stream.got == event("Pa")
    status, out, err = await program.ended()
    assert status == -sign
    assert "Traceback" not in err
    if stopping:
        assert await program.manager.next() == b"STOPPING=1"
        assert "(gateway stopping)" in out
    await asyncio.wait_for(engine.exchanges[0].vanished.wait(), 10)


async def test_a_request_without_an_answer_yet_gets_a_503_when_the_gateway_stops(
    program: Program, engine: ScriptedEngine
):
    async def hang(exchange: Exchange) -> None:
        await exchange.vanished.wait()

    engine.script = hang
    await program.start(GATEWAY_SHUTDOWN_TIMEOUT_SECONDS="0")
    await program.manager.next()
    async with program.client() as client:
        asking = asyncio.create_task(client.post("/v1/chat/completions", json={}).__aenter__())
        await engine.next_exchange()
        program.process.terminate()
        answer = await asyncio.wait_for(asking, 15)
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "gateway_stopping")


async def test_a_stream_that_ends_in_time_is_whole_in_spite_of_sigterm(program: Program, engine: ScriptedEngine):
    stopping = asyncio.Event()

    async def finish(exchange: Exchange) -> None:
        await exchange.events()
        await exchange.chunk(event("Pa"))
        await stopping.wait()
        await exchange.chunk(event("ris") + b"data: [DONE]\n\n")
        await exchange.end()

    engine.script = finish
    await program.start(GATEWAY_SHUTDOWN_TIMEOUT_SECONDS="15")
    await program.manager.next()
    async with program.client() as client:
        stream = Stream(client)
        reading = asyncio.create_task(stream.read())
        await asyncio.wait_for(stream.begun.wait(), 10)
        program.process.terminate()
        assert await program.manager.next() == b"STOPPING=1"
        stopping.set()
        await asyncio.wait_for(reading, 15)
    assert stream.got.endswith(b"data: [DONE]\n\n")
    await program.ended()


async def test_a_killed_predecessors_socket_is_replaced_and_the_watchdog_is_fed(
    program: Program, engine: ScriptedEngine
):
    await program.start()
    await program.manager.next()
    program.process.kill()
    await program.ended()
    assert program.settings.socket.is_socket()
    await program.start(WATCHDOG_USEC="3000000")
    said = {await program.manager.next() for _ in range(2)}
    assert said == {b"READY=1", b"WATCHDOG=1"}
    async with program.client() as client, client.get("/ready") as answer:
        assert answer.status == 200
    assert [path.name for path in program.settings.socket.parent.glob(".*")] == []


async def test_without_its_environment_it_says_which_variable_and_what_to_do(program: Program):
    await program.start(GATEWAY_ENGINE_SOCKET="")
    status, _, err = await program.ended()
    assert (status, err.splitlines()[0]) == (1, "error: GATEWAY_ENGINE_SOCKET is not set")
    assert "hint: " in err


def test_a_socket_that_cannot_be_is_refused_in_a_sentence(tmp_path: Path):
    for path in (tmp_path / "no-such-folder" / "x.sock", tmp_path / ("x" * 120)):
        with pytest.raises(InfboxError, match="GATEWAY_SOCKET"):
            listen(path)
