"""Rows to events: a column at a time gives the events that a stream would decode one by one."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.deploy.batch.chunks import RowChunk
from eventml.deploy.batch.output_columns import as_list, take
from eventml.deploy.batch.row_decoding import RowDecoder
from eventml.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Event(msgspec.Struct):
    name: str
    number: Annotated[int, msgspec.Meta(ge=0)]
    amount: float
    when: datetime | None = None
    flag: bool = False


cells = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)
good_rows = st.fixed_dictionaries(
    {
        "name": st.text(),
        "number": st.integers(0, 2**62),
        "amount": st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**62), 2**62)),
        "flag": st.booleans(),
    }
)
any_rows = st.fixed_dictionaries({"name": cells, "number": cells, "amount": cells, "flag": cells})


def _decoded(row: dict[str, Any]) -> Event | None:
    try:
        return msgspec.json.decode(msgspec.json.encode(row), type=Event)
    except msgspec.ValidationError:
        return None


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in ("name", "number", "amount", "flag")}


def decode(
    decoder: RowDecoder, columns: dict[str, list[Any]], ids: Sequence[int | None]
) -> tuple[list[Any], list[str]]:
    """The events, and the ids of the rejected rows."""
    found = decoder.decode(RowChunk(position=None, ids=list(ids), columns=columns))
    return found.events, [row.id for row in found.rejected]


@given(st.lists(good_rows, max_size=20))
def test_columns_become_the_events_that_a_stream_would_decode(rows: list[dict[str, Any]]) -> None:
    found = decode(RowDecoder(Event), _columns(rows), range(len(rows)))
    assert found == ([_decoded(row) for row in rows], [])


@given(st.lists(any_rows, min_size=1, max_size=8))
def test_exactly_the_rows_that_a_stream_refuses_are_refused(rows: list[dict[str, Any]]) -> None:
    # 0 and 1 are truth values in a database, which a stream would refuse: the only difference.
    rows = [{**row, "flag": bool(row["flag"]) if row["flag"] in (0, 1) else row["flag"]} for row in rows]
    expected = [_decoded(row) for row in rows]
    events, rejected = decode(RowDecoder(Event), _columns(rows), range(len(rows)))
    assert events == [event for event in expected if event is not None]
    assert rejected == [str(number) for number, event in enumerate(expected) if event is None]


def test_an_invalid_row_among_built_events_is_a_decode_error() -> None:
    columns = {"name": ["a"], "number": ["x"], "amount": [1.0], "flag": [True]}
    chunk = RowChunk(position=None, ids=[1], columns=columns)
    with pytest.raises(DecodeError, match="Expected `int`"):
        RowDecoder(Event).events(chunk)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([0.1, None], pa.float32()), [0.10000000149011612, None]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array([Decimal("1.10")], pa.decimal128(9, 2)), [Decimal("1.10")]),
        (pa.array([10**18], pa.timestamp("ns")), [datetime(2001, 9, 9, 1, 46, 40)]),  # noqa: DTZ001 - a naive time
        (pa.array([10**18 + 1], pa.timestamp("ns")), ["2001-09-09 01:46:40.000000001"]),
        (pa.array([2**63], pa.uint64()), [2**63]),
        (
            pa.array([[("a", 1), ("b", None)], None], pa.map_(pa.string(), pa.int64())),
            [{"a": 1, "b": None}, None],
        ),
        (pa.array(["a", None, "a"], pa.string_view()), ["a", None, "a"]),
        (pa.DictionaryArray.from_arrays([0, 1, 0], pa.array(["a", "b"], pa.string_view())), ["a", "b", "a"]),
        (np.array([1.5, 2.5]), [1.5, 2.5]),
        ([1, "x"], [1, "x"]),
    ],
)
def test_a_column_becomes_a_list_of_unchanged_values(column: Any, expected: list[Any]) -> None:
    found = as_list(column)
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))
    assert as_list(take(column, [len(column) - 1, 0])) == [expected[-1], expected[0]]


@pytest.mark.parametrize("ids", [[1, 2], [1, None]], ids=["by column", "by row"])
def test_values_of_a_database_become_those_of_json(ids: list[int | None]) -> None:
    class Row(msgspec.Struct):
        text: str
        whole: int
        part: float
        flag: bool

    columns: dict[str, list[Any]] = {
        "text": [UUID(int=7)] * 2,
        "whole": [Decimal("12.00")] * 2,
        "part": [Decimal("0.1")] * 2,
        "flag": [1] * 2,
    }
    expected = Row("00000000-0000-0000-0000-000000000007", 12, 0.1, flag=True)
    events, _ = decode(RowDecoder(Row), columns, ids)
    assert events == [expected] * (2 if ids[1] else 1)


@pytest.mark.parametrize("event_type", [dict, dict[str, Any], Any])
def test_cells_without_a_type_get_the_values_that_publishing_gives_them(event_type: Any) -> None:
    columns: dict[str, list[Any]] = {"zone": ["7", None], "code": ["007", "x"], "distance": ["1.5", "2e3"]}
    expected = [{"zone": 7, "code": "007", "distance": 1.5}, {"zone": None, "code": "x", "distance": 2000.0}]
    decoder = RowDecoder(event_type, from_text=True)
    assert decode(decoder, columns, [1, 2]) == (expected, [])
    assert decode(decoder, columns, [1, None])[0] == expected[:1]


def test_cells_of_a_field_are_converted_to_its_type() -> None:
    class Row(msgspec.Struct):
        code: str
        zone: int
        other: Any = None

    columns: dict[str, list[Any]] = {"code": ["007"], "zone": ["7"], "other": ["1.5"]}
    assert decode(RowDecoder(Row, from_text=True), columns, [1]) == ([Row("007", 7, 1.5)], [])
