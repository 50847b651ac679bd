"""The sequential test: its false alarms, and what its sums are."""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.runtime.model_versions.canary_trial import Sums, log_evidence

if TYPE_CHECKING:
    from collections.abc import Callable

VALUES = st.floats(-1e6, 1e6)


def sums_of(values: list[float]) -> Sums:
    sums = Sums()
    for value in values:
        sums = sums.observe(value)
    return sums


@given(st.lists(VALUES), st.lists(VALUES))
def test_the_sums_of_two_workers_are_those_of_one(first: list[float], second: list[float]) -> None:
    both, one = sums_of(first).plus(sums_of(second)), sums_of(first + second)
    assert both.number == one.number
    assert both.total == pytest.approx(one.total, abs=1e-3)
    assert both.squares == pytest.approx(one.squares)


@given(st.lists(st.floats()))
def test_no_observation_makes_the_test_fail(values: list[float]) -> None:
    sums = sums_of(values)
    assert sums.number == sum(not math.isnan(value) for value in values)
    assert math.isfinite(log_evidence(sums))


@given(st.lists(VALUES, min_size=1))
def test_there_is_no_evidence_where_the_sum_is_not_above_zero(values: list[float]) -> None:
    sums = sums_of(values)
    if sums.total <= 0:
        assert log_evidence(sums) <= 1e-9


@given(st.lists(st.floats(0.1, 1e3), min_size=5, max_size=50), st.integers(-3, 4))
def test_the_unit_of_the_observations_hardly_matters(values: list[float], power: int) -> None:
    first = log_evidence(sums_of(values))
    second = log_evidence(sums_of([value * 10.0**power for value in values]))
    assert second == pytest.approx(first, abs=3.5)


def alarms(draw: Callable[[Random], float], runs: int = 200, length: int = 500) -> int:
    """In how many runs the evidence ever exceeds that of a probability of 5%, looked at each time."""
    found = 0
    for seed in range(runs):
        random, sums = Random(seed), Sums()
        for _ in range(length):
            sums = sums.observe(draw(random))
            if log_evidence(sums) > math.log(20):
                found += 1
                break
    return found


@pytest.mark.parametrize(
    "draw",
    [
        lambda random: random.choice([-1.0, 1.0]),
        lambda random: random.gauss(0.0, 1.0),
        lambda random: 1e4 * random.gauss(0.0, 1.0) ** 3,
        lambda random: 1e-3 * random.choice([-1.0, 1.0]) * random.paretovariate(1.0),
    ],
    ids=["signs", "normal", "heavy", "without a variance"],
)
def test_a_mean_of_zero_raises_few_alarms_however_often_it_is_tested(draw: Callable[[Random], float]) -> None:
    assert alarms(draw) <= 10 + 9  # 5% of 200, and three standard deviations


def test_a_mean_above_zero_is_found() -> None:
    assert alarms(lambda random: random.gauss(0.3, 1.0), runs=50) == 50
    assert log_evidence(sums_of([1.0] * 19)) > math.log(300)
