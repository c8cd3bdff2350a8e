"""Only what is listed exists, whatever the path is dressed up as."""

import asyncio

from gateway_box import Box
from scripted_engine import MODEL, ScriptedEngine

HOSTILE = [
    "/",
    "/metrics",
    "/tokenize",
    "/invocations",
    "/v1",
    "/v1/",
    "/v1/embeddings",
    "/v1/chat/completions/render",
    "/v1/models/",
    "//v1/models",
    "/v1//models",
    "/v1/models//x",
    "/v1/../metrics",
    "/v1/models/../metrics",
    "/v1/models/..%2f..%2fmetrics",
    "/v1/models/%2e%2e/metrics",
    "/v1/models/%252e%252e/x",
    "/v1%2fmodels",
    "/%761/models",
    "/v1/models%00",
    "/v1/models/a%0d%0ax",
    "/v1/models/%ff",
    "/v1/models;x",
    "/V1/models",
    "/v1/models\\",
    "/health/",
    "/load",
    "/docs",
    "/openapi.json",
]


async def test_an_unlisted_path_is_404_with_or_without_a_key_and_never_reaches_the_engine(
    box: Box, engine: ScriptedEngine
):
    for path in HOSTILE:
        for header in ("", f"authorization: Bearer {box.key}\r\n"):
            answer = await box.get(path, header)
            assert answer.startswith(b"HTTP/1.1 404 "), (path, answer)
            assert b'"code": "not_found"' in answer, (path, answer)
    assert engine.exchanges == []


async def test_an_odd_request_target_never_reaches_the_engine(box: Box, engine: ScriptedEngine):
    for target in ("http://x/metrics", "*", "x:443", "/v1/mod els", "?/v1/models", "/é"):
        answer = await box.get(target)
        assert answer.split(b" ", 2)[1] in (b"400", b"404"), (target, answer)
    assert engine.exchanges == []


WRONG_METHODS = [
    ("POST", "/v1/models", "GET"),
    ("HEAD", "/v1/models", "GET"),
    ("GET", "/v1/chat/completions", "POST"),
    ("OPTIONS", "/v1/completions", "POST"),
    ("DELETE", "/v1/models/x", "GET"),
    ("POST", "/health", "GET"),
]


async def test_a_wrong_method_is_405_and_names_the_right_one(box: Box, engine: ScriptedEngine):
    for method, path, allowed in WRONG_METHODS:
        async with box.client.request(method, path) as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, allowed), (method, path)
    assert engine.exchanges == []


async def test_models_are_listed_and_one_of_them_can_be_asked_for(box: Box, engine: ScriptedEngine):
    async with box.client.get("/v1/models", headers=box.authorized) as answer:
        assert [model["id"] for model in (await answer.json())["data"]] == [MODEL]
    async with box.client.get(f"/v1/models/{MODEL}", headers=box.authorized) as answer:
        assert (await answer.json())["id"] == MODEL
    async with box.client.get("/v1/models/other/name", headers=box.authorized) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (404, "model_not_found")


async def test_a_model_id_may_hold_slashes_plain_or_encoded(box: Box, engine: ScriptedEngine):
    async def slashed(exchange):
        await exchange.answer({"object": "list", "data": [{"id": "org/model"}]})

    engine.script = slashed
    for path in ("/v1/models/org/model", "/v1/models/org%2Fmodel"):
        answer = await box.get(path, f"x-api-key: {box.key}\r\n")
        assert answer.startswith(b"HTTP/1.1 200 "), answer


async def test_a_websocket_upgrade_is_not_taken(box: Box, engine: ScriptedEngine):
    request = (
        "GET /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    reader, writer = await asyncio.open_unix_connection(str(box.settings.socket))
    writer.write(request.encode())
    async with asyncio.timeout(10):
        assert b" 404 " in await reader.readline()
    writer.close()
