"""Counters of workers add up."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from eventml.deploy.workers.reports import HandlerCounters, HistogramSnapshot

COUNTERS = ("received", "completed")
HISTOGRAMS = st.builds(
    HistogramSnapshot,
    counts=st.lists(st.integers(0, 9).map(float), min_size=3, max_size=3),
    sum=st.integers(0, 99).map(float),
)
COUNTER_SETS = st.builds(
    HandlerCounters,
    counts=st.dictionaries(st.sampled_from(COUNTERS), st.integers(0, 99)),
    histograms=st.dictionaries(st.sampled_from(["latency", "batch", "call"]), HISTOGRAMS),
)


@given(st.lists(COUNTER_SETS))
def test_counters_add_up_in_any_order_and_leave_the_summands_unchanged(parts: list[HandlerCounters]) -> None:
    before = msgspec.json.encode(parts)
    total = sum(parts, HandlerCounters())
    for name in COUNTERS:
        assert total.counts.get(name, 0) == sum(part.counts.get(name, 0) for part in parts)
    for name, histogram in total.histograms.items():
        summands = [part.histograms[name] for part in parts if name in part.histograms]
        assert histogram.sum == sum(part.sum for part in summands)
        assert sum(histogram.counts) == sum(sum(part.counts) for part in summands)
    assert msgspec.json.encode(parts) == before
    assert sum(reversed(parts), HandlerCounters()) == total
