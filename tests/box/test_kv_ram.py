"""What RAM holds is forgotten when told to be, by itself, on the box, in LMCache's own memory."""

from typing import Any

import pytest
from kept import run_program
from live_box import LiveBox

pytestmark = pytest.mark.kv


@pytest.fixture(scope="module")
def told(box: LiveBox) -> dict[str, Any]:
    return run_program(box, "kv_ram_program.py")


def test_a_tenants_chunks_are_forgotten_or_all(told: dict[str, Any]) -> None:
    assert told["of a tenant"] == [{"RAM": 3}, [], 3]
    assert told["all"] == [{"RAM": 3}, [], 0]


def test_what_is_in_use_is_waited_for_and_said_when_it_stays_so(told: dict[str, Any]) -> None:
    assert told["read for a while"] == [{"RAM": 6}, [], 0]
    assert told["read on and on"] == [{"RAM": 4}, ["2 chunks in RAM are in use"], 2]
