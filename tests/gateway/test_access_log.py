"""One line a request; what must never be in it is not."""

import asyncio
import logging

import pytest
from gateway_box import Box
from scripted_engine import Exchange, ScriptedEngine, event, until

from infbox.gateway import access_log


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger=access_log.logger.name)

    def written() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == access_log.logger.name]

    return written


async def test_a_line_has_method_path_status_key_name_time_and_bytes(box: Box, engine: ScriptedEngine, lines):
    async with box.client.get("/v1/models/nothing-here", headers=box.authorized):
        pass
    async with box.chat() as answer:
        size = len(await answer.read())
    await until(lambda: len(lines()) == 2)
    missing, chat = lines()
    assert missing.startswith("GET /v1/models/{id} 404 key=alice 0.")
    assert missing.endswith("B (model_not_found)")
    assert chat.startswith("POST /v1/chat/completions 200 key=alice 0.")
    assert chat.endswith(f"s {size}B")


async def test_nothing_that_a_client_wrote_is_logged(box: Box, engine: ScriptedEngine, lines, caplog):
    caplog.set_level(logging.DEBUG, logger="infbox")
    secret = "hush"
    headers = {**box.authorized, "X-Request-Id": secret, "User-Agent": secret}
    async with box.client.post(f"/v1/completions?{secret}", json={"prompt": secret, "bad": 1}, headers=headers):
        pass
    async with box.client.post("/v1/completions", data=secret, headers=headers):
        pass
    async with box.client.get(f"/{secret}", headers={"Authorization": f"Bearer {secret}"}):
        pass
    async with box.client.get("/v1/models", headers={"X-API-Key": secret}):
        pass
    async with box.client.get(f"/v1/models/{secret}", headers=headers):
        pass
    await until(lambda: len(lines()) == 5)
    infbox_lines = [record.getMessage() for record in caplog.records if record.name.startswith("infbox")]
    assert not [line for line in infbox_lines if secret in line.lower() or box.key in line]


async def test_a_client_that_left_is_logged_as_such(box: Box, engine: ScriptedEngine, lines):
    async def wait(exchange: Exchange) -> None:
        if len(engine.exchanges) == 2:
            await exchange.events()
            await exchange.chunk(event("Pa"))
        await exchange.vanished.wait()

    engine.script = wait
    asking = asyncio.create_task(box.chat().__aenter__())
    await engine.next_exchange()
    asking.cancel()
    async with box.chat(stream=True) as answer:
        await answer.content.readany()
    await until(lambda: len(lines()) == 2)
    assert lines()[0].startswith("POST /v1/chat/completions 499 key=alice ")
    assert lines()[1].startswith("POST /v1/chat/completions 200 key=alice ")
    assert all(line.endswith("(client gone)") for line in lines())


async def test_a_fault_of_the_gateway_is_a_500_in_openais_format_and_never_shows_the_body(
    box: Box, engine: ScriptedEngine, lines, caplog, monkeypatch
):
    def broken(*_: object) -> bytes:
        raise RuntimeError("bug")

    monkeypatch.setattr("infbox.gateway.app.engine_body", broken)
    async with box.chat(prompt="hush") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (500, "internal_error")
    assert "RuntimeError: bug" in caplog.text
    assert "hush" not in caplog.text
