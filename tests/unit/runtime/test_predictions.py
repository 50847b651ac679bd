"""The distribution of predictions: their numbers, the buckets of a profile, and what a batch counts."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from decimal import Decimal
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.backends.base import Completion
from eventml.errors import OutputError
from eventml.records import CONTENT_TYPE, JSON, Delivery, Record
from eventml.runtime import predictions
from eventml.runtime.failures.classification import Failed
from eventml.runtime.predictions import count_predictions, prediction_number, profile_of
from eventml.runtime.stats import Histogram

NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers()


@pytest.mark.parametrize(
    ("prediction", "number"),
    [
        (7, 7.0),
        (0.5, 0.5),
        (Decimal("0.5"), 0.5),
        ({"input": "a", "value": 3}, 3.0),
        ({"id": 5, "limit": 0.5, "risk": 0.25}, 0.25),
        ({"id": 5, "risk": Decimal("0.25")}, 0.25),
        ({"risk": 3, "limit": 0.5}, 3.0),
        ({"risk": None, "limit": 0.5}, None),
        ({"id": 5}, None),
        ({}, None),
        (True, None),
        ("high", None),
        ([0.5, 0.5], None),
        ({"input": "a", "value": [0.5]}, None),
        (None, None),
        (10**400, None),
        (math.inf, None),
        (math.nan, None),
        (Decimal("NaN"), None),
    ],
)
def test_the_number_of_a_prediction(prediction: Any, number: float | None) -> None:
    assert prediction_number(prediction, "risk") == number


class Fare(msgspec.Struct, rename="camel"):
    ride_id: int
    stops: list[float]
    minutes_left: float | None
    fee: float


class Seats(msgspec.Struct):
    car: str
    free: int


@pytest.mark.parametrize(
    ("types", "recorded", "field"),
    [
        ([Fare], [{"fee": 1.5}], "minutesLeft"),
        ([Seats], [{"free": 1.5}], "free"),
        ([Any], [{"id": 5, "fee": 1.5}, {"other": 2.5}], "fee"),
        ([dict], [{"id": 5}], "id"),
        ([float], [1.5], ""),
    ],
)
def test_one_field_of_objects_has_their_number(types: list[Any], recorded: list[Any], field: str) -> None:
    assert profile_of(recorded, types).field == field


@given(st.lists(NUMBERS))
def test_a_profile_counts_each_number_in_its_bucket(numbers: list[float]) -> None:
    profile = profile_of(numbers)
    known = [one for one in map(prediction_number, numbers) if one is not None]
    assert all(a < b for a, b in pairwise(profile.bounds))
    assert all(map(math.isfinite, profile.bounds))
    assert len(profile.bounds) < 70
    expected = [0.0] * (len(profile.bounds) + 1)
    for number in known:
        expected[bisect_left(profile.bounds, number)] += 1
    assert list(profile.counts) == (expected if known else [])


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20))
def test_what_is_counted_can_be_reported(numbers: list[float]) -> None:
    histogram = Histogram(profile_of(numbers).bounds)
    for number in filter(None, map(prediction_number, numbers)):
        histogram.add(number, 1e12)
    assert all(map(math.isfinite, [*histogram.counts, histogram.sum]))


def test_the_bounds_of_a_profile_are_round() -> None:
    profile = profile_of([{"id": "a", "minutes": 3.75 + n / 10} for n in range(500)])
    assert list(profile.bounds) == [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55]
    assert list(profile.counts[:3]) == [0, 13, 50]
    assert list(profile_of([0.0, 1.0]).bounds) == [round(n * 0.05, 2) for n in range(21)]


def completion(value: Any) -> Completion:
    delivery = Delivery(Record("in", b"{}"), 0, 0, 0.0)
    return Completion(delivery, (Record("out", json.dumps(value).encode(), None, "o", {CONTENT_TYPE: JSON}),))


@given(st.integers(0, 400))
def test_a_sample_of_a_batch_stands_for_all_of_it(size: int) -> None:
    histogram = Histogram([1.0, 2.0])
    count_predictions([completion(1.5)] * size, histogram)
    assert sum(histogram.counts) == pytest.approx(size)
    assert histogram.counts[1] == pytest.approx(size)


@pytest.mark.parametrize("size", [1, 4, 5, 7, 8, 100, 103])
def test_at_most_four_of_a_batch_are_decoded(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = list[Record]()
    monkeypatch.setattr(predictions, "decode_prediction", decoded.append)
    count_predictions([completion(1.5)] * size, Histogram([1.0]))
    assert 0 < len(decoded) <= 4


def test_what_has_no_number_is_not_counted() -> None:
    histogram = Histogram([1.0])
    without = Completion(Delivery(Record("in", b"{}"), 0, 0, 0.0))
    long = completion({"text": "x" * 5000, "risk": 0.5})
    deep = Completion(without.delivery, (Record("out", b"[" * 2000, None, "o", {CONTENT_TYPE: JSON}),))
    for one in (Failed(OutputError("no")), without, long, deep, completion("high"), completion(10**30)):
        count_predictions([one], histogram)
    assert histogram.counts == [0.0, 1.0], "the integer is one"
    histogram = Histogram([1.0])
    count_predictions([without, deep], histogram)
    assert not any(histogram.counts)
