"""What was warmed and what of it was hit."""

from hypothesis import given
from hypothesis import strategies as st

from infbox.gateway.code.tally import Tally

positions = st.integers(0, 40)


@given(
    st.lists(
        st.one_of(st.tuples(st.just("warm"), positions, positions), st.tuples(st.just("hit"), positions, positions))
    )
)
def test_the_tally_agrees_with_a_set_of_positions(steps: list[tuple[str, int, int]]):
    tally, waiting, hits = Tally(), set[int](), 0
    for what, one, other in steps:
        begin, end = min(one, other), max(one, other)
        if what == "warm":
            tally.prewarmed(("a", "b"), 1, begin, end, 0.0)
            waiting |= set(range(begin, end))
        else:
            tally.answered(("a", "b"), 1, 0, begin, end)
            hits += len(waiting & set(range(begin)))
            waiting -= set(range(begin))
    assert tally.counters["prewarmed_hit_tokens"] == hits
    tally.answered(("a", "b"), 2, 0, 99, 99)
    assert tally.counters["prewarmed_hit_tokens"] == hits
