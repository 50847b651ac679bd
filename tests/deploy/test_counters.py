"""Counters of workers add up."""

from __future__ import annotations

import copy
from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from eventml.deploy.workers.reports import Totals, add_totals

COUNTS = st.integers(0, 99).map(float)
TOTALS = st.fixed_dictionaries(
    {},
    optional={
        "received": st.lists(COUNTS, min_size=1, max_size=1),
        "latency": st.lists(COUNTS, min_size=4, max_size=4),
        "call": st.lists(COUNTS, min_size=4, max_size=4),
    },
)


@given(st.lists(TOTALS))
def test_totals_add_up_in_any_order_and_leave_the_summands_unchanged(parts: list[Totals]) -> None:
    before = copy.deepcopy(parts)
    none: Totals = {}
    total = reduce(add_totals, parts, none)
    assert set(total) == {name for part in parts for name in part}
    for name, values in total.items():
        summands = [part[name] for part in parts if name in part]
        assert values == [sum(column) for column in zip(*summands, strict=True)]
    assert parts == before
    assert reduce(add_totals, reversed(parts), none) == total
