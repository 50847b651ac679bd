"""Comparing two sets of predictions, against a plain computation."""

from __future__ import annotations

import statistics
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.deploy import comparison
from eventml.deploy.comparison import Comparison
from eventml.deploy.comparison.answers import Rows

predictions = st.dictionaries(st.text(max_size=2), st.floats(-1e6, 1e6), min_size=1, max_size=60)


Fields = dict[str, dict[str, Any]]


def compare(first: Fields, second: Fields, events: Fields) -> Comparison:
    """Compare predictions for events, each given by the event's id. They come in two batches."""
    tables = []
    for given_rows in (events, first, second):
        ids, values = list(given_rows), list(given_rows.values())
        rows, half = Rows(id=pa.string()), len(ids) // 2
        rows.add(values[:half], id=ids[:half])
        rows.add(values[half:], id=ids[half:])
        tables.append(rows.table())
    return comparison.compare(*tables)


@given(predictions, predictions)
def test_pairs_and_their_differences(first: dict[str, float], second: dict[str, float]) -> None:
    result = compare(
        {i: {"v": v} for i, v in first.items()},
        {i: {"v": v} for i, v in second.items()},
        {i: {} for i in first},
    )
    paired = first.keys() & second.keys()
    assert (result.pairs, result.only_first, result.only_second) == (
        len(paired),
        len(first.keys() - second.keys()),
        len(second.keys() - first.keys()),
    )
    if not paired:
        assert not result.fields
        return
    [field] = result.fields
    sizes = [abs(second[i] - first[i]) for i in paired]
    assert field.equal == pytest.approx(statistics.fmean(first[i] == second[i] for i in paired))
    assert field.mean == pytest.approx(statistics.fmean(second[i] - first[i] for i in paired), abs=1e-6)
    assert field.absolute == pytest.approx(statistics.fmean(sizes))
    assert field.largest == max(sizes)
    assert field.p50 is not None
    assert field.p50 <= field.p90 <= field.p99 <= field.largest  # type: ignore[operator]
    worst = result.worst[0]
    assert (worst.first, worst.second) == (first[worst.event], second[worst.event])
    assert abs(worst.second - worst.first) == max(sizes)


@given(st.integers(20, 200), st.integers(1, 5))
def test_the_group_of_a_feature_that_differs_most_comes_first(count: int, kinds: int) -> None:
    events = {str(n): {"kind": f"k{n % kinds}", "x": float(n)} for n in range(count * kinds)}
    first = {i: {"v": 0.0} for i in events}
    second = {i: {"v": 5.0 if event["kind"] == "k0" else 1.0} for i, event in events.items()}
    result = compare(first, second, events)
    kind = next(one for one in result.features if one.feature == "kind")
    assert (kind.values, kind.events, kind.absolute) == ("k0", count, 5.0)
    sizes = [one.absolute for one in result.features]
    assert sizes == sorted(sizes, reverse=True)


def test_predictions_without_numbers_are_compared_by_equality() -> None:
    first: dict[str, dict[str, Any]] = {"a": {"label": "x"}, "b": {"label": "y"}, "c": {"label": None}}
    second: dict[str, dict[str, Any]] = {"a": {"label": "x"}, "b": {"label": "z"}, "c": {"label": None}}
    result = compare(first, second, {})
    [field] = result.fields
    assert field.equal == pytest.approx(2 / 3)
    assert (field.absolute, result.compared, result.worst) == (None, "", ())


def test_a_missing_number_leaves_the_others_compared() -> None:
    first: dict[str, dict[str, Any]] = {"a": {"v": 1.0}, "b": {"v": None}, "c": {"v": 3.0}}
    second: dict[str, dict[str, Any]] = {"a": {"v": 2.0}, "b": {"v": 2.0}, "c": {}}
    result = compare(first, second, {})
    [field] = result.fields
    assert (field.mean, field.absolute, field.largest, field.equal) == (1.0, 1.0, 1.0, 0.0)
    assert (result.compared, [one.event for one in result.worst]) == ("v", ["a"])


def test_groups_of_large_numbers_are_told_apart() -> None:
    """Times in seconds differ in their seventh digit; None is beside them."""
    values: dict[str, Any] = {str(n): 1_767_225_600 + n for n in range(200)} | {"none": None}
    events = {i: {"at": value} for i, value in values.items()}
    first = {i: {"v": 0.0} for i in events}
    second = {i: {"v": 1.0 if i == "none" or int(i) < 160 else 9.0} for i in events}
    groups = compare(first, second, events).features
    assert [one.events for one in groups] == [40] * 5
    assert groups[0].absolute == 9.0
    assert {one.absolute for one in groups[1:]} == {1.0}
    assert len({one.values for one in groups}) == 5


def test_a_feature_of_several_types_is_grouped_by_its_values() -> None:
    odd: list[Any] = [True, "text", 10**400, {"a": 1}, [], None]
    events = {f"{n}/{i}": {"odd": value} for n in range(30) for i, value in enumerate(odd)}
    predictions = {i: {"v": 1.0} for i in events}
    groups = compare(predictions, predictions, events).features
    assert [one.events for one in groups] == [30] * 5


@given(st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text())))
def test_any_predictions_are_compared(values: list[Any]) -> None:
    first = {str(n): {"v": value} for n, value in enumerate(values)}
    result = compare(first, first, first)
    assert result.pairs == len(values)
    assert all(field.equal == 1.0 and field.largest in (None, 0.0) for field in result.fields)


def test_long_values_of_a_feature_are_cut() -> None:
    events = {str(n): {"text": "x" * 10_000} for n in range(30)}
    predictions = {i: {"v": 0.0} for i in events}
    [group] = compare(predictions, predictions, events).features
    assert len(group.values) < 100
