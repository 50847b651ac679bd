"""What decides without I/O, or nearly, against a naive model."""

from __future__ import annotations

import math
import tempfile
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.deploy.batch import parse_location
from eventml.deploy.batch.chunks import as_list
from eventml.deploy.batch.job import open_source
from eventml.deploy.batch.rows import EventBuilder
from eventml.deploy.batch.schema import column_values, schema_of_type
from eventml.deploy.batch.scoring import ColumnOutputs
from eventml.deploy.batch.seen import Seen
from eventml.errors import DecodeError, OutputError
from eventml.handlers import read_handler
from tests.batch.conftest import SOURCES, rides, write

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


@given(st.lists(good_rows, max_size=20))
def test_columns_become_the_events_that_a_stream_would_decode(rows: list[dict[str, Any]]) -> None:
    assert EventBuilder(Event).events(_columns(rows), len(rows)) == [_decoded(row) for row in rows]


@given(st.lists(any_rows, min_size=1, max_size=8))
def test_what_a_stream_refuses_is_refused_and_nothing_else(rows: list[dict[str, Any]]) -> None:
    # A database has no truth values but 0 and 1: those are the one thing that a stream would refuse.
    rows = [{**row, "flag": bool(row["flag"]) if row["flag"] in (0, 1) else row["flag"]} for row in rows]
    shape = EventBuilder(Event)
    expected = [_decoded(row) for row in rows]
    for row, event in zip(rows, expected, strict=True):
        if event is None:
            with pytest.raises(DecodeError):
                shape.event(row)
        else:
            assert shape.event(row) == event
    if None in expected:
        with pytest.raises(DecodeError):
            shape.events(_columns(rows), len(rows))
    else:
        assert shape.events(_columns(rows), len(rows)) == expected


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([0.1, None], pa.float32()), [0.10000000149011612, None]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array([Decimal("1.10")], pa.decimal128(9, 2)), [Decimal("1.10")]),
        (pa.array([10**18], pa.timestamp("ns")), [datetime(2001, 9, 9, 1, 46, 40)]),  # noqa: DTZ001 - naive it is
        (pa.array([10**18 + 1], pa.timestamp("ns")), ["2001-09-09 01:46:40.000000001"]),
        (pa.array([2**63], pa.uint64()), [2**63]),
        (np.array([1.5, 2.5]), [1.5, 2.5]),
        ([1, "x"], [1, "x"]),
    ],
)
def test_values_leave_a_column_as_they_are(column: Any, expected: list[Any]) -> None:
    found = as_list(column)
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))


def test_a_database_s_values_become_those_of_json() -> None:
    class Row(msgspec.Struct):
        text: str
        whole: int
        part: float
        flag: bool

    columns: dict[str, list[Any]] = {
        "text": [UUID(int=7)],
        "whole": [Decimal("12.00")],
        "part": [Decimal("0.1")],
        "flag": [1],
    }
    expected = Row("00000000-0000-0000-0000-000000000007", 12, 0.1, flag=True)
    assert EventBuilder(Row).events(columns, 1) == [expected]
    assert EventBuilder(Row).event({name: values[0] for name, values in columns.items()}) == expected


class Output(msgspec.Struct):
    whole: int
    part: float | None
    text: str
    level: Literal["low", "high"]
    when: datetime
    price: Decimal
    data: bytes
    parts: list[float]
    flag: bool


def test_the_kinds_of_a_type_s_columns() -> None:
    schema = schema_of_type(Output)
    assert schema is not None
    kinds = {field.name: field.kind for field in schema.columns}
    assert kinds == {
        "whole": "int",
        "part": "float",
        "text": "text",
        "level": "text",
        "when": "text",
        "price": "text",
        "data": "text",
        "parts": "json",
        "flag": "bool",
    }


def test_values_without_a_column_of_their_own_are_what_json_says() -> None:
    when = datetime(2024, 1, 1, tzinfo=UTC)
    assert column_values([when, None], "text") == ["2024-01-01T00:00:00Z", None]
    assert column_values([Decimal("1.10")], "text") == ["1.10"]
    assert column_values([timedelta(seconds=1)], "text") == ["PT1S"]
    assert column_values([np.float64(0.1), 2, None], "float") == [0.1, 2.0, None]
    assert list(map(type, column_values([np.float64(0.1), 2], "float"))) == [float, float]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_an_array_that_is_not_finite_is_refused(bad: float, dtype: str) -> None:
    def predict(events: list[Event]) -> Any:
        """It is not called."""

    outputs = ColumnOutputs(read_handler(predict, bus="b", topic="t", to="u", choices={}))
    assert as_list(outputs.check_columns(np.array([0.1, 2], dtype), 2)) == [float(np.dtype(dtype).type(0.1)), 2.0]
    with pytest.raises(OutputError, match="output 1 is not a finite number"):
        outputs.check_columns(np.array([0.1, bad], dtype), 2)
    with pytest.raises(OutputError, match="returned 2 outputs for 3 events"):
        outputs.check_columns(np.array([0.1, 2], dtype), 3)


@given(st.lists(st.lists(st.integers(0, 40), max_size=6), max_size=12), st.booleans(), st.booleans())
def test_an_id_is_new_once(chunks: list[list[int]], arrow: bool, text: bool) -> None:
    written: list[Any] = []

    def earlier() -> list[list[Any]]:
        return [list(written)]

    with tempfile.TemporaryDirectory() as folder:
        seen = Seen(Path(folder, "seen"))
        expected: set[Any] = set()
        for chunk in chunks:
            ids: list[Any] = [f"{one:03}" for one in chunk] if text else chunk
            column: Any = pa.array(ids, pa.string() if text else pa.int64()) if arrow else ids
            found = seen.new(column, earlier)
            new = ids if found is None else [ids[position] for position in found]
            assert len(new) == len(set(new))
            assert set(new) == set(ids) - expected
            expected |= set(ids)
            written += new
            assert seen.known(["no such", *ids]) == (set() if seen.ascending else set(ids))
        seen.close()


@pytest.mark.parametrize("place", SOURCES)
@pytest.mark.parametrize("size", [1, 7, 50, 1000])
def test_reading_goes_on_behind_every_position(place: str, size: int) -> None:
    write(place, rides(100))
    source = open_source(parse_location(place, option="--from"), "ride_id")
    wanted = ["ride_id", "distance"]

    def read(after: Any) -> list[Any]:
        chunks = list(source.chunks(wanted, rows=size, after=after))
        assert all(len(chunk) <= size for chunk in chunks)
        return [
            (msgspec.json.decode(msgspec.json.encode(chunk.position)), row)
            for chunk in chunks
            for row in chunk.lines or zip(*map(as_list, chunk.columns.values()), strict=True)
        ]

    whole = read(None)
    assert len(whole) == 100
    for position in {str(after): after for after, _ in whole}.values():
        behind = [row for after, row in whole[[a for a, _ in whole].index(position) :] if after != position]
        assert [row for _, row in read(position)] == behind
    source.close()
