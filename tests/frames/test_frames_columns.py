"""Which types have columns, and what pandas makes of each."""

from __future__ import annotations

import dataclasses
import datetime as dt
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pandas as pd
import pytest

from eventml.errors import RegistrationError
from eventml.frames import FrameBuilder, frame_type
from eventml.frames.columns import columns_of


class Inner(msgspec.Struct):
    zone: int


@dataclasses.dataclass
class AsDataclass:
    zone: int
    distance: float | None = None


class AsTuple(NamedTuple):
    zone: int
    distance: float | None = None


class AsDict(TypedDict):
    zone: int
    distance: float | None


class Sparse(TypedDict, total=False):
    zone: int


@pytest.mark.parametrize("event", [AsDataclass(3), AsTuple(3), AsDict(zone=3, distance=None)])
def test_any_type_with_fields_has_columns(event: Any) -> None:
    kind = AsDict if isinstance(event, dict) else type(event)
    made = FrameBuilder(frame_type("pyarrow", kind)).from_events([event])
    assert made.to_pylist() == [{"zone": 3, "distance": None}]


@pytest.mark.parametrize(
    "kind",
    [Inner, list[int], dict[str, int], int | str, Decimal, Any, Literal["a", 1], dt.time, tuple[int, int]],
)
def test_a_field_with_no_form_in_a_column_is_refused_by_name(kind: Any) -> None:
    event = msgspec.defstruct("Ride", [("ride_id", str), ("odd", kind)])
    with pytest.raises(RegistrationError, match=r"^Ride\.odd cannot be a column.*event_type with only"):
        columns_of(event)


@pytest.mark.parametrize("kind", [int, dict, Any, list[Inner], Inner | int, msgspec.defstruct("Empty", [])])
def test_a_type_without_fields_is_refused(kind: Any) -> None:
    with pytest.raises(RegistrationError, match="no fields to make columns of"):
        columns_of(kind)


def test_a_typed_dict_whose_keys_may_be_missing_is_refused() -> None:
    with pytest.raises(RegistrationError, match=r"Sparse\.zone"):
        columns_of(Sparse)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (int, "int64"),
        (int | None, "float64"),
        (float, "float64"),
        (int | float, "float64"),
        (float | None, "float64"),
        (bool, "bool"),
        (bool | None, "object"),
        (str, pd.Series(["text"]).dtype),
        (str | None, pd.Series(["text"]).dtype),
        (Literal["jfk", "lga"], pd.Series(["text"]).dtype),
        (Literal[1, 2, None], "float64"),  # noqa: PYI061 - None among the values is what is tried
        (bytes, "object"),
        (dt.date, "object"),
        (dt.datetime, "datetime64[us]"),
        (dt.datetime | None, "datetime64[us]"),
        (Annotated[dt.datetime, msgspec.Meta(tz=True)], "datetime64[us, UTC]"),
        (dt.timedelta, "timedelta64[us]"),
    ],
)
def test_what_pandas_makes_of_each_form(kind: Any, dtype: Any) -> None:
    event = msgspec.defstruct("Ride", [("value", kind)])
    assert FrameBuilder(frame_type("pandas", event)).from_events([])["value"].dtype == dtype


def test_a_pandas_frame_is_the_handlers_to_change() -> None:
    event = msgspec.defstruct("Ride", [("distance", float)])
    frame = FrameBuilder(frame_type("pandas", event)).from_events([event(1.0), event(2.0)])
    frame.loc[0, "distance"] = 5.0
    frame["twice"] = frame["distance"] * 2
    assert frame["twice"].tolist() == [10.0, 4.0]
