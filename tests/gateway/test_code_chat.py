"""`<model>:code` in chat: the pack stands behind the system header, and nothing of the client's is changed."""

import asyncio
import json
import re
from dataclasses import replace

import aiohttp
import pytest
from conftest import serve
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


async def test_a_header_chooses_a_workspace_with_any_model_name(code_box: Box, toy: ToyEngine, watcher: ToyWatcher):
    watcher.add("team-a", "site", [6001, 6002])
    status, headers, _ = await ask(code_box, model=MODEL, headers={"X-Infbox-Workspace": "site"})
    assert (status, headers["X-Infbox-Pack"]) == (200, "site@1")
    status, headers, _ = await ask(code_box, model=f"{CODE}:site")
    assert (status, headers["X-Infbox-Pack"], toy.bodies[-1]["model"]) == (200, "site@1", MODEL)
    status, headers, _ = await ask(code_box, headers={"X-Infbox-Workspace": "shop"})
    assert (status, headers["X-Infbox-Pack"]) == (200, "shop@1")
    status, _, answer = await ask(code_box, model=f"{CODE}:site", headers={"X-Infbox-Workspace": "shop"})
    assert (status, answer["error"]["code"]) == (400, "workspace_ambiguous")


async def test_several_workspaces_must_be_told_apart(code_box: Box, watcher: ToyWatcher):
    watcher.add("team-a", "blog", [1])
    watcher.add("team-b", "secret", [1])
    status, _, answer = await ask(code_box)
    assert (status, answer["error"]["code"]) == (400, "workspace_ambiguous")
    assert "blog, shop." in answer["error"]["message"]
    assert "secret" not in json.dumps(answer)
    assert "<model>:code:blog" in answer["error"]["message"]
    assert "X-Infbox-Workspace: blog" in answer["error"]["message"]


async def test_a_tenant_without_a_workspace_is_told_how_to_get_one(code_box: Box, toy: ToyEngine):
    key = code_box.store.add("bob", "team-b")
    status, _, answer = await ask(code_box, key)
    assert (status, answer["error"]["code"]) == (404, "no_workspace")
    assert "watcher_workspaces" in answer["error"]["message"]
    assert "shop" not in json.dumps(answer)


async def test_another_tenants_workspace_is_answered_as_one_that_does_not_exist(
    code_box: Box, watcher: ToyWatcher, toy: ToyEngine
):
    key = code_box.store.add("bob", "team-b")
    watcher.add("team-b", "own", [1])
    theirs = await ask(code_box, key, model=f"{CODE}:shop")
    nobodys = await ask(code_box, key, model=f"{CODE}:nothing")
    assert (theirs[0], theirs[2]) == (nobodys[0], nobodys[2])
    assert theirs[0] == 404
    assert toy.asked == []


@pytest.mark.parametrize(
    "name", ["../team-a/shop", "a/b", "..", "%2e%2e", "shop?after=x", "a" * 65, "sh\u00f6p", "{x}"]
)
async def test_a_name_that_cannot_be_one_is_unknown_and_never_reaches_the_watcher(
    code_box: Box, watcher: ToyWatcher, name: str
):
    for how in ({"model": f"{CODE}:{name}"}, {"headers": {"X-Infbox-Workspace": name}}):
        status, _, answer = await ask(code_box, **how)
        assert (status, answer["error"]["code"]) == (404, "workspace_not_found")
        assert name not in json.dumps(answer, ensure_ascii=False)
    assert watcher.requests == 0


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


@pytest.mark.parametrize("state", ["indexing", "failed"])
async def test_a_workspace_that_has_no_pack_yet_is_a_503_that_says_when_to_ask_again(
    code_box: Box, watcher: ToyWatcher, state: str
):
    watcher.workspaces[0].state = state
    status, headers, answer = await ask(code_box)
    assert (status, headers["Retry-After"], answer["error"]["code"]) == (503, "7", "workspace_not_ready")
    assert f"it is {state}: 10 of 20 files (infbox index status)" in answer["error"]["message"]


async def test_without_the_watcher_plain_requests_go_on_and_code_requests_say_why_not(
    code_box: Box, watcher: ToyWatcher
):
    await watcher.stop()
    assert (await ask(code_box, model=MODEL))[0] == 200
    status, headers, answer = await ask(code_box)
    assert (status, answer["error"]["code"]) == (503, "watcher_unavailable")
    assert headers["Retry-After"] == "5"


async def test_plain_requests_never_touch_the_watcher(code_box: Box, watcher: ToyWatcher, toy: ToyEngine):
    status, headers, _ = await ask(code_box, model=MODEL)
    assert (status, watcher.requests) == (200, 0)
    assert not [name for name in headers if name.lower().startswith("x-infbox")]
    assert "kv_transfer_params" not in toy.bodies[-1]


async def test_without_a_watcher_socket_the_alias_is_just_a_name(box: Box, engine: ScriptedEngine):
    status, _, _ = await ask(box, headers={"X-Infbox-Workspace": "shop"})
    assert status == 200
    assert engine.exchanges[-1].json["model"] == CODE


@pytest.mark.parametrize("how", ["silent", "half a head", "half a body", "gone", "no pack", "odd bytes", "bad listing"])
async def test_a_watcher_that_hangs_dies_or_talks_nonsense_is_a_503(settings, toy: ToyEngine, tmp_path, how: str):
    async def misbehave(exchange: Exchange) -> None:
        if exchange.path == "/workspaces" and how != "bad listing":
            await exchange.answer({"workspaces": [{"tenant": "team-a", "name": "shop", "state": "ready"}]})
        elif how == "silent":
            await exchange.vanished.wait()
        elif how == "half a head":
            await exchange.raw(b"HTTP/1.1 200 OK\r\nconte")
            await exchange.vanished.wait()
        elif how in ("half a body", "odd bytes"):
            length = "100" if how == "half a body" else "7"
            await exchange.head(etag='"a"', x_infbox_version="1", x_infbox_base="b", content_length=length)
            await exchange.raw(b"1234567")
        elif how == "gone":
            exchange.cut()
        elif how == "no pack":
            await exchange.answer({})
        else:
            await exchange.answer({"workspaces": [{"tenant": 5}]})

    rogue = ScriptedEngine(tmp_path / "rogue.sock")
    rogue.script = misbehave
    await rogue.start()
    changed = replace(settings, watcher_socket=rogue.path, watcher_timeout_seconds=0.3, prewarm_piece_seconds=0)
    async with serve(changed) as box:
        status, _, answer = await ask(box)
        assert (status, answer["error"]["code"]) == (503, "watcher_unavailable")
        assert (await ask(box, model=MODEL))[0] == 200
    await rogue.stop()
    assert len(toy.bodies) == 1


async def test_an_unchanged_pack_is_not_sent_again(code_box: Box, watcher: ToyWatcher):
    for _ in range(3):
        await ask(code_box)
    assert (watcher.flushes, watcher.unchanged) == (3, 2)


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


async def test_v1_models_lists_what_a_key_can_ask_for(code_box: Box, watcher: ToyWatcher):
    async def listed(key: str) -> list[str]:
        headers = {"Authorization": f"Bearer {key}"}
        async with code_box.client.get("/v1/models", headers=headers) as answer:
            names = [card["id"] for card in (await answer.json())["data"]]
        for name in names:
            async with code_box.client.get(f"/v1/models/{name}", headers=headers) as answer:
                assert (await answer.json())["id"] == name
        return names

    other = code_box.store.add("bob", "team-b")
    assert await listed(code_box.key) == [MODEL, CODE]
    assert await listed(other) == [MODEL]
    watcher.add("team-a", "site", [1])
    assert await listed(code_box.key) == [MODEL, CODE, f"{CODE}:shop", f"{CODE}:site"]
    await watcher.stop()
    assert await listed(code_box.key) == [MODEL]


async def test_nothing_of_a_request_or_a_pack_gets_into_the_log(
    code_box: Box, caplog: pytest.LogCaptureFixture, watcher: ToyWatcher
):
    caplog.set_level("DEBUG", "infbox")
    await ask(code_box, messages=[{"role": "user", "content": "hunter2"}], headers={"X-Infbox-Workspace": "shop"})
    await ask(code_box, headers={"X-Infbox-Workspace": "hunter2"})
    assert "hunter2" not in caplog.text
    assert "5001" not in caplog.text
