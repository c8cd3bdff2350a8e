"""The client that people use, against the gateway: successes look like successes, and cuts do not."""

from collections.abc import AsyncIterator

import httpx2
import openai
import pytest
from gateway_box import Box
from scripted_engine import MODEL, Exchange, ScriptedEngine, event

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
async def client(box: Box) -> AsyncIterator[openai.AsyncOpenAI]:
    transport = httpx2.AsyncHTTPTransport(uds=str(box.settings.socket))
    http = httpx2.AsyncClient(transport=transport)
    async with openai.AsyncOpenAI(base_url="http://box/v1", api_key=box.key, http_client=http, max_retries=0) as client:
        yield client


async def test_models_answers_and_streams(client: openai.AsyncOpenAI, engine: ScriptedEngine):
    assert [model.id async for model in client.models.list()] == [MODEL]
    assert (await client.models.retrieve(MODEL)).id == MODEL
    answer = await client.chat.completions.create(model=MODEL, messages=QUESTION)
    assert answer.choices[0].message.content == "Paris"
    stream = await client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
    assert [chunk.choices[0].delta.content async for chunk in stream] == ["Par", "is"]


@pytest.mark.parametrize("last", [event("is"), event("is")[:-1], b"data: {"])
async def test_a_cut_stream_raises(client: openai.AsyncOpenAI, engine: ScriptedEngine, last: bytes):
    async def cut(exchange: Exchange) -> None:
        await exchange.events()
        await exchange.chunk(event("Par") + last)
        await exchange.end()

    engine.script = cut
    stream = await client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
    texts = []
    with pytest.raises((openai.APIError, ValueError)):  # noqa: PT012 - the loop is what raises
        async for chunk in stream:
            texts.append(chunk.choices[0].delta.content)
    assert texts[0] == "Par"


async def test_errors_have_the_classes_that_clients_know(client: openai.AsyncOpenAI, engine: ScriptedEngine):
    with pytest.raises(openai.NotFoundError, match="There is no model"):
        await client.models.retrieve("org/other")
    with pytest.raises(openai.NotFoundError):
        await client.embeddings.create(model=MODEL, input="x")
    with pytest.raises(openai.AuthenticationError, match="not valid"):
        await client.with_options(api_key="infbox-wrong").models.list()
    await engine.stop()
    with pytest.raises(openai.InternalServerError, match="starting or down"):
        await client.chat.completions.create(model=MODEL, messages=QUESTION)
