"""Which workspace a request means, whose it is, and what becomes of requests while the watcher has none to give."""

import json
from dataclasses import replace

import pytest
from conftest import serve
from gateway_box import Box
from scripted_engine import MODEL, Exchange, ScriptedEngine
from toy_engine import ToyEngine
from toy_watcher import ToyWatcher

PACK = [5001, 5002]
CODE = f"{MODEL}:code"


async def ask(box: Box, key: str | None = None, headers: dict[str, str] | None = None, **body: object):
    """The status, the headers and the JSON of an answer."""
    fields = {"Authorization": f"Bearer {key or box.key}", **(headers or {})}
    body = {"model": CODE, "messages": [{"role": "user", "content": "?"}], **body}
    async with box.client.post("/v1/chat/completions", json=body, headers=fields) as answer:
        return answer.status, answer.headers, await answer.json()


@pytest.fixture(autouse=True)
def workspace(watcher: ToyWatcher):
    return watcher.add("team-a", "shop", PACK)


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
