"""What is too old, and what is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventml.records import Delivery, Record
from eventml.runtime.calls.caller import Item
from eventml.runtime.failures.staleness import split_stale

NOW = 1_700_000_000.0


def items(ages: list[float]) -> list[Item]:
    return [Item(Delivery(Record("t", b"", id=str(n)), 0, n, NOW - age), None) for n, age in enumerate(ages)]


@given(st.lists(st.integers(-100, 1_000).map(float)), st.integers(1, 1_000).map(float))
def test_the_stale_are_those_older_than_the_bound_in_their_order(ages: list[float], max_age: float) -> None:
    fresh, stale = split_stale(items(ages), max_age, NOW)
    assert [item.delivery.offset for item in stale] == [n for n, age in enumerate(ages) if age > max_age]
    assert [item.delivery.offset for item in fresh] == [n for n, age in enumerate(ages) if age <= max_age]
