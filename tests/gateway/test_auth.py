"""Keys: who gets in, and what happens while the store changes under the gateway."""

import logging
import os
from pathlib import Path

import pytest
from gateway_box import Box
from scripted_engine import ScriptedEngine
from starlette.datastructures import Headers

from infbox.gateway.auth import KeyRing
from infbox.gateway.refusal import Refusal
from infbox.keys import KeyStore


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def bearer(key: str) -> Headers:
    return Headers({"authorization": f"Bearer {key}"})


async def test_both_headers_carry_a_key_and_bearer_goes_first(box: Box, engine: ScriptedEngine):
    for headers in (
        {"Authorization": f"Bearer {box.key}"},
        {"authorization": f"bearer  {box.key} "},
        {"X-API-Key": box.key},
        {"X-API-Key": box.key, "Authorization": "Basic dTpw"},
        {"X-API-Key": "other", "Authorization": f"Bearer {box.key}"},
    ):
        async with box.client.get("/v1/models", headers=headers) as answer:
            assert answer.status == 200, headers


async def test_without_a_valid_key_the_answer_is_401_in_openais_format_and_the_engine_hears_nothing(
    box: Box, engine: ScriptedEngine
):
    for headers, code in (
        ({}, "missing_api_key"),
        ({"Authorization": "Bearer "}, "missing_api_key"),
        ({"Authorization": "Basic dTpw"}, "missing_api_key"),
        ({"Authorization": "Bearer infbox-wrong"}, "invalid_api_key"),
        ({"Authorization": f"Bearer {box.key}x"}, "invalid_api_key"),
        ({"Authorization": "Bearer \u00e9\u00ff"}, "invalid_api_key"),
        ({"X-API-Key": box.key.lower()}, "invalid_api_key"),
    ):
        async with box.client.post("/v1/completions", data=b"not even JSON", headers=headers) as answer:
            error = (await answer.json())["error"]
            assert (answer.status, error["code"]) == (401, code), headers
            assert error.keys() == {"message", "type", "param", "code"}
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert engine.exchanges == []


def test_an_added_key_is_taken_at_once_and_a_removed_one_refused_after_a_second(tmp_path: Path):
    clock, store = Clock(), KeyStore(tmp_path / "keys.json")
    first = store.add("first")
    ring = KeyRing(store.path, clock)
    assert ring.authenticate(bearer(first)).name == "first"
    second = store.add("second")
    store.remove("first")
    assert ring.authenticate(bearer(first)).name == "first"  # looked at within this second already
    assert ring.authenticate(bearer(second)).name == "second"
    store.remove("second")
    assert ring.authenticate(bearer(second)).name == "second"
    clock.now += 1.1
    with pytest.raises(Refusal) as refused:
        ring.authenticate(bearer(first))
    assert refused.value.status == 401


@pytest.mark.parametrize("damage", ["missing", "half", "empty", "not an object", "wrong entry"])
def test_a_broken_store_keeps_the_last_good_keys_and_is_said_once(tmp_path: Path, caplog, damage: str):
    clock, store = Clock(), KeyStore(tmp_path / "keys.json")
    key = store.add("alice")
    good = store.path.read_bytes()
    ring = KeyRing(store.path, clock)
    ring.authenticate(bearer(key))
    caplog.clear()
    broken = {"half": good[: len(good) // 2], "empty": b"", "not an object": b"[]", "wrong entry": b'{"keys": [{}]}'}
    if damage == "missing":
        store.path.unlink()
    else:
        store.path.write_bytes(broken[damage])
    for _ in range(3):
        clock.now += 1.1
        assert ring.authenticate(bearer(key)).name == "alice"
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "the keys read before stay in force" in caplog.text
    store.path.write_bytes(good)
    other = store.add("other")
    clock.now += 1.1
    assert ring.authenticate(bearer(other)).name == "other"


def test_without_a_store_at_start_all_get_503_until_there_is_one(tmp_path: Path, caplog):
    clock, store = Clock(), KeyStore(tmp_path / "keys.json")
    ring = KeyRing(store.path, clock)
    with pytest.raises(Refusal) as refused:
        ring.authenticate(bearer("infbox-any"))
    assert (refused.value.status, refused.value.code) == (503, "keys_unavailable")
    assert f"infbox key add NAME --file {store.path}" in caplog.text
    key = store.add("alice")
    clock.now += 1.1
    assert ring.authenticate(bearer(key)).name == "alice"


def test_a_store_that_is_swapped_for_one_of_the_same_size_and_time_is_still_noticed(tmp_path: Path):
    clock, store = Clock(), KeyStore(tmp_path / "keys.json")
    first = store.add("aaaaa")
    ring = KeyRing(store.path, clock)
    ring.authenticate(bearer(first))
    before = store.path.stat()
    store.remove("aaaaa")
    second = store.add("bbbbb")
    os.utime(store.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.path.stat().st_size == before.st_size
    clock.now += 1.1
    assert ring.authenticate(bearer(second)).name == "bbbbb"
