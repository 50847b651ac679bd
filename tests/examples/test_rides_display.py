"""Quantiles of the demo's table."""

from __future__ import annotations

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from eventml.runtime import SECONDS_BUCKETS, Histogram
from examples.rides.display import quantile

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
    estimate = quantile(histogram, share)
    assert estimate is not None
    assert lower <= estimate <= upper * (1 + 1e-9)


def test_an_empty_histogram_has_no_quantile() -> None:
    assert quantile(Histogram(SECONDS_BUCKETS), 0.5) is None
