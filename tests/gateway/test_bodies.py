"""What the engine gets of a client's body and headers, and which bodies it never sees."""

import asyncio
import json

import pytest
from gateway_box import Box
from scripted_engine import ScriptedEngine


async def test_the_gateways_fields_are_taken_out_and_the_salt_is_the_tenant(box: Box, engine: ScriptedEngine):
    theirs = {"model": "m", "prompt": [1, 2, 3], "seed": 7}
    ours = {
        "kv_transfer_params": {"prompt_token_ids": [1]},
        "ec_transfer_params": {"x": 1},
        "vllm_xargs": {"kv_transfer_params": "x"},
        "cache_salt": "team-b",
        "priority": -1,
        "request_id": "r",
        "session_id": "s",
    }
    async with box.client.post("/v1/completions", json={**ours, **theirs}, headers=box.authorized) as answer:
        assert answer.status == 200
    assert engine.exchanges[0].json == {**theirs, "cache_salt": "team-a"}


async def test_a_field_given_twice_does_not_slip_through(box: Box, engine: ScriptedEngine):
    body = b'{"cache_salt": "b", "prompt": "x", "cache_salt": "team-b", "\\u0063ache_salt": "team-c"}'
    async with box.client.post("/v1/completions", data=body, headers=box.authorized):
        pass
    assert engine.exchanges[0].body.count(b"cache_salt") == 1
    assert engine.exchanges[0].json["cache_salt"] == "team-a"


async def test_text_of_every_kind_arrives_unchanged(box: Box, engine: ScriptedEngine):
    text = 'é 漢 \U0001f600 \u2028 \x00 \x7f "quoted" \\n </script>'
    for body in (json.dumps({"prompt": text}), json.dumps({"prompt": text}, ensure_ascii=False)):
        async with box.client.post("/v1/completions", data=body.encode(), headers=box.authorized):
            pass
        assert engine.exchanges[-1].json["prompt"] == text
    async with box.client.post("/v1/completions", data=b'{"prompt": "\\ud800 \\udfff"}', headers=box.authorized):
        pass
    assert engine.exchanges[-1].body.startswith(b'{"prompt":"\\ud800 \\udfff"')


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "; ;", ""])
async def test_json_is_taken_whatever_the_content_type_says(box: Box, engine: ScriptedEngine, content_type: str):
    headers = {**box.authorized, "Content-Type": content_type}
    async with box.client.post("/v1/completions", data=b'{"prompt": "x"}', headers=headers) as answer:
        assert answer.status == 200
    assert engine.exchanges[0].headers["content-type"] == "application/json"


async def test_a_body_that_is_no_json_object_is_400_and_says_so(box: Box, engine: ScriptedEngine):
    bodies = {
        b"": "not JSON",
        b"{": "not JSON: Expecting property name enclosed in double quotes at character 1",
        b"[1]": "must be a JSON object",
        b'"text"': "must be a JSON object",
        b"null": "must be a JSON object",
        b'{"a": NaN}': "not JSON",
        b'{"a": -Infinity}': "not JSON",
        b'{"a": 1e999}': "too large",
        b'{"a": ' + b"9" * 5000 + b"}": "not JSON",
        b'{"a": ' + b"[" * 40_000 + b"]" * 40_000 + b"}": "nested too deeply",
        b'{"a":' * 15_000 + b"1" + b"}" * 15_000: "nested too deeply",
        b'\xff{"a": 1}': "not JSON",
        b"\x1f\x8b\x08": "not JSON",
        b"a=b": "not JSON",
    }
    for body, said in bodies.items():
        async with box.client.post("/v1/chat/completions", data=body, headers=box.authorized) as answer:
            error = (await answer.json())["error"]
            assert (answer.status, error["code"]) == (400, "invalid_body"), body[:40]
            assert said in error["message"], (body[:40], error)
    assert engine.exchanges == []


async def test_nesting_at_every_depth_is_an_answer_and_never_a_500(box: Box, engine: ScriptedEngine):
    for depth in range(300, 1100, 20):
        body = b'{"a": ' + b"[" * depth + b"]" * depth + b"}"
        async with box.client.post("/v1/chat/completions", data=body, headers=box.authorized) as answer:
            assert answer.status in (200, 400), depth


async def test_a_body_over_the_limit_is_413_by_its_declared_length_before_it_is_sent(box: Box, engine: ScriptedEngine):
    for length in ("100001", "9" * 40):
        reader, writer = await asyncio.open_unix_connection(str(box.settings.socket))
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-api-key: {box.key}\r\ncontent-length: {length}\r\n\r\n"
        writer.write(head.encode())
        async with asyncio.timeout(10):
            status = await reader.readline()
        writer.close()
        assert status.split(b" ")[1] in (b"413", b"400"), status
    assert engine.exchanges == []


async def test_a_body_over_the_limit_is_413_by_its_actual_length(box: Box, engine: ScriptedEngine):
    async def endless():
        for _ in range(20):
            yield b" " * 10_000

    async with box.client.post("/v1/completions", data=endless(), headers=box.authorized) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (413, "request_too_large")
    assert engine.exchanges == []


async def test_a_body_of_exactly_the_limit_is_taken(box: Box, engine: ScriptedEngine):
    frame = len(b'{"prompt": ""}')
    body = b'{"prompt": "' + b"x" * (box.settings.max_body_bytes - frame) + b'"}'
    async with box.client.post("/v1/completions", data=body, headers=box.authorized) as answer:
        assert answer.status == 200


async def test_of_the_clients_headers_the_engine_gets_none_but_a_made_unique_request_id(
    box: Box, engine: ScriptedEngine
):
    headers = {
        **box.authorized,
        "X-Request-Id": "abc-1",
        "X-data-parallel-rank": "1",
        "Cookie": "a=b",
        "traceparent": "00-1-1-1",
        "User-Agent": "curl",
        "Accept-Encoding": "gzip",
    }
    for _ in range(2):
        async with box.client.post("/v1/completions", json={}, headers=headers) as answer:
            assert answer.headers["X-Request-Id"] == "abc-1"
    ids = [exchange.headers.pop("x-request-id") for exchange in engine.exchanges]
    assert ids[0] != ids[1]
    assert all(one.startswith("abc-1-") for one in ids)
    assert engine.exchanges[0].headers.keys() == {"host", "content-type", "content-length", "connection"}


async def test_a_request_id_of_odd_characters_or_length_is_replaced(box: Box, engine: ScriptedEngine):
    for odd in ("a b", "x" * 129, "é", "a,b", "<x>"):
        headers = {**box.authorized, "X-Request-Id": odd}
        async with box.client.post("/v1/completions", json={}, headers=headers) as answer:
            assert answer.headers["X-Request-Id"] == engine.exchanges[-1].headers["x-request-id"]
            assert len(answer.headers["X-Request-Id"]) == 32
