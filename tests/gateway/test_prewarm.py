"""Packs are computed before anyone asks, and never in anyone's way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import serve
from gateway_box import Box
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import MODEL, Exchange, ScriptedEngine, until
from toy_engine import CONTROL, NEWLINES, ToyEngine
from toy_watcher import ToyWatcher, ToyWorkspace

from infbox.gateway.code.prewarm import piece_end
from infbox.gateway.settings import Settings

HEADER = [CONTROL["<|im_start|>"], *map(ord, "system"), NEWLINES + 1]
PACK = list(range(5000, 5060))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LISTING_SECONDS", "ENGINE_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(f"infbox.gateway.code.prewarm.{name}", 0.02)
    monkeypatch.setattr("infbox.gateway.code.tally.PERIOD_SECONDS", 0.02)


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    return tmp_path / "gateway.prom"


@pytest.fixture
def warming(settings: Settings, watcher: ToyWatcher, metrics: Path) -> Settings:
    more = {"watcher_socket": watcher.path, "watcher_timeout_seconds": 5, "metrics_file": metrics}
    return replace(settings, **more)


@pytest.fixture
def workspace(watcher: ToyWatcher) -> ToyWorkspace:
    return watcher.add("team-a", "shop", PACK)


@contextlib.asynccontextmanager
async def warm_box(warming: Settings, watcher: ToyWatcher) -> AsyncIterator[Box]:
    """A gateway that has warmed everything there is."""
    async with serve(warming) as box:
        await until(lambda: len(watcher.warm) >= len(watcher.workspaces))
        yield box


def warmed(toy: ToyEngine) -> list[list[int]]:
    return [ids for _, ids in toy.asked]


def counter(metrics: Path, name: str) -> float:
    lines = [line.split() for line in metrics.read_text().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}[f"infbox_gateway_{name}_total"]


async def ask(box: Box):
    async with box.chat(model=f"{MODEL}:code", messages=[{"role": "user", "content": "?"}]) as answer:
        assert answer.status == 200
        return answer.headers.copy()


async def test_the_first_request_finds_header_and_pack_computed(
    warming: Settings, workspace: ToyWorkspace, watcher: ToyWatcher, toy: ToyEngine
):
    async with warm_box(warming, watcher) as box:
        assert warmed(toy) == [[*HEADER, *PACK]]
        body = toy.bodies[0]
        assert (body["max_tokens"], body["priority"], body["cache_salt"]) == (1, 10, "team-a")
        name, report = watcher.warm[0]
        assert (name, report["version"], report["tokens"], report["cached_tokens"]) == ("shop", 1, len(PACK), 0)
        assert f'"{report["digest"]}"' == workspace.headers["ETag"]
        assert int((await ask(box))["X-Infbox-Cached-Tokens"]) == (len(HEADER) + len(PACK)) // 4 * 4


async def test_what_is_warm_is_asked_for_again_after_a_while(
    warming: Settings, workspace: ToyWorkspace, watcher: ToyWatcher, toy: ToyEngine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("infbox.gateway.code.prewarm.TOUCH_SECONDS", 0.05)
    async with warm_box(warming, watcher):
        blocks = len(toy.blocks)
        await until(lambda: len(warmed(toy)) >= 4)
        assert warmed(toy)[-1] == [*HEADER, *PACK]
        assert len(toy.blocks) == blocks
        assert len(watcher.warm) == 1
        workspace.save([6001] * 8)
        await until(lambda: warmed(toy)[-1] == [*HEADER, *PACK, *[6001] * 8])


async def test_a_save_is_warmed_and_only_what_is_new_is_computed(
    warming: Settings, workspace: ToyWorkspace, watcher: ToyWatcher, toy: ToyEngine
):
    async with warm_box(warming, watcher):
        blocks = len(toy.blocks)
        workspace.save([6001] * 8)
        await until(lambda: len(watcher.warm) == 2)
        assert len(toy.blocks) == blocks + 2
        assert watcher.warm[1][1]["cached_tokens"] == (len(HEADER) + len(PACK)) // 4 * 4
        workspace.rebase([7000, *PACK])
        await until(lambda: len(watcher.warm) == 3)
        assert warmed(toy)[-1] == [*HEADER, 7000, *PACK[:-1]]


async def test_what_does_not_fill_a_block_of_the_cache_is_not_computed_for_nothing(
    warming: Settings, workspace: ToyWorkspace, watcher: ToyWatcher, toy: ToyEngine
):
    async with warm_box(warming, watcher):
        for tokens in (1, 2, 3, 4):
            workspace.save([6001])
            await until(lambda tokens=tokens: len(watcher.warm) == 1 + tokens)
        assert warmed(toy) == [[*HEADER, *PACK], [*HEADER, *PACK, *[6001] * 4]]
        assert [report["version"] for _, report in watcher.warm] == [1, 2, 3, 4, 5]


async def test_a_long_pack_comes_in_growing_pieces_of_one_prefix(
    warming: Settings, watcher: ToyWatcher, toy: ToyEngine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("infbox.gateway.code.prewarm.FIRST_PIECE", 128)
    watcher.add("team-a", "shop", list(range(5000, 6000)))
    async with warm_box(warming, watcher):
        pieces = warmed(toy)
        assert len(pieces) > 1
        assert pieces[-1] == [*HEADER, *range(5000, 6000)]
        for piece, following in pairwise(pieces):
            assert following[: len(piece)] == piece
            assert len(following) > len(piece)


async def test_what_a_request_has_computed_is_passed_over_in_few_pieces_also_with_a_slow_engine(
    warming: Settings, watcher: ToyWatcher, toy: ToyEngine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("toy_engine.BLOCK", 128)
    watcher.add("team-a", "shop", list(range(5000, 9000)))
    async with warm_box(replace(warming, prewarm_piece_seconds=1e-6), watcher):
        assert len(warmed(toy)) > 10
        toy.asked.clear()
        watcher.add("team-a", "fork", list(range(5000, 9000)))
        await until(lambda: len(watcher.warm) == 2)
        assert len(warmed(toy)) <= 5


async def test_nothing_is_asked_of_the_engine_once_all_is_warm(
    warming: Settings, workspace: ToyWorkspace, watcher: ToyWatcher, toy: ToyEngine, engine: ScriptedEngine
):
    async with warm_box(warming, watcher):
        await asyncio.sleep(0.1)
        before = len(engine.exchanges)
        await asyncio.sleep(0.3)
        assert len(engine.exchanges) == before


async def test_a_piece_is_given_up_when_somebody_asks_and_goes_on_from_what_was_computed(
    warming: Settings, workspace: ToyWorkspace, watcher: ToyWatcher, toy: ToyEngine, engine: ScriptedEngine
):
    toy.gate.clear()
    toy.budget = 5
    async with serve(warming) as box:
        await until(lambda: bool(toy.bodies) and toy.budget == 0)
        piece = engine.exchanges[-1]
        asking = asyncio.create_task(box.chat(model=MODEL, messages=[{"role": "user", "content": "?"}]).__aenter__())
        await until(piece.vanished.is_set)
        await until(lambda: len(toy.bodies) == 2)
        assert "priority" not in toy.bodies[1]
        await asyncio.sleep(0.2)
        assert len(toy.bodies) == 2  # nothing while somebody waits
        toy.gate.set()
        answer = await asking
        answer.release()
        await until(lambda: len(watcher.warm) == 1)
    assert warmed(toy)[-1] == [*HEADER, *PACK]
    assert watcher.warm[0][1]["cached_tokens"] == 5 * 4


async def test_warming_goes_on_while_an_answer_streams(
    warming: Settings, workspace: ToyWorkspace, watcher: ToyWatcher, toy: ToyEngine, engine: ScriptedEngine
):
    finish = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        if exchange.path != "/v1/chat/completions":
            return await toy(exchange)
        await exchange.events()
        await exchange.chunk(b'data: {"a": 1}\n\n')
        await finish.wait()
        await exchange.chunk(b"data: [DONE]\n\n")
        return await exchange.end()

    async with warm_box(warming, watcher) as box:
        engine.script = slow
        async with box.chat(stream=True) as answer:
            await answer.content.readany()
            workspace.save([6001])
            await until(lambda: len(watcher.warm) == 2)
            finish.set()


async def test_a_client_that_leaves_does_not_wait_for_ever(
    warming: Settings, workspace: ToyWorkspace, watcher: ToyWatcher, toy: ToyEngine, engine: ScriptedEngine
):
    async def hang(exchange: Exchange) -> None:
        await (exchange.vanished.wait() if exchange.path == "/v1/chat/completions" else toy(exchange))

    async with warm_box(warming, watcher) as box:
        engine.script = hang
        asking = asyncio.create_task(box.chat().__aenter__())
        await until(lambda: engine.exchanges[-1].path == "/v1/chat/completions")
        workspace.save([6001])
        asking.cancel()
        await until(lambda: len(watcher.warm) == 2)


async def test_a_piece_of_a_pack_that_was_rebased_is_given_up(
    warming: Settings, workspace: ToyWorkspace, watcher: ToyWatcher, toy: ToyEngine, engine: ScriptedEngine
):
    toy.gate.clear()
    async with serve(warming):
        await until(lambda: bool(toy.bodies))
        piece = engine.exchanges[-1]
        workspace.rebase([7000] * 4)
        await until(piece.vanished.is_set)
        toy.gate.set()
        await until(lambda: len(watcher.warm) == 1)
    assert warmed(toy) == [[*HEADER, *[7000] * 4]]


async def test_a_piece_that_the_new_version_begins_with_too_is_finished(
    warming: Settings, workspace: ToyWorkspace, watcher: ToyWatcher, toy: ToyEngine, engine: ScriptedEngine
):
    toy.gate.clear()
    async with serve(warming):
        await until(lambda: bool(toy.bodies))
        workspace.save([6001] * 4)
        await asyncio.sleep(0.2)
        assert not engine.exchanges[-1].vanished.is_set()
        toy.gate.set()
        await until(lambda: any(report["version"] == 2 for _, report in watcher.warm))
    assert warmed(toy) == [[*HEADER, *PACK], [*HEADER, *PACK, *[6001] * 4]]


async def test_another_engine_is_warmed_anew(
    warming: Settings, workspace: ToyWorkspace, watcher: ToyWatcher, toy: ToyEngine, engine: ScriptedEngine
):
    async with warm_box(warming, watcher):
        await engine.stop()
        await until(lambda: watcher.cooled == ["shop"])  # it is not called warm while nobody has it
        engine.script = other = ToyEngine()
        await engine.start()
        await until(lambda: len(watcher.warm) == 2)
        assert warmed(other) == [[*HEADER, *PACK]]


async def test_a_watcher_that_was_started_anew_is_told_what_is_warm(
    warming: Settings, workspace: ToyWorkspace, watcher: ToyWatcher, toy: ToyEngine
):
    async with warm_box(warming, watcher):
        before = len(toy.asked)
        await watcher.stop()
        watcher.warm.clear()
        await asyncio.sleep(0.1)
        await watcher.start()
        await until(lambda: len(watcher.warm) == 1)
        assert len(toy.asked) == before


@pytest.mark.parametrize("saved", [["shop", "site"], ["site", "shop"]])
async def test_the_workspace_that_was_saved_last_is_warmed_first(
    warming: Settings, workspace: ToyWorkspace, watcher: ToyWatcher, toy: ToyEngine, saved: list[str]
):
    other = watcher.add("team-b", "site", [8000] * 4)
    async with warm_box(warming, watcher) as box:
        assert {salt for salt, _ in toy.asked} == {"team-a", "team-b"}
        toy.gate.clear()
        asking = asyncio.create_task(box.chat(model=MODEL, messages=[{"role": "user", "content": "?"}]).__aenter__())
        await until(lambda: len(toy.bodies) == 3)
        for one in (workspace, other) if saved[0] == "shop" else (other, workspace):
            one.save([6001] * 4)
            await asyncio.sleep(0.1)
        toy.gate.set()
        (await asking).release()
        await until(lambda: len(watcher.warm) == 4)
        assert [name for name, _ in watcher.warm[2:]] == saved[::-1]


async def test_an_engine_without_priorities_is_warmed_without_one(
    warming: Settings, workspace: ToyWorkspace, watcher: ToyWatcher, toy: ToyEngine
):
    toy.priorities = False
    async with warm_box(warming, watcher):
        assert [body["priority"] for body in toy.bodies] == [10, 0]


async def test_a_pack_that_does_not_fit_is_left_alone(
    warming: Settings, workspace: ToyWorkspace, watcher: ToyWatcher, toy: ToyEngine
):
    toy.context = len(HEADER) + len(PACK)
    async with serve(warming):
        await asyncio.sleep(0.3)
    assert toy.bodies == []


async def test_a_pack_that_the_engine_refuses_does_not_keep_others_cold(
    warming: Settings, workspace: ToyWorkspace, watcher: ToyWatcher, toy: ToyEngine, engine: ScriptedEngine
):
    refused = 0

    async def refuse(exchange: Exchange) -> None:
        nonlocal refused
        if exchange.path == "/v1/completions" and exchange.json["cache_salt"] == "team-b":
            refused += 1
            await exchange.answer({"error": {"message": "Token id 9999999 is out of vocabulary"}}, 400)
        else:
            await toy(exchange)

    engine.script = refuse
    bad = watcher.add("team-b", "site", [9999999] * 4)
    async with serve(warming):
        await until(lambda: len(watcher.warm) == 1 and refused == 1)
        bad.save([1] * 4)
        await until(lambda: refused == 2)
        workspace.save([6001])
        await until(lambda: len(watcher.warm) == 2)
    assert refused == 2


async def test_a_watcher_or_an_engine_that_comes_later_is_waited_for(
    warming: Settings, workspace: ToyWorkspace, watcher: ToyWatcher, toy: ToyEngine, engine: ScriptedEngine
):
    await watcher.stop()
    await engine.stop()
    workspace.state = "indexing"
    async with serve(warming):
        await watcher.start()
        await asyncio.sleep(0.1)
        workspace.state = "ready"
        await asyncio.sleep(0.1)
        await engine.start()
        await until(lambda: len(watcher.warm) == 1)


async def test_a_workspace_that_is_new_is_found_and_one_that_is_gone_is_forgotten(
    warming: Settings, workspace: ToyWorkspace, watcher: ToyWatcher, toy: ToyEngine
):
    async with warm_box(warming, watcher):
        watcher.add("team-b", "site", [8000] * 4)
        await until(lambda: len(watcher.warm) == 2)
        watcher.workspaces.remove(workspace)
        await asyncio.sleep(0.1)
        assert len(toy.asked) == 2


async def test_prewarmed_tokens_that_were_hit_are_counted_once(
    warming: Settings, workspace: ToyWorkspace, watcher: ToyWatcher, toy: ToyEngine, metrics: Path
):
    prefix = len(HEADER) + len(PACK)
    async with warm_box(warming, watcher) as box:
        await until(lambda: metrics.exists() and counter(metrics, "prewarmed_tokens") == prefix)
        assert counter(metrics, "prewarmed_hit_tokens") == 0
        await ask(box)
        async with box.chat(model=f"{MODEL}:code", stream=True, messages=[{"role": "user", "content": "?"}]) as answer:
            await answer.read()
        await until(lambda: counter(metrics, "code_requests") == 2)
        assert counter(metrics, "prewarmed_hit_tokens") == prefix // 4 * 4
        assert counter(metrics, "code_pack_tokens") == 2 * len(PACK)


small = st.integers(0, 30)


@given(small, small, st.integers(1, 30), small, st.integers(1, 12))
def test_a_piece_ends_where_a_block_ends_and_always_goes_on(header: int, done: int, tokens: int, more: int, block: int):
    ends = [end for end in range(done + 1, done + more + 1) if (header + end) % block == 0]
    within = [end for end in ends if end <= done + tokens]
    expected = within[-1] if within else ends[0] if ends else done
    assert piece_end(header, done, tokens, done + more, block) == expected
