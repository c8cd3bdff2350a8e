"""Answers on their way to the client: as they come, and never whole-looking when they were cut."""

import asyncio
import json

import aiohttp
import pytest
from gateway_box import Box
from scripted_engine import Exchange, ScriptedEngine, event, until

from infbox.gateway.relay import CUT_EVENT, EventTail


async def forever(exchange: Exchange) -> None:
    await exchange.vanished.wait()


async def test_a_stream_arrives_byte_for_byte_and_chunk_by_chunk(box: Box, engine: ScriptedEngine):
    chunks = [
        event("Pa"),
        b'data: {"half',
        b'": 1}\n\n',
        b": comment\n\n" + event("r") + event("is"),
        b"data: [DONE]\n\n",
    ]
    passed = asyncio.Semaphore(1)

    async def one_by_one(exchange: Exchange) -> None:
        await exchange.events()
        for chunk in chunks:
            await passed.acquire()  # not before the client has the one before
            await exchange.chunk(chunk)
        await exchange.end()

    engine.script = one_by_one
    async with box.chat(stream=True) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        received = []
        async for chunk in answer.content.iter_any():
            received.append(chunk)
            passed.release()
    assert received == chunks


async def test_the_engines_name_and_hop_headers_stay_behind(box: Box, engine: ScriptedEngine):
    async def talkative(exchange: Exchange) -> None:
        await exchange.head(
            content_type="application/json",
            content_length="2",
            server="uvicorn",
            set_cookie="a=b",
            keep_alive="timeout=5",
            x_internal="1",
        )
        await exchange.raw(b"{}")

    engine.script = talkative
    async with box.chat() as answer:
        names = {name.lower() for name in answer.headers}
    assert names == {"content-type", "content-length", "x-request-id", "date", "connection"}


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (event("Pa"), CUT_EVENT),
        (b'data: {"cho', b"\n\n" + CUT_EVENT),
        (event("Pa")[:-1], b"\n\n" + CUT_EVENT),
        (b"data: [DO", b"\n\n" + CUT_EVENT),
        (event("data: [DONE]"), CUT_EVENT),
        (event("\n\ndata: [DONE]\n\n"), CUT_EVENT),
    ],
)
@pytest.mark.parametrize("how", ["connection lost", "ended early"])
async def test_a_stream_that_is_cut_ends_with_an_error_event(
    box: Box, engine: ScriptedEngine, last: bytes, expected: bytes, how: str
):
    async def cut(exchange: Exchange) -> None:
        await exchange.events()
        await exchange.chunk(event("first"))
        await exchange.chunk(last)
        if how == "ended early":
            await exchange.end()
        else:
            await until(lambda: got.endswith(last))
            exchange.cut()

    got = b""
    engine.script = cut
    async with box.chat(stream=True) as answer:
        async for chunk in answer.content.iter_any():
            got += chunk
    assert got == event("first") + last + expected
    error = json.loads(CUT_EVENT.removeprefix(b"data: "))["error"]
    assert (error["code"], error["type"]) == ("engine_stream_cut", "server_error")


async def test_a_stream_cut_before_its_first_event_is_an_error_event_alone(box: Box, engine: ScriptedEngine):
    async def cut(exchange: Exchange) -> None:
        await exchange.events()
        await asyncio.sleep(0.05)  # let the head be read; either way of ending is right
        exchange.cut()

    engine.script = cut
    async with box.chat(stream=True) as answer:
        assert (answer.status, await answer.read()) == (200, CUT_EVENT)


async def test_a_stream_that_was_complete_is_not_called_cut_when_only_its_last_chunk_is_missing(
    box: Box, engine: ScriptedEngine
):
    whole = event("Paris") + b"data: [DONE]\n\n"

    async def cut(exchange: Exchange) -> None:
        await exchange.events()
        await exchange.chunk(whole)
        await until(lambda: got == whole)
        exchange.cut()

    got = b""
    engine.script = cut
    async with box.chat(stream=True) as answer:
        async for chunk in answer.content.iter_any():
            got += chunk
    assert got == whole


@pytest.mark.parametrize("together", [True, False])
async def test_a_stream_in_which_the_engine_reports_a_failure_does_not_say_that_it_is_done(
    box: Box, engine: ScriptedEngine, together: bool
):
    failure = b'data: {"error": {"message": "EngineCore encountered an issue.", "code": 500}}\n\n'

    async def fail(exchange: Exchange) -> None:
        await exchange.events()
        if together:
            await exchange.chunk(event("Par") + failure + b"data: [DONE]\n\n")
        else:
            for piece in (event("Par"), failure[:9], failure[9:], b"data: [DONE]\n\n"):
                await exchange.chunk(piece)
                await asyncio.sleep(0.05)
        await exchange.end()

    engine.script = fail
    async with box.chat(stream=True) as answer:
        got = await answer.read()
    assert got.startswith(event("Par") + failure)
    assert b"[DONE]" not in got
    assert b"engine_stream_cut" not in got


@pytest.mark.parametrize("framing", [{"content_length": "100"}, {"transfer_encoding": "chunked"}])
async def test_another_body_that_is_cut_is_a_transport_error(box: Box, engine: ScriptedEngine, framing: dict[str, str]):
    async def cut(exchange: Exchange) -> None:
        await exchange.head(content_type="application/json", **framing)
        await (exchange.raw(b'{"a":') if "content_length" in framing else exchange.chunk(b'{"a":'))
        await until(lambda: got == b'{"a":')
        exchange.cut()

    got = b""
    engine.script = cut
    async with box.chat() as answer:
        got = await answer.content.readany()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.readany()
    assert got == b'{"a":'


async def test_a_client_that_leaves_before_the_first_byte_makes_the_engine_abort(box: Box, engine: ScriptedEngine):
    engine.script = forever
    for body in ({"stream": True}, {}):
        asking = asyncio.create_task(box.chat(**body).__aenter__())
        before = len(engine.exchanges)
        await until(lambda before=before: len(engine.exchanges) > before)
        asking.cancel()
        await asyncio.wait_for(engine.exchanges[-1].vanished.wait(), 10)


async def test_a_client_that_leaves_in_mid_stream_makes_the_engine_abort(box: Box, engine: ScriptedEngine):
    async def endless(exchange: Exchange) -> None:
        await exchange.events()
        await exchange.chunk(event("Pa"))
        await exchange.vanished.wait()

    engine.script = endless
    async with box.chat(stream=True) as answer:
        await answer.content.readany()
    await asyncio.wait_for(engine.exchanges[0].vanished.wait(), 10)


async def test_a_client_that_leaves_without_reading_a_flood_makes_the_engine_abort(box: Box, engine: ScriptedEngine):
    async def flood(exchange: Exchange) -> None:
        await exchange.events()
        while not exchange.vanished.is_set():
            await exchange.chunk(event("x" * 60_000))

    engine.script = flood
    reader, writer = await asyncio.open_unix_connection(str(box.settings.socket), limit=100)
    writer.write(
        f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-api-key: {box.key}\r\ncontent-length: 2\r\n\r\n{{}}".encode()
    )
    assert b"200" in await reader.readline()
    writer.transport.abort()
    exchange = await engine.next_exchange()
    await asyncio.wait_for(exchange.vanished.wait(), 10)


async def test_a_client_that_leaves_while_sending_its_body_never_reaches_the_engine(box: Box, engine: ScriptedEngine):
    _, writer = await asyncio.open_unix_connection(str(box.settings.socket))
    writer.write(
        f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-api-key: {box.key}\r\ncontent-length: 9\r\n\r\n{{".encode()
    )
    await writer.drain()
    writer.close()
    async with box.client.get("/health") as answer:
        assert answer.status == 200
    assert engine.exchanges == []


async def test_the_engines_own_errors_are_passed_on(box: Box, engine: ScriptedEngine):
    for status in (400, 404, 422, 429, 500, 503):
        body = {"error": {"message": "because", "type": "BadRequestError", "param": None, "code": status}}

        async def refuse(exchange: Exchange, status: int = status, body: object = body) -> None:
            await exchange.answer(body, status)

        engine.script = refuse
        async with box.chat(stream=True) as answer:
            assert (answer.status, await answer.json()) == (status, body)


async def test_an_engine_that_is_down_is_503_with_retry_after_and_a_way_to_look(box: Box, engine: ScriptedEngine):
    await engine.stop()
    for path in ("/v1/chat/completions", "/v1/models", "/v1/models/x"):
        method = "POST" if path.endswith("completions") else "GET"
        async with box.client.request(method, path, data=b"{}", headers=box.authorized) as answer:
            error = (await answer.json())["error"]
            assert (answer.status, error["code"]) == (503, "engine_unavailable")
            assert answer.headers["Retry-After"] == "5"
            assert "journalctl -u infbox-vllm" in error["message"]


async def test_an_engine_that_answers_no_http_is_502(box: Box, engine: ScriptedEngine):
    async def silent(exchange: Exchange) -> None:
        exchange.cut()

    async def garbage(exchange: Exchange) -> None:
        await exchange.raw(b"SSH-2.0-OpenSSH\r\n")

    async def half_a_head(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-ty")

    async def redirect(exchange: Exchange) -> None:
        await exchange.head(307, location="http://elsewhere/", content_length="0")

    async def bare_error(exchange: Exchange) -> None:
        await exchange.head(500, content_type="text/plain", content_length="3")
        await exchange.raw(b"bug")

    for script in (silent, garbage, half_a_head, redirect, bare_error):
        engine.script = script
        async with box.chat(stream=True) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (502, "engine_failed"), script


def test_a_done_event_is_recognised_however_it_was_cut_into_chunks():
    stream = event("x") + b"data: [DONE]\n\n"
    for size in range(1, 40):
        tail = EventTail()
        for start in range(0, len(stream), size):
            assert not tail.done or not stream[start:].strip()
            tail.feed(stream[start : start + size])
        assert tail.done
        assert not tail.within_event
