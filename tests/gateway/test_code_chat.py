"""`<model>:code` in chat: the pack stands behind the system header, and nothing of the client's is changed."""

import asyncio
import json
import re

import aiohttp
import pytest
from gateway_box import Box
from scripted_engine import MODEL, Exchange, ScriptedEngine
from toy_engine import CONTROL, NEWLINES, ToyEngine
from toy_watcher import ToyWatcher

PACK = [5001, 5002, 5003, 5004, 5005, 5006]
HEADER = [CONTROL["<|im_start|>"], *map(ord, "system"), NEWLINES + 1]
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "What is 4711?"}
CODE = f"{MODEL}:code"


async def ask(box: Box, key: str | None = None, headers: dict[str, str] | None = None, **body: object):
    """The status, the headers and the JSON of an answer."""
    fields = {"Authorization": f"Bearer {key or box.key}", **(headers or {})}
    body = {"model": CODE, "messages": [SYSTEM, USER], **body}
    async with box.client.post("/v1/chat/completions", json=body, headers=fields) as answer:
        return answer.status, answer.headers, await answer.json()


@pytest.fixture(autouse=True)
def workspace(watcher: ToyWatcher):
    return watcher.add("team-a", "shop", PACK)


async def test_the_pack_stands_behind_the_system_header_and_before_the_clients_text_and_tools(
    code_box: Box, toy: ToyEngine
):
    tools = [{"type": "function", "function": {"name": "look"}}]
    status, headers, answer = await ask(code_box, tools=tools, temperature=0.5)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "Paris")
    plain = toy.chat_tokens(SYSTEM, USER, tools=tools)
    assert plain[: len(HEADER)] == HEADER
    assert toy.asked == [("team-a", [*HEADER, *PACK, *plain[len(HEADER) :]])]
    sent = toy.bodies[-1]
    assert {name: sent[name] for name in sent if name != "kv_transfer_params"} == {
        "model": MODEL,
        "messages": [SYSTEM, USER],
        "tools": tools,
        "temperature": 0.5,
        "cache_salt": "team-a",
    }
    assert (headers["X-Infbox-Pack"], headers["X-Infbox-Pack-Tokens"]) == ("shop@1", "6")
    assert headers["X-Infbox-Cached-Tokens"] == "0"


async def test_the_second_request_finds_header_and_pack_in_the_cache_whatever_the_client(code_box: Box, toy: ToyEngine):
    await ask(code_box)
    _, headers, _ = await ask(code_box, messages=[{"role": "system", "content": "Other"}, USER], tools=[{"a": 1}])
    assert int(headers["X-Infbox-Cached-Tokens"]) == (len(HEADER) + len(PACK)) // 4 * 4


@pytest.mark.parametrize(
    "content", ["\nBe brief.", "\n\n", [{"type": "text", "text": "\nBe"}, {"type": "text", "text": "!"}]]
)
async def test_a_system_text_that_merges_with_the_header_stays_what_it_is(
    code_box: Box, toy: ToyEngine, content: object
):
    messages = [{"role": "system", "content": content}, USER]
    status, _, _ = await ask(code_box, messages=messages)
    text = toy.template({"messages": messages}).removeprefix("<|im_start|>system\n")
    assert status == 200
    assert toy.asked[-1][1] == [*HEADER, *PACK, *toy.tokens(text)]
    assert toy.bodies[-1]["messages"] == messages


async def test_without_a_system_message_a_system_turn_is_made_that_holds_the_pack_alone(code_box: Box, toy: ToyEngine):
    await ask(code_box, messages=[USER])
    assert toy.asked[-1][1] == [*HEADER, *PACK, *toy.tokens("<|im_end|>\n"), *toy.chat_tokens(USER)]


async def test_a_default_system_text_of_the_template_is_kept(code_box: Box, toy: ToyEngine):
    toy.default_system = "You are Toy."
    await ask(code_box, messages=[USER])
    plain = toy.chat_tokens(USER)
    assert toy.asked[-1][1] == [*HEADER, *PACK, *plain[len(HEADER) :]]
    assert "Toy" in "".join(map(chr, plain))


async def test_a_template_without_a_system_turn_gets_the_pack_where_prompts_begin_to_differ(
    code_box: Box, toy: ToyEngine
):
    toy.takes_system = False
    for content in ("Hi", "\nHi"):
        status, _, _ = await ask(code_box, messages=[{"role": "user", "content": content}])
        assert status == 200
        head = toy.tokens("<|im_start|>user\n")
        rest = toy.tokens(f"{content}<|im_end|>\n<|im_start|>assistant\n")
        assert toy.asked[-1][1] == [*head, *PACK, *rest]


async def test_clients_cannot_choose_ids_salt_or_turn(code_box: Box, toy: ToyEngine):
    await ask(
        code_box,
        kv_transfer_params={"prompt_token_ids": [1, 2, 3], "do_remote_prefill": True},
        cache_salt="team-b",
        priority=-5,
        vllm_xargs={"a": 1},
        request_id="x",
    )
    sent = toy.bodies[-1]
    assert set(sent["kv_transfer_params"]) == {"prompt_token_ids"}
    assert sent["kv_transfer_params"]["prompt_token_ids"][len(HEADER) :][: len(PACK)] == PACK
    assert sent["cache_salt"] == "team-a"
    assert not {"priority", "vllm_xargs", "request_id"} & set(sent)


@pytest.mark.parametrize(
    ("field", "value"), [("echo", True), ("prompt_logprobs", 0), ("truncate_prompt_tokens", 10), ("prompt_embeds", "x")]
)
async def test_what_would_drop_or_cut_the_pack_is_refused(code_box: Box, toy: ToyEngine, field: str, value: object):
    status, _, answer = await ask(code_box, **{field: value})
    assert (status, answer["error"]["code"]) == (400, "not_with_a_workspace")
    assert field in answer["error"]["message"]
    assert toy.bodies == []


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:"}},
        {"type": "text", "text": "x", "image_url": "data:"},
        {"image_url": "x"},
        {"type": 5},
    ],
)
async def test_what_is_not_text_is_refused_since_the_engine_would_leave_the_pack_out(
    code_box: Box, toy: ToyEngine, part: object
):
    status, _, answer = await ask(code_box, messages=[{"role": "user", "content": [part]}])
    assert (status, answer["error"]["code"]) == (400, "not_with_a_workspace")
    assert toy.bodies == []


async def test_a_request_too_long_for_the_rest_of_the_context_is_refused_with_numbers(code_box: Box, toy: ToyEngine):
    plain = len(toy.chat_tokens(USER, SYSTEM))
    toy.context = plain + len(PACK)
    status, _, answer = await ask(code_box)
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    for number in (toy.context, plain, len(PACK)):
        assert re.search(rf"\b{number}\b", answer["error"]["message"])
    assert toy.bodies == []


async def test_one_token_of_room_is_enough(code_box: Box, toy: ToyEngine):
    toy.context = len(toy.chat_tokens(USER, SYSTEM)) + len(PACK) + 1
    assert (await ask(code_box))[0] == 200


async def test_what_the_engine_says_of_a_bad_request_is_passed_on(code_box: Box):
    status, _, answer = await ask(code_box, model="other:code")
    assert (status, answer) == (404, {"error": {"message": "The model `other` does not exist."}})
    for messages in (None, [], "hello", {}):
        status, _, answer = await ask(code_box, messages=messages)
        assert (status, answer["error"]["message"]) == (400, "messages: Field required")


async def test_another_engine_with_another_template_is_noticed(code_box: Box, engine: ScriptedEngine, toy: ToyEngine):
    await ask(code_box)
    await engine.stop()
    engine.script = other = ToyEngine(default_system="New")
    other.takes_system = False
    await engine.start()
    status, _, _ = await ask(code_box, messages=[USER])
    assert status == 200
    before = other.asked[-1][1].index(PACK[0])
    assert other.asked[-1][1][:before] == other.tokens("<|im_start|>system\nNew<|im_end|>\n<|im_start|>user\n")


async def test_an_engine_without_render_is_named(code_box: Box, engine: ScriptedEngine, toy: ToyEngine):
    async def old(exchange: Exchange) -> None:
        if exchange.path.endswith("/render"):
            await exchange.answer({"detail": "Not Found"}, 404)
        else:
            await toy(exchange)

    engine.script = old
    status, _, answer = await ask(code_box)
    assert status == 502
    assert "--enable-scale-out" in answer["error"]["message"]


async def stream(box: Box, **body: object) -> tuple[aiohttp.ClientResponse, bytes]:
    async with box.client.post(
        "/v1/chat/completions", json={"model": CODE, "messages": [USER], "stream": True, **body}, headers=box.authorized
    ) as answer:
        return answer, await answer.read()


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {"continuous_usage_stats": True}])
async def test_a_stream_has_the_pack_in_its_head_and_no_event_that_the_client_did_not_ask_for(
    code_box: Box, toy: ToyEngine, options: object
):
    answer, body = await stream(code_box, **({} if options is None else {"stream_options": options}))
    assert answer.headers["X-Infbox-Pack"] == "shop@1"
    assert "X-Infbox-Cached-Tokens" not in answer.headers
    assert b"usage" not in body
    assert body.endswith(b'"finish_reason": null}]}\n\ndata: [DONE]\n\n')
    assert toy.bodies[-1]["stream_options"] == {"include_usage": True}


async def test_a_stream_with_usage_ends_with_the_cached_tokens(code_box: Box):
    await stream(code_box)
    _, body = await stream(code_box, stream_options={"include_usage": True})
    events = [line.removeprefix(b"data: ") for line in body.split(b"\n\n")]
    usage = json.loads(events[-3])["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > len(PACK)


async def test_a_stream_that_is_cut_still_says_so(code_box: Box, engine: ScriptedEngine, toy: ToyEngine):
    async def cut(exchange: Exchange) -> None:
        if exchange.path != "/v1/chat/completions":
            return await toy(exchange)
        await exchange.events()
        await exchange.chunk(b'data: {"a": 1}\n\ndata: {"b')
        await asyncio.sleep(0.05)
        return exchange.cut()

    engine.script = cut
    _, body = await stream(code_box)
    assert body.startswith(b'data: {"a": 1}\n\ndata: {"b\n\ndata: {"error"')
    assert b"engine_stream_cut" in body


async def test_a_whole_answer_that_is_cut_is_an_error_not_half_an_answer(
    code_box: Box, engine: ScriptedEngine, toy: ToyEngine
):
    async def cut(exchange: Exchange) -> None:
        if exchange.path != "/v1/chat/completions":
            return await toy(exchange)
        await exchange.head(content_type="application/json", content_length="100")
        return await exchange.raw(b'{"a')

    engine.script = cut
    status, _, answer = await ask(code_box)
    assert (status, answer["error"]["code"]) == (502, "engine_failed")


async def test_nothing_of_a_request_or_a_pack_gets_into_the_log(
    code_box: Box, caplog: pytest.LogCaptureFixture, watcher: ToyWatcher
):
    caplog.set_level("DEBUG", "infbox")
    await ask(code_box, messages=[{"role": "user", "content": "hunter2"}], headers={"X-Infbox-Workspace": "shop"})
    await ask(code_box, headers={"X-Infbox-Workspace": "hunter2"})
    assert "hunter2" not in caplog.text
    assert "5001" not in caplog.text
