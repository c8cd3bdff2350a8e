"""What counts as a request for the idle stop: one with a right key, and nothing that a scanner or a monitor sends."""

import asyncio
from dataclasses import replace

import pytest
from gateway_box import Box
from scripted_engine import Exchange, ScriptedEngine, until

from infbox.gateway import activity
from infbox.gateway.settings import Settings
from infbox.idle import boottime, read_activity


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(activity, "PERIOD_SECONDS", 0.01)
    return replace(settings, activity_file=settings.socket.with_name("activity.json"))


def record(settings: Settings) -> tuple[int, float]:
    assert settings.activity_file
    return read_activity(settings.activity_file, boottime())


async def test_a_request_is_in_flight_until_its_answer_ends(
    box: Box, engine: ScriptedEngine, settings: Settings
) -> None:
    end = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await exchange.events()
        await end.wait()
        await exchange.chunk(b"data: [DONE]\n\n")
        await exchange.end()

    engine.script = slow
    async with box.chat(stream=True) as answer:
        await until(lambda: record(settings)[0] == 1)
        end.set()
        await answer.read()
    await until(lambda: record(settings)[0] == 0)


async def test_a_client_that_leaves_is_not_in_flight(box: Box, engine: ScriptedEngine, settings: Settings) -> None:
    async def forever(exchange: Exchange) -> None:
        await exchange.vanished.wait()

    engine.script = forever
    asking = asyncio.ensure_future(box.chat())
    await until(lambda: record(settings)[0] == 1)
    asking.cancel()
    await until(lambda: record(settings)[0] == 0)


async def test_health_readiness_wrong_keys_and_wrong_paths_are_no_requests(box: Box, settings: Settings) -> None:
    await until(lambda: settings.activity_file is not None and settings.activity_file.exists())
    started = record(settings)[1]
    for path in ("/health", "/ready", "/v1/models", "/wp-login.php"):
        async with box.client.get(path) as answer:
            await answer.read()
    written = boottime() + 0.05
    await until(lambda: boottime() > written)
    assert record(settings) == (0, started)
    async with box.client.get("/v1/models/none", headers=box.authorized) as answer:
        await answer.read()
    await until(lambda: record(settings)[1] > started)
