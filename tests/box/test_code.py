"""Requests to `<model>:code` are answered with the workspace in context, and next to nothing of it is computed again.

The workspace is a clone that a developer makes on the box. Counts are the engine's own.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from live_box import LiveBox, until
from workspace import WORKSPACE, make, status, wait_until_warm

CACHED = ("vllm:prompt_tokens_by_source_total", 'source="local_cache_hit"')
QUESTION = "What is the captain of the ship called?"


def ask(box: LiveBox, question: str = QUESTION, key: str | None = None, **more: object) -> tuple[int, Any, Any]:
    """Ask with the workspace; returns status, headers and the parsed answer."""
    body = {"model": f"{box.model}:code", "messages": [{"role": "user", "content": question}], "temperature": 0}
    code, headers, answer = box.request(
        "POST", "/v1/chat/completions", {**body, "max_tokens": 24, **more}, key or box.api_key
    )
    return code, headers, json.loads(answer)


@pytest.fixture(scope="module", autouse=True)
def _workspace(box: LiveBox) -> Iterator[None]:
    make(box, 27)
    yield
    box.run(f"find {WORKSPACE} -mindepth 1 -delete")


def test_an_answer_that_only_the_workspace_can_give(box: LiveBox):
    code, _, answer = ask(box)
    assert code == 200, answer
    assert "Walrus" in answer["choices"][0]["message"]["content"]
    assert "Walrus" not in box.chat(QUESTION)["choices"][0]["message"]["content"]


def test_what_was_warmed_is_what_is_asked_for(box: LiveBox):
    warm = wait_until_warm(box)
    assert warm["tokens"] >= 4_000
    before = box.metric(*CACHED)
    _, headers, answer = ask(box, "How many blends are there?")
    assert int(headers["x-infbox-pack-tokens"]) == warm["tokens"]
    hit = box.metric(*CACHED) - before
    assert int(headers["x-infbox-cached-tokens"]) == hit == answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert hit >= 0.95 * warm["tokens"]


def test_a_save_is_in_the_next_answer_and_little_else_is_computed(box: LiveBox):
    before = wait_until_warm(box)
    box.run(f"printf 'The name of the horse is Pelican.\\n' > {WORKSPACE}/name.md")
    code, headers, answer = ask(box, "What is the name of the horse?")
    assert code == 200, answer
    assert "Pelican" in answer["choices"][0]["message"]["content"]
    assert int(headers["x-infbox-cached-tokens"]) >= 0.95 * before["tokens"]


def test_a_conversation_keeps_its_pack(box: LiveBox):
    messages: list[dict[str, str]] = [{"role": "user", "content": QUESTION}]
    _, first, answer = ask(box, messages=messages)
    box.run(f"printf 'The ship has three masts.\\n' > {WORKSPACE}/masts.md")
    messages += [answer["choices"][0]["message"], {"role": "user", "content": "Say it again."}]
    messages[1] = {"role": "assistant", "content": messages[1]["content"]}
    _, second, _ = ask(box, messages=messages)
    assert second["x-infbox-pack-tokens"] == first["x-infbox-pack-tokens"]
    _, fresh, _ = ask(box, "How many masts has the ship?")
    assert int(fresh["x-infbox-pack-tokens"]) > int(first["x-infbox-pack-tokens"])


def test_secrets_and_ignored_files_are_not_in_it(box: LiveBox):
    box.run(f"cd {WORKSPACE} && echo PASSWORD=swordfish > .env && echo build/ > .gitignore && mkdir -p build")
    box.run(f"cd {WORKSPACE} && echo 'made by a machine' > build/out.txt && echo 'by hand' > visible.txt")
    until(lambda: "by hand" in box.run("infbox index show"), 10, "the new file is in the pack")
    shown = box.run("infbox index show")
    assert "swordfish" not in shown
    assert "made by a machine" not in shown
    assert "secret" in box.run(f"infbox index explain {WORKSPACE}/.env")
    assert "build/" in box.run(f"infbox index explain {WORKSPACE}/build/out.txt")


def test_another_tenants_key_sees_no_workspace(box: LiveBox):
    key = box.run("infbox key add other").split()[-1]
    try:
        code, _, answer = ask(box, key=key)
        assert code == 404, answer
        assert "Walrus" not in json.dumps(answer)
        listed = box.request("GET", "/v1/models", key=key)[2]
        assert ":code" not in listed.decode()
    finally:
        box.run("infbox key remove other")


def test_a_restart_of_the_watcher_keeps_what_is_warm(box: LiveBox):
    before = wait_until_warm(box)
    box.run("systemctl kill --signal KILL infbox-watcher")
    time.sleep(1)
    until(lambda: ask(box)[0] == 200, 60, "the workspace is back")
    # A save of the last half minute may be shown in another way now; what stands before it is as it was.
    assert int(ask(box)[1]["x-infbox-cached-tokens"]) >= 0.95 * before["tokens"]


def test_an_engine_that_was_restarted_is_warmed_again(box: LiveBox):
    wait_until_warm(box)
    box.run("systemctl restart infbox-vllm", timeout=300)
    warm = status(box)
    computed = "vllm:prompt_tokens_by_source_total", 'source="local_compute"'
    until(lambda: box.metric(*computed) >= 0.95 * warm["tokens"], 240, "the workspace is computed again, unasked")
    assert int(ask(box)[1]["x-infbox-cached-tokens"]) >= 0.95 * warm["tokens"]
    until(lambda: status(box)["is_warm"], 60, "the workspace is called warm again")


def test_a_full_disk_is_said_and_takes_nothing_from_an_answer(box: LiveBox):
    folder = "/var/lib/infbox-watcher"
    box.run(f"systemctl stop infbox-watcher && mount -t tmpfs -o size=16k,mode=0700 full {folder}")
    try:
        box.run(f"chown infbox-watcher: {folder} && systemctl start infbox-watcher")
        until(lambda: status(box)["state"] == "ready", 60, "the workspace is indexed")
        box.run(f"printf 'The captain of the ship is called Pelican.\\n' > {WORKSPACE}/ship.md")
        assert "Pelican" in ask(box)[2]["choices"][0]["message"]["content"]
        until(lambda: "No space left on device" in status(box)["state_error"], 90, "the full disk is told")
        assert "No space left on device" in box.run("infbox index status")
    finally:
        box.run(f"systemctl stop infbox-watcher && umount {folder} && systemctl start infbox-watcher")
    until(lambda: status(box)["state"] == "ready", 60, "the watcher is back")
    assert status(box)["state_error"] == ""
    assert "Pelican" in ask(box)[2]["choices"][0]["message"]["content"]
