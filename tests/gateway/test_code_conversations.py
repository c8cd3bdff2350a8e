"""A conversation keeps the pack it began with, until it ends or the pack is rebased; a new one gets the newest."""

from array import array
from collections.abc import Callable

import pytest
from gateway_box import Box
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import MODEL
from toy_engine import ToyEngine
from toy_watcher import ToyWatcher, digest

from infbox.gateway.code.conversations import Conversations
from infbox.gateway.code.workspaces import Pack, Workspace


def pack(base: list[int], overlay: list[int], version: int = 1, name: str = "shop") -> Pack:
    ids = [*base, *overlay]
    return Pack(Workspace("team-a", name, "ready"), version, digest(ids), digest(base), array("I", ids))


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def conversations(clock: Callable[[], float]) -> Conversations:
    return Conversations(idle_seconds=1800, pins_per_key=8, clock=clock)


OLD, NEW = pack([1, 2], [3]), pack([1, 2], [3, 4, 5], version=2)
TALK = [user("a"), assistant("b"), user("c"), assistant("d"), user("e")]


def test_what_goes_on_keeps_its_version_and_what_begins_gets_the_newest(conversations: Conversations):
    assert conversations.pin("alice", OLD, TALK[:1]).tokens == 3
    assert conversations.pin("alice", NEW, TALK[:3]).tokens == 3
    assert conversations.pin("alice", NEW, TALK[:5]).version == 1
    assert conversations.pin("alice", NEW, [user("another"), *TALK[1:3]]).tokens == 5


def test_the_same_question_asked_anew_gets_the_newest(conversations: Conversations):
    conversations.pin("alice", OLD, TALK[:1])
    assert conversations.pin("alice", NEW, TALK[:1]).tokens == 5
    assert conversations.pin("alice", NEW, TALK[:3]).tokens == 5


def test_a_turn_that_is_asked_again_stays_in_its_conversation(conversations: Conversations):
    conversations.pin("alice", OLD, TALK[:1])
    for _ in range(3):
        assert conversations.pin("alice", NEW, TALK[:3]).tokens == 3


def test_another_keys_conversation_and_another_workspaces_are_not_this_one(conversations: Conversations):
    conversations.pin("alice", OLD, TALK[:1])
    assert conversations.pin("bob", NEW, TALK[:3]).tokens == 5
    assert conversations.pin("alice", pack([1, 2], [3, 4, 5], name="site"), TALK[:3]).tokens == 5


def test_half_an_hour_without_a_request_ends_a_conversation(conversations: Conversations, clock: Clock):
    conversations.pin("alice", OLD, TALK[:1])
    clock.now = 1799
    assert conversations.pin("alice", NEW, TALK[:3]).tokens == 3
    clock.now = 1799 + 1799
    assert conversations.pin("alice", NEW, TALK[:5]).tokens == 3
    clock.now += 1801
    assert conversations.pin("alice", NEW, [*TALK, assistant("f"), user("g")]).tokens == 5
    assert len(conversations) == 1


def test_a_rebase_ends_all_conversations_of_its_workspace(conversations: Conversations):
    conversations.pin("alice", OLD, TALK[:1])
    assert conversations.pin("alice", pack([1, 2, 3], [], version=3), TALK[:3]).version == 3


def test_a_rebase_back_to_an_earlier_base_does_not_make_another_content_of_a_version(conversations: Conversations):
    conversations.pin("alice", OLD, TALK[:1])
    found = conversations.pin("alice", pack([1, 2], [9, 9], version=5), TALK[:3])
    assert (found.version, found.tokens) == (5, 4)


def test_memory_is_bounded_for_each_key(conversations: Conversations):
    conversations.pin("bob", OLD, TALK[:1])
    for number in range(100):
        conversations.pin("alice", OLD, [user(str(number))])
    assert len(conversations) == 9
    assert conversations.pin("bob", NEW, TALK[:3]).tokens == 3


texts = st.lists(st.sampled_from("ab"), min_size=1, max_size=5)


@given(st.lists(st.tuples(texts, st.lists(st.integers(0, 3), max_size=2), st.booleans()), max_size=30))
def test_within_a_base_a_conversation_gets_the_beginning_of_the_newest_pack_that_it_had_before(
    steps: list[tuple[list[str], list[int], bool]],
):
    conversations = Conversations(clock=lambda: 0.0)
    base, overlay, version = [1], [], 1
    had: dict[tuple[str, ...], list[int]] = {}
    for words, saved, rebased in steps:
        base, overlay = ([*base, *overlay, 7], []) if rebased else (base, [*overlay, *saved])
        had = {} if rebased else had
        version += 1
        newest = pack(base, overlay, version)
        found = conversations.pin("alice", newest, [user(word) for word in words])
        got = list(newest.ids[: found.tokens])
        earlier = next(
            (had[tuple(words[:end])] for end in range(len(words) - 1, 0, -1) if tuple(words[:end]) in had), None
        )
        assert got == (list(newest.ids) if earlier is None else earlier)
        had[tuple(words)] = got


async def test_a_save_is_seen_by_the_next_conversation_and_not_by_this_one(
    code_box: Box, toy: ToyEngine, watcher: ToyWatcher
):
    workspace = watcher.add("team-a", "shop", [5001, 5002])

    async def versions(*messages: dict[str, str]) -> tuple[str, str, bool]:
        async with code_box.chat(model=f"{MODEL}:code", messages=messages) as answer:
            assert answer.status == 200
            seen = 6001 in toy.asked[-1][1]
            return answer.headers["X-Infbox-Pack"], answer.headers["X-Infbox-Pack-Tokens"], seen

    assert await versions(*TALK[:1]) == ("shop@1", "2", False)
    workspace.save([6001])
    assert await versions(*TALK[:3]) == ("shop@1", "2", False)
    assert await versions(*TALK[:1]) == ("shop@2", "3", True)
    workspace.rebase([5001, 6001])
    assert await versions(*TALK[:3]) == ("shop@3", "2", True)
