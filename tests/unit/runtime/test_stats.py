"""Counters, and percentiles from a histogram."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from eventml.records import Delivery, Record
from eventml.runtime.stats import Latencies, Stats

EIGHTH = 2 ** (1 / 8)  # a bucket's width; an estimate stands in its middle

seconds = st.floats(1e-6, 1e5)
shares = st.sampled_from([0.001, 0.5, 0.9, 0.99, 0.999, 1.0])


@given(st.lists(seconds, min_size=1, max_size=200), shares)
def test_a_percentile_is_right_to_within_a_bucket(latencies: list[float], share: float) -> None:
    histogram = Latencies()
    for latency in latencies:
        histogram.add(latency)
    estimate = histogram.percentile(share)
    assert estimate is not None
    exact = next(
        latency for count, latency in enumerate(sorted(latencies), 1) if count >= share * len(latencies)
    )
    assert exact / EIGHTH < estimate < exact * EIGHTH


@given(st.lists(st.tuples(seconds, st.floats(0.01, 100)), min_size=1, max_size=200), shares)
def test_a_percentile_counts_weights(latencies: list[tuple[float, float]], share: float) -> None:
    histogram = Latencies()
    for latency, weight in latencies:
        histogram.add(latency, weight)
    estimate = histogram.percentile(share)
    assert estimate is not None, "weights are rounded, but there is always an answer"
    ranked = sorted(latencies)
    seen = list(accumulate(weight for _, weight in ranked))
    # Rounding may shift a sum by a hair, and with it the answer by a latency.
    near = [
        latency
        for (latency, weight), total in zip(ranked, seen, strict=True)
        if total * (1 + 1e-9) >= share * seen[-1] and (total - weight) * (1 - 1e-9) <= share * seen[-1]
    ]
    assert any(latency / EIGHTH < estimate < latency * EIGHTH for latency in near)


@given(st.floats(-1e12, 1e12))
def test_any_latency_can_be_counted(latency: float) -> None:
    """A clock that is ahead gives negative ones, and a broker that knows no time gives decades."""
    histogram = Latencies()
    assert histogram.percentile(0.5) is None
    histogram.add(latency)
    estimate = histogram.percentile(0.5)
    assert estimate is not None
    assert 1e-6 <= estimate < 2e6


@given(st.lists(st.integers(1, 3_000), max_size=5))
def test_every_event_of_a_batch_counts_although_few_are_looked_at(batches: list[int]) -> None:
    stats = Stats()
    for size in batches:
        deliveries = [Delivery(Record("t", b""), 0, n, 0.0) for n in range(size)]
        stats.arrived(size)
        stats.finished(deliveries, published=size - 1, dead_letters=1)
    total = sum(batches)
    assert (stats.received, stats.completed, stats.in_flight) == (total, total, 0)
    assert (stats.published, stats.dead_letters) == (total - len(batches), len(batches))
    assert abs(stats.latencies._total - total) < 1e-6 * max(total, 1)
