"""Counters of a handler."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventml.backends.base import Completion
from eventml.records import Delivery, Record
from eventml.runtime.stats import Stats


@given(st.lists(st.integers(1, 3_000), max_size=5))
def test_every_event_of_a_batch_counts_although_latency_is_sampled(batches: list[int]) -> None:
    stats = Stats()
    for size in batches:
        completed = [Completion(Delivery(Record("t", b""), 0, n, 0.0)) for n in range(size)]
        stats.arrived(size)
        stats.finished(completed, published=size - 1, dead_letters=1)
    total = sum(batches)
    assert (stats.received, stats.completed, stats.in_flight) == (total, total, 0)
    assert (stats.published, stats.dead_letters) == (total - len(batches), len(batches))
    assert abs(sum(stats.latency.counts) - total) < 1e-6 * max(total, 1)
