"""What a handler may return: one output for each event, of the annotated type, with finite numbers."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml import Bus, Prediction
from eventml.errors import OutputError
from eventml.runtime import Failed, OutputChecks
from eventml.runtime.failures.classification import NOT_CALLED


class Duration(msgspec.Struct):
    minutes: float | None


def checks(output_type: Any = Any) -> OutputChecks:
    bus = Bus("rides")
    bus.predictor("t", to="u", name="duration", output_type=output_type)(lambda rides: rides)
    return OutputChecks(bus.handlers["duration"])


@pytest.mark.parametrize(
    ("outputs", "values"),
    [
        ([1.5, 2], [1.5, 2]),
        (np.array([1.5, 2.0]), [1.5, 2.0]),
        (np.array([[1.0, 2.0], [3.0, 4.0]]), [[1.0, 2.0], [3.0, 4.0]]),
        ([None, np.float64(2.0)], [None, 2.0]),
    ],
)
def test_numbers_are_plain_ones(outputs: Any, values: list[Any]) -> None:
    checked = checks().check(outputs, 2)
    assert checked.are_numbers
    assert checked.values == values
    assert checked.complete == (None not in values)


def test_objects_stay_as_they_are() -> None:
    outputs = [Duration(1.0), None, Duration(None)]
    assert checks(Duration).check(outputs, 3) == (outputs, False, False)
    assert checks().check([{"a": 1.0}, Duration(2.0)], 2).complete


@pytest.mark.parametrize(
    ("output_type", "outputs", "message"),
    [
        (Any, [1.0], "returned 1 outputs for 2 events"),
        (Any, [1.0, math.nan], "output 1 is not a finite number"),
        (Any, [[1.0], [math.inf]], "output 1 is not a finite number"),
        (Duration, [1.0, 2.0], "returned numbers where its annotation says Duration"),
        (Duration, [Duration(1.0), {"minutes": 1.0}], "returned a dict where its annotation says Duration"),
        (Duration, [Duration(1.0), Duration(math.inf)], "minutes is not a finite number"),
        (Any, [{}, {"minutes": [math.nan]}], "not a finite number"),
        (Any, [{}, {"minutes": object()}], "cannot encode"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(output_type: Any, outputs: Any, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        checks(output_type).check(outputs, 2)


def test_a_predictor_may_return_predictions_or_the_numbers_in_them() -> None:
    assert checks(Prediction).check([Prediction("a", 1.0)], 1).are_numbers is False
    assert checks(Prediction).check([1.0], 1).are_numbers is True


RESULTS = st.sampled_from([1.0, None, math.nan, Failed(KeyError()), NOT_CALLED])


@given(st.lists(RESULTS, max_size=8))
def test_outputs_of_single_events_fail_alone(outputs: list[Any]) -> None:
    checked = checks().check_each(outputs)
    for given_, result in zip(outputs, checked, strict=True):
        if isinstance(given_, float) and math.isnan(given_):
            assert isinstance(result, Failed)
            assert isinstance(result.error, OutputError)
        else:
            assert result == given_
