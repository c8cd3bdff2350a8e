"""What is best for a prompt, from what was measured."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infbox.cake.rates import ComputeRate, choose, predict, share


def measured(base: float, slope: float, steps: int = 40, tokens: int = 256) -> ComputeRate:
    rate = ComputeRate()
    for step in range(steps):
        first, last = step % 16 * tokens, step % 16 * tokens + tokens
        rate.saw(first, last, base * tokens + slope * (last**2 - first**2) / 2)
    return rate


costs = st.floats(1e-6, 1e-2)


@given(costs, st.floats(0, 1e-6), st.integers(0, 4000), st.integers(1, 30_000))
def test_what_was_measured_is_predicted(base: float, slope: float, first: int, tokens: int) -> None:
    rate = measured(base, slope)
    last = first + tokens
    assert rate.seconds(first, last) == pytest.approx(base * tokens + slope * (last**2 - first**2) / 2, rel=1e-3)


def test_what_changes_is_followed() -> None:
    rate = measured(1e-3, 0)
    for _ in range(300):
        rate.saw(0, 256, 256 * 4e-3)
        rate.saw(2048, 2304, 256 * 4e-3)
    assert rate.seconds(0, 1000) == pytest.approx(4, rel=0.05)


@given(st.lists(st.tuples(st.integers(0, 10**5), st.integers(0, 4096), st.floats(0, 100)), max_size=30))
def test_no_measurement_makes_it_negative(steps: list[tuple[int, int, float]]) -> None:
    rate = ComputeRate()
    for first, tokens, seconds in steps:
        rate.saw(first, first + tokens, seconds)
    base, slope = rate.line()
    assert base >= 0
    assert slope >= 0


@given(costs, st.floats(0, 1e-6), st.integers(0, 4000), st.integers(256, 30_000), st.floats(1e-3, 1e3))
def test_both_ends_meet_when_both_are_done(base: float, slope: float, first: int, tokens: int, load: float) -> None:
    rate, last = measured(base, slope), first + tokens
    found = predict(rate, first, last, load)
    assert found.split <= min(found.compute, found.load) * (1 + 1e-9) + 1e-9
    # To a token: neither end has anything to wait for.
    early, late = rate.seconds(first, max(found.meet - 1, first)), rate.seconds(first, found.meet + 1)
    a_token = load / tokens
    assert early - a_token <= found.split + 1e-6
    assert late + a_token >= found.split - 1e-6


def test_equal_rates_halve_the_time() -> None:
    found = predict(measured(1e-3, 0), 0, 4000, 4.0)
    assert (found.compute, found.load) == (pytest.approx(4), pytest.approx(4))
    assert found.split == pytest.approx(2, rel=1e-3)
    assert found.meet == pytest.approx(2000, abs=2)
    assert found.gain == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("load", "best"), [(0.1, "load"), (0.9, "load"), (2.0, "split"), (4.0, "split"), (12, "split"), (40, "compute")]
)
def test_it_is_split_only_where_that_pays(load: float, best: str) -> None:
    found = predict(measured(1e-3, 0), 0, 4000, load)
    assert choose("adaptive", found, 0.2) == best


def test_what_splitting_took_beyond_counts_against_it() -> None:
    found = replace(predict(measured(1e-3, 0), 0, 4000, 4.0), extra=1.0)
    assert found.gain == pytest.approx(0.25, abs=1e-3)
    assert choose("adaptive", found, 0.3) == "load"


def test_what_is_computed_in_any_case_counts_in_the_time_to_the_first_token() -> None:
    found = predict(measured(1e-3, 0), 0, 4000, 4.0, 8000)
    assert (found.compute, found.load, found.rest) == (pytest.approx(4), pytest.approx(4), pytest.approx(4))
    assert found.gain == pytest.approx(0.25, abs=1e-3)
    assert choose("adaptive", found, 0.3) == "load"


def test_a_mode_is_obeyed_and_ignorance_tries_both() -> None:
    found = predict(measured(1e-3, 0), 0, 4000, 4.0)
    assert [choose(mode, found, 0.2) for mode in ("load", "compute")] == ["load", "compute"]
    assert choose("adaptive", None, 0.2) == "split"
    assert not ComputeRate().known


def test_a_rate_is_told_of_a_prompts_first_tokens() -> None:
    assert measured(1e-3, 0).tokens_per_second() == pytest.approx(1000)
    assert ComputeRate().tokens_per_second() == 0


@given(st.integers(0, 60), st.floats(1e-3, 10), st.floats(1e-3, 10), st.floats(0, 5))
def test_of_a_gap_so_much_is_computed_that_the_later_end_is_soonest(
    gap: int, chunk: float, pace: float, since: float
) -> None:
    def done(computed: int) -> float:
        return max(computed * chunk, (gap - computed) * pace - since)

    best = share(gap, lambda chunks: chunks * chunk, pace, since)
    assert 0 <= best <= gap
    assert done(best) == min(done(each) for each in range(gap + 1))


def test_the_tail_takes_what_it_has_all_but_lifted() -> None:
    assert share(1, lambda chunks: chunks * 1.0, pace=1.2, since=1.0) == 0
    assert share(1, lambda chunks: chunks * 1.0, pace=1.2, since=0.1) == 1
