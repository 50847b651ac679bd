"""Comparing two sets of predictions, against a plain computation."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.deploy.comparison import compare

predictions = st.dictionaries(st.text(max_size=2), st.floats(-1e6, 1e6), min_size=1, max_size=60)


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
    assert sum(count for _, count in result.histogram) == len(paired)
    assert abs(second[result.worst[0]] - first[result.worst[0]]) == max(sizes)


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
    assert (field.absolute, result.compared, result.histogram) == (None, "", ())
