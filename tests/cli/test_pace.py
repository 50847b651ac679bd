"""A rate is kept, whatever the clock does between two chunks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventml.cli.pace import Pace
from eventml.cli.sending import chunk_size

RATES = st.floats(0.001, 1e6)


@given(RATES, st.lists(st.tuples(st.integers(1, 1_000), st.floats(0, 10)), max_size=20))
def test_whatever_was_late_a_burst_is_a_second_of_catching_up_at_most(
    rate: float, chunks: list[tuple[int, float]]
) -> None:
    """`chunks`: how many events, and how long the source took to give them."""
    now = 100.0
    pace = Pace(rate, now)
    gone: list[tuple[float, int]] = []
    for events, seconds in chunks:
        now += seconds
        now += pace.wait(events, now)
        gone.append((now, events))
    for first, (begin, _) in enumerate(gone):
        for last, (end, _) in enumerate(gone[first:], first):
            before_the_last = sum(count for _, count in gone[first:last])
            assert before_the_last <= rate * (end - begin + 1.0) * (1 + 1e-9) + 1e-6


@given(RATES, st.lists(st.integers(1, 1_000), min_size=1))
def test_a_source_that_keeps_up_is_sent_at_the_rate(rate: float, chunks: list[int]) -> None:
    now = 0.0
    pace = Pace(rate, now)
    for events in [*chunks, 1]:
        now += pace.wait(events, now)
    assert abs(now - sum(chunks) / rate) <= 1e-6 * max(now, 1.0)


def test_the_first_events_go_at_once() -> None:
    assert Pace(0.5, 7.0).wait(1, 7.0) == 0


@given(RATES)
def test_chunks_are_small_enough_to_keep_the_rate_smooth(rate: float) -> None:
    assert 1 <= chunk_size(rate) <= 1_000
    assert chunk_size(rate) == 1 or chunk_size(rate) / rate <= 0.05
    assert chunk_size(None) == 1_000
