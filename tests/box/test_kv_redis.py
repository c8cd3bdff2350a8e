"""The tier in Redis by itself, on the box, over a server of the test's: away, slow, full, not to be trusted."""

from typing import Any

import pytest
from kept import RUN, run_program
from live_box import LiveBox

from certificates import make_authority, make_certificate

pytestmark = pytest.mark.kv

# Thirty calls one after the other would be a multiple of it.
BOUND_SECONDS = 6


@pytest.fixture(scope="module")
def told(box: LiveBox, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made, foreign = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("foreign")
    make_certificate(made, make_authority(made), "localhost")
    make_authority(foreign)
    (foreign / "ca.pem").rename(made / "foreign.pem")
    folder = f"/run/infbox-test-{RUN}/certificates"
    for name in ("ca.pem", "foreign.pem", "server.pem", "server.key"):
        box.run(f"mkdir -p {folder} && cat >{folder}/{name}", (made / name).read_text())
    return run_program(box, "kv_redis_program.py", folder)


def test_what_was_stored_is_found_and_whole_under_names_that_say_nothing(told: dict[str, Any]) -> None:
    assert told["whole"] == [6, 6, [True] * 6, {}]
    assert len(told["names"]) == 6
    assert all(name.startswith("infbox:kv:") and "/m" not in name for name in told["names"])


def test_a_slow_one_is_waited_for(told: dict[str, Any]) -> None:
    assert told["slow"][:2] == [6, 6]
    assert told["slow"][2]["failures"] == {}


@pytest.mark.parametrize(("fault", "text"), [("away", "it does not answer"), ("hanging", "it hangs")])
def test_one_that_is_not_there_costs_a_bounded_time_and_is_used_again(
    told: dict[str, Any], fault: str, text: str
) -> None:
    count, seen, again = told[fault]
    assert count == 0
    assert seen["seconds"] < BOUND_SECONDS
    assert seen["failures"]["store"] >= 20
    assert seen["failures"]["lookup"] == 1
    assert len([line for line in seen["said"] if text in line]) == 1, seen["said"]
    assert again == 3


def test_a_full_one_refuses_and_gives_what_it_has(told: dict[str, Any]) -> None:
    count, seen, again = told["full"]
    assert count == 1
    assert seen["failures"] == {"store": 2}
    assert "it refuses" in seen["said"][0]
    assert again == 3


def test_what_is_cleared_is_gone(told: dict[str, Any]) -> None:
    assert told["cleared"] == [3, 1, True, "0"]


def test_with_tls_and_a_password_it_is_used(told: dict[str, Any]) -> None:
    count, seen = told["trusted"]
    assert (count, seen["failures"], seen["said"]) == (1, {}, [])


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("wrong password", "WRONGPASS|invalid username-password"),
        ("another authority", "certificate verify failed"),
        ("another name", "certificate verify failed: Hostname mismatch"),
    ],
)
def test_one_that_cannot_be_trusted_or_entered_is_not_used(told: dict[str, Any], case: str, text: str) -> None:
    count, seen = told[case]
    assert count == 0
    assert seen["seconds"] < BOUND_SECONDS
    assert any(part in line for line in seen["said"] for part in text.split("|")), seen["said"]
