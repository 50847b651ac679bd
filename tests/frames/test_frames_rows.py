"""What a handler of frames returns, as outputs."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from eventml.errors import OutputError
from eventml.frames import outputs_to_list


class Predicted(msgspec.Struct, rename="camel"):
    ride_id: str
    minutes: float
    arrives: dt.datetime | None = None


NOON = dt.datetime(2019, 1, 1, 12)  # noqa: DTZ001 - naive, as the city records them
ANSWERS = [Predicted("a", 1.0, NOON), Predicted("b", 2.0, None)]
COLUMNS: dict[str, Any] = {"ride_id": ["a", "b"], "minutes": [1.0, 2.0], "arrives": [NOON, None]}


def of(outputs: Any, output_type: Any = Any) -> Any:
    return outputs_to_list(outputs, output_type, check_index=True)


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
def test_rows_become_the_output_type(make: Any) -> None:
    assert of(make(COLUMNS), Predicted) == ANSWERS


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
def test_columns_may_have_the_names_that_travel(make: Any) -> None:
    assert of(make({"rideId": ["a"], "minutes": [1.0]}), Predicted) == [Predicted("a", 1.0)]


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
def test_rows_without_a_type_are_dicts(make: Any) -> None:
    assert of(make({"zone": [7, 8], "far": [True, False]})) == [
        {"zone": 7, "far": True},
        {"zone": 8, "far": False},
    ]


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
def test_no_rows_are_no_outputs(make: Any) -> None:
    assert of(make({"ride_id": [], "minutes": []}), Predicted) == []


@pytest.mark.parametrize(
    ("outputs", "values"),
    [
        (pd.Series([1, 2]), [1, 2]),
        (pd.Series([1, None], dtype="Int64"), [1, None]),
        (pd.Series(["a", None]), ["a", None]),
        (pd.Series(["a", None], dtype="category"), ["a", None]),
        (pd.Series([True, None], dtype="boolean"), [True, None]),
        (pd.Series([NOON, None]).astype("datetime64[ns]"), [NOON, None]),
        (pd.Series([dt.timedelta(seconds=3)]), [dt.timedelta(seconds=3)]),
        (pd.Index([1, 2]), [1, 2]),
        (pl.Series([1, None]), [1, None]),
        (pa.array([1, None]), [1, None]),
        (pa.chunked_array([[1], [2]]), [1, 2]),
        (np.array([[1.0, 2.0]]), [[1.0, 2.0]]),
        ([1, 2], [1, 2]),
    ],
)
def test_a_column_or_an_array_becomes_plain_values(outputs: Any, values: list[Any]) -> None:
    made = of(outputs)
    assert made == values
    assert [type(value) for value in made] == [type(value) for value in values]


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame])
def test_a_float_that_is_nan_is_not_taken_for_missing(make: Any) -> None:
    class Maybe(msgspec.Struct):
        minutes: float | None

    [answer] = of(make({"minutes": [float("nan")]}), Maybe)
    assert answer.minutes != answer.minutes  # only NaN is not itself


@pytest.mark.parametrize(
    "moved",
    [
        pd.DataFrame(COLUMNS).sort_values("minutes", ascending=False),
        pd.DataFrame(COLUMNS).set_index("ride_id")[["minutes"]],
        pd.DataFrame(COLUMNS).iloc[1:],
        pd.Series([1.0, 2.0], index=[1, 0]),
        pd.Series([1.0, 2.0], index=[0.5, 1.5]),
    ],
)
def test_an_index_that_has_moved_is_refused(moved: Any) -> None:
    with pytest.raises(OutputError, match=r"index.*reset_index"):
        of(moved)


def test_an_index_that_is_back_in_order_is_fine() -> None:
    frame = pd.DataFrame(COLUMNS).sort_values("minutes", ascending=False).sort_index()
    assert of(frame, Predicted) == ANSWERS


def test_a_handler_of_events_may_return_any_index() -> None:
    assert outputs_to_list(pd.Series([1.0, 2.0], index=["a", "b"]), Any, check_index=False) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"ride_id": ["a"], "minuets": [1.0]}, "minuets"),
        ({"ride_id": ["a"]}, "minutes"),
        ({"ride_id": ["a"], "minutes": ["long"]}, r"\[0\].minutes"),
        ({"ride_id": ["a"], "minutes": [None]}, r"minutes|float"),
    ],
)
@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
def test_a_row_that_is_not_of_the_output_type_is_refused(make: Any, columns: Any, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        of(make(columns), Predicted)


def test_ints_of_which_some_are_missing_come_back_as_they_went() -> None:
    class Counted(msgspec.Struct):
        count: int | None

    assert of(pd.DataFrame({"count": [3, None]}), Counted) == [Counted(3), Counted(None)]
    with pytest.raises(OutputError, match=r"\[0\].count"):
        of(pd.DataFrame({"count": [3.5, None]}), Counted)


def test_two_columns_of_one_field_are_refused() -> None:
    with pytest.raises(OutputError, match="are the same field"):
        of(pd.DataFrame({"ride_id": ["a"], "rideId": ["a"], "minutes": [1.0]}), Predicted)


@pytest.mark.parametrize("names", [[0, 1], ["a", "a"]])
def test_columns_need_names_of_their_own(names: list[Any]) -> None:
    frame = pd.DataFrame([[1, 2]])
    frame.columns = names
    with pytest.raises(OutputError, match="name"):
        of(frame)


def test_a_frame_where_the_output_is_a_number_is_refused() -> None:
    with pytest.raises(OutputError, match="output type float has no fields"):
        of(pd.DataFrame(COLUMNS), float)
