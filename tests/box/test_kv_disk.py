"""The tier on disk by itself, on the box, with LMCache's own client: sizes, shares, who leaves first."""

from typing import Any

import pytest
from kept import run_program
from live_box import LiveBox

pytestmark = pytest.mark.kv


@pytest.fixture(scope="module")
def told(box: LiveBox) -> dict[str, Any]:
    return run_program(box, "kv_disk_program.py")


def test_a_tenant_keeps_the_beginning_of_what_is_more_than_its_share(told: dict[str, Any]) -> None:
    share = told["share"]
    assert share["a"] == list(range(10, 18))
    assert share["b"] == [1, 10, 11, 12]
    assert share["mib"] == 48
    assert share["failures"] == {"store": 1}


def test_what_was_used_longest_ago_leaves_first(told: dict[str, Any]) -> None:
    assert 10 in told["touched"]
    assert 30 in told["touched"]
    assert len(told["touched"]) == 8


def test_the_books_are_right_whatever_happens_to_files(told: dict[str, Any]) -> None:
    assert told["twice"] == 48
    assert told["deleted by another"] == [False, 44]
    assert told["full"] == [64, 5, 3, list(range(8))]
    assert told["left"] == ["folder"]
    assert told["cut"] == [0, False]


def test_a_smaller_share_holds_from_the_next_start(told: dict[str, Any]) -> None:
    assert told["smaller after a restart"] == [4, 3, 4]


def test_what_is_cleared_is_gone(told: dict[str, Any]) -> None:
    assert told["cleared"] == [4, [], True, []]


def test_without_space_or_read_only_it_keeps_what_it_has_and_goes_on_by_itself(told: dict[str, Any]) -> None:
    there, mib, failures, why = told["no space"]
    assert (there, mib, failures) == ([], 0, {"store": 1})
    assert "no room" in why
    assert told["space again"] == [1, {"store": 1}]
    before, after, failures, why = told["read-only"]
    assert (before, after, failures) == (1, 0, {"store": 2})
    assert "read-only" in why
    assert told["writable again"] == [1, {"store": 2}]
