"""`infbox ready`, as a unit runs it: a process of its own against a socket."""

import asyncio
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from gateway_box import Box
from scripted_engine import MODEL, Exchange, ScriptedEngine, until, well

from infbox.commands.ready import run, wait_until
from infbox.errors import NotReadyError
from infbox.gateway.settings import Settings

INFBOX = Path(sys.executable).with_name("infbox")


async def ready(service: str, socket: Path, *more: str, seconds: str = "20") -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    command = ["ready", service, "--socket", str(socket), "--timeout", seconds, *more]
    return await asyncio.create_subprocess_exec(INFBOX, *command, stdout=pipe, stderr=pipe)


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    out, err = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, out.decode(), err.decode()


async def test_an_engine_is_ready_when_it_generated_one_token(engine: ScriptedEngine):
    assert await ended(await ready("engine", engine.path)) == (0, "", "")
    assert [exchange.path for exchange in engine.exchanges] == ["/v1/models", "/v1/completions"]
    asked = engine.exchanges[-1].json
    assert (asked["model"], asked["max_tokens"]) == (MODEL, 1)


async def test_a_named_model_is_asked_without_a_listing(engine: ScriptedEngine):
    assert (await ended(await ready("engine", engine.path, "--model", "other")))[0] == 0
    assert [exchange.json["model"] for exchange in engine.exchanges] == ["other"]


async def test_it_waits_through_every_fault_of_a_starting_engine(settings: Settings, engine: ScriptedEngine):
    async def cut(exchange: Exchange) -> None:
        exchange.cut()

    async def listing_fails(exchange: Exchange) -> None:
        await exchange.answer({"error": {"message": "loading"}}, 503)

    async def dies_at_the_first_token(exchange: Exchange) -> None:
        await (well(exchange) if exchange.path == "/v1/models" else exchange.answer({"error": {}}, 500))

    async def no_token(exchange: Exchange) -> None:
        await (well(exchange) if exchange.path == "/v1/models" else exchange.answer({"choices": [], "usage": {}}))

    await engine.stop()
    process = await ready("engine", settings.engine_socket)
    await engine.start()
    for script in (cut, listing_fails, dies_at_the_first_token, no_token):
        engine.script, before = script, len(engine.exchanges)
        await until(lambda before=before: len(engine.exchanges) >= before + 2)
    assert process.returncode is None
    engine.script = well
    assert await ended(process) == (0, "", "")


async def test_a_refusal_of_the_token_is_final(engine: ScriptedEngine):
    async def refuse(exchange: Exchange) -> None:
        await exchange.answer({"error": {"message": "The model `m` does not exist."}}, 404)

    engine.script = refuse
    status, _, err = await ended(await ready("engine", engine.path, "--model", "m", seconds="600"))
    assert status == 1
    assert err == (
        "error: the engine refused to generate a token: 404 The model `m` does not exist.\n\n"
        "hint: journalctl -u infbox-vllm -n 50\n"
    )


async def test_when_the_time_is_up_the_last_error_is_told(settings: Settings):
    status, _, err = await ended(await ready("engine", settings.engine_socket, seconds="0.3"))
    assert status == 1
    assert f"engine on {settings.engine_socket} is not ready after" in err
    assert "No such file or directory" in err
    assert "hint: journalctl -u infbox-vllm -n 50" in err


async def test_the_gateway_is_ready_when_its_engine_generates(box: Box, engine: ScriptedEngine):
    assert await ended(await ready("gateway", box.settings.socket)) == (0, "", "")
    await engine.stop()


async def test_a_gateway_without_an_engine_says_why_it_is_not_ready(box: Box, engine: ScriptedEngine):
    await engine.stop()
    status, _, err = await ended(await ready("gateway", box.settings.socket, seconds="0.3"))
    assert status == 1
    assert "/ready answered 503 The engine does not answer." in err
    assert "hint: journalctl -u infbox-gateway -n 50" in err


def test_while_it_waits_it_says_so_every_fifteen_seconds(capsys):
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def fail(_: float) -> None:
        raise NotReadyError("loading weights")

    with pytest.raises(NotReadyError, match=r"the engine is not ready after 6\d s: loading weights"):
        wait_until(fail, "the engine", 61, "look", clock=lambda: now, sleep=sleep)
    assert capsys.readouterr().out == "waiting for the engine: last error: loading weights\n" * 3


@pytest.mark.parametrize(
    ("fault", "told"), [(ProcessLookupError, "ended before it was ready"), (PermissionError, "does not answer")]
)
def test_a_process_that_is_gone_ends_the_wait_and_one_of_another_user_does_not(
    fault: type[OSError], told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def kill(pid: int, signal: int) -> None:
        raise fault

    monkeypatch.setattr("infbox.commands.ready.os.kill", kill)
    options = Namespace(service="engine", socket=str(tmp_path / "none"), timeout=0.1, pid=1, model=None)
    with pytest.raises(NotReadyError, match=told):
        run(options)
