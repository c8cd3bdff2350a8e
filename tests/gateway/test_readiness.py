"""GET /ready means that the engine generates, and costs the engine next to nothing."""

import asyncio

import pytest
from gateway_box import Box
from scripted_engine import Exchange, ScriptedEngine, event, until, well

from infbox.gateway.engine import Engine
from infbox.gateway.readiness import Readiness


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def readiness(settings, engine: ScriptedEngine):
    client = Engine(settings.engine_socket, 5)
    await client.open()
    readiness = Readiness(client, 10, Clock())
    yield readiness
    readiness.close()
    await client.close()


def asked(engine: ScriptedEngine) -> int:
    return sum(exchange.path == "/v1/completions" for exchange in engine.exchanges)


async def test_health_is_answered_without_the_engine_and_without_a_key(box: Box, engine: ScriptedEngine):
    await engine.stop()
    async with box.client.get("/health") as answer:
        assert answer.status == 200


async def test_ready_asks_for_one_token_and_keeps_the_verdict_for_its_ttl(box: Box, engine: ScriptedEngine):
    for _ in range(5):
        async with box.client.get("/ready") as answer:
            assert answer.status == 200
    assert asked(engine) == 1
    assert engine.exchanges[-1].json["max_tokens"] == 1


async def test_the_engine_is_asked_again_when_the_ttl_is_over(readiness: Readiness, engine: ScriptedEngine):
    assert await readiness.reason() == ""
    readiness._clock.now += 9.9
    assert (await readiness.reason(), asked(engine)) == ("", 1)
    readiness._clock.now += 0.2
    assert (await readiness.reason(), asked(engine)) == ("", 2)


async def test_many_who_ask_at_once_share_one_probe(box: Box, engine: ScriptedEngine):
    free = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await free.wait()
        await well(exchange)

    async def ask() -> int:
        async with box.client.get("/ready") as answer:
            return answer.status

    engine.script = slow
    asking = [asyncio.create_task(ask()) for _ in range(20)]
    await engine.next_exchange()
    free.set()
    assert set(await asyncio.gather(*asking)) == {200}
    assert asked(engine) == 1


async def test_a_token_for_a_client_counts_as_a_probe(box: Box, engine: ScriptedEngine):
    for body in ({"stream": True}, {}):
        async with box.chat(**body) as answer:
            await answer.read()
    async with box.client.get("/ready") as answer:
        assert answer.status == 200
    assert asked(engine) == 0


async def test_an_error_for_a_client_does_not_count(box: Box, engine: ScriptedEngine):
    async def fail(exchange: Exchange) -> None:
        if exchange.path == "/v1/models":
            await well(exchange)
        elif not exchange.json.get("stream"):
            await exchange.answer({"error": {"message": "EngineDeadError"}}, 500)
        else:
            await exchange.events()
            await exchange.chunk(b'data: {"error": {"message": "EngineDeadError"}}\n\ndata: [DONE]\n\n')
            await exchange.end()

    engine.script = fail
    for body in ({"stream": True}, {}):
        async with box.chat(**body) as answer:
            await answer.read()
    async with box.client.get("/ready") as answer:
        assert answer.status == 503


async def test_a_reason_says_no_more_than_anyone_may_know(box: Box, engine: ScriptedEngine):
    async def refuse(exchange: Exchange) -> None:
        await (
            well(exchange) if exchange.path == "/v1/models" else exchange.answer({"error": {"message": "/secret"}}, 400)
        )

    async def no_token(exchange: Exchange) -> None:
        await (well(exchange) if exchange.path == "/v1/models" else exchange.answer({"choices": []}))

    for script in (refuse, no_token):
        engine.script = script
        async with box.client.get("/ready") as answer:
            error = (await answer.json())["error"]
        assert (answer.status, error["message"]) == (503, "The engine does not generate.")


async def test_an_engine_that_comes_up_is_ready_within_a_second_not_a_ttl(readiness: Readiness, engine: ScriptedEngine):
    await engine.stop()
    assert await readiness.reason() == "The engine does not answer."
    await engine.start()
    assert await readiness.reason() == "The engine does not answer."
    readiness._clock.now += 1.1
    assert await readiness.reason() == ""


async def test_an_engine_that_hangs_is_not_ready(readiness: Readiness, engine: ScriptedEngine, monkeypatch):
    async def hang(exchange: Exchange) -> None:
        await exchange.vanished.wait()

    monkeypatch.setattr("infbox.gateway.readiness.PROBE_TIMEOUT_SECONDS", 0.05)
    engine.script = hang
    assert "generated no token within" in await readiness.reason()
    await asyncio.wait_for(engine.exchanges[0].vanished.wait(), 10)


async def test_an_engine_that_dies_while_streams_were_fresh_is_noticed_after_the_ttl(
    readiness: Readiness, engine: ScriptedEngine
):
    readiness.token_seen()
    await engine.stop()
    assert await readiness.reason() == ""
    readiness._clock.now += 10.1
    assert await readiness.reason() == "The engine does not answer."


async def test_a_stream_under_way_keeps_the_box_ready(box: Box, engine: ScriptedEngine):
    async def endless(exchange: Exchange) -> None:
        await exchange.events()
        await exchange.chunk(event("Pa"))
        await exchange.vanished.wait()

    engine.script = endless
    async with box.chat(stream=True) as answer:
        await answer.content.readany()
        async with box.client.get("/ready") as ready:
            assert ready.status == 200
    await until(engine.exchanges[0].vanished.is_set)


async def test_an_engine_that_has_failed_a_client_must_prove_itself_anew(box: Box, engine: ScriptedEngine):
    async with box.chat() as answer:
        await answer.read()
    await engine.stop()
    async with box.client.get("/ready") as answer:
        assert answer.status == 200  # nobody has noticed yet
    async with box.chat() as answer:
        assert answer.status == 503
    async with box.client.get("/ready") as answer:
        assert answer.status == 503


async def test_a_cut_stream_makes_the_engine_prove_itself_anew(box: Box, engine: ScriptedEngine):
    async def cut(exchange: Exchange) -> None:
        await exchange.events()
        await exchange.chunk(event("Par"))
        exchange.cut()

    engine.script = cut
    async with box.chat(stream=True) as answer:
        assert b"engine_stream_cut" in await answer.read()
    await engine.stop()
    async with box.client.get("/ready") as answer:
        assert answer.status == 503
