"""Counters, and quantiles of a histogram."""

from __future__ import annotations

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from eventml.records import Delivery, Record
from eventml.runtime.stats import SECONDS_BUCKETS, Histogram, Stats

values = st.lists(st.tuples(st.floats(0, 1e3), st.integers(1, 9)), min_size=1, max_size=200)


@given(values, st.sampled_from([0.001, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_in_the_bucket_of_the_exact_one(values: list[tuple[float, int]], share: float) -> None:
    histogram = Histogram(SECONDS_BUCKETS)
    for value, weight in values:
        histogram.add(value, weight)
    ranked = sorted(value for value, weight in values for _ in range(weight))
    exact = next(value for count, value in enumerate(ranked, 1) if count >= share * len(ranked))
    bucket = bisect_left(SECONDS_BUCKETS, exact)
    lower, upper = (0.0, *SECONDS_BUCKETS)[bucket], (*SECONDS_BUCKETS, SECONDS_BUCKETS[-1])[bucket]
    estimate = histogram.quantile(share)
    assert estimate is not None
    assert lower <= estimate <= upper * (1 + 1e-9)


def test_an_empty_histogram_has_no_quantile() -> None:
    assert Histogram(SECONDS_BUCKETS).quantile(0.5) is None


@given(st.lists(st.integers(1, 3_000), max_size=5))
def test_every_event_of_a_batch_counts_although_latency_is_sampled(batches: list[int]) -> None:
    stats = Stats()
    for size in batches:
        deliveries = [Delivery(Record("t", b""), 0, n, 0.0) for n in range(size)]
        stats.arrived(size)
        stats.finished(deliveries, published=size - 1, dead_letters=1)
    total = sum(batches)
    assert (stats.received, stats.completed, stats.in_flight) == (total, total, 0)
    assert (stats.published, stats.dead_letters) == (total - len(batches), len(batches))
    assert abs(sum(stats.latency.counts) - total) < 1e-6 * max(total, 1)
