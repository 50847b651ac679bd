"""Casting tables: column types that are converted to those of the event type, and values that are refused."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from eventml.errors import DecodeError
from eventml.frames import FrameBuilder, frame_type
from eventml.frames.columns import columns_of
from eventml.frames.tables import schema_of
from tests.frames.events import frame_of_table


class Ride(msgspec.Struct, rename="camel"):
    ride_id: str
    pickup_zone: Annotated[int, msgspec.Meta(ge=0, le=265)]
    trip_distance: float
    started: dt.datetime
    shared: bool = False
    payment: Literal["card", "cash"] | None = None


RIDES = [
    Ride("a", 1, 2.5, dt.datetime(2019, 1, 1, 8, 30)),  # noqa: DTZ001 - naive, as the city records them
    Ride("b", 265, 0.0, dt.datetime(2019, 6, 30, 23, 59, 59), True, "card"),  # noqa: DTZ001 - as above
]


def columns(**changed: Any) -> dict[str, Any]:
    as_they_are = {
        "rideId": ["a", "b"],
        "pickupZone": [1, 265],
        "tripDistance": [2.5, 0.0],
        "started": [ride.started for ride in RIDES],
        "shared": [False, True],
        "payment": [None, "card"],
    }
    return {name: values for name, values in {**as_they_are, **changed}.items() if values is not None}


@pytest.fixture
def builder() -> FrameBuilder:
    return FrameBuilder(frame_type("pyarrow", Ride))


def rows(builder: FrameBuilder, table: Any) -> Any:
    return frame_of_table(builder, table).to_pylist()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("pickupZone", pa.array([1, 265], pa.int16())),
        ("pickupZone", pa.array([1, 265], pa.uint64())),
        ("pickupZone", ["1", "265"]),
        ("pickupZone", [1.0, 265.0]),
        ("tripDistance", pa.array([2.5, 0.0], pa.float32())),
        ("tripDistance", [Decimal("2.50"), Decimal("0.00")]),
        ("tripDistance", ["2.5", "0"]),
        ("shared", [0, 1]),
        ("shared", ["false", "true"]),
        ("started", ["2019-01-01T08:30:00", "2019-06-30 23:59:59"]),
        ("started", pa.array([ride.started for ride in RIDES], pa.timestamp("ns"))),
        ("started", pa.array([ride.started for ride in RIDES], pa.timestamp("s"))),
        ("rideId", pa.array(["a", "b"], pa.large_string())),
        ("rideId", pa.array(["a", "b"]).dictionary_encode()),
        ("payment", pa.array([None, "card"]).dictionary_encode()),
    ],
)
def test_other_forms_of_the_same_values_make_the_same_frame(
    builder: FrameBuilder, name: str, values: Any
) -> None:
    assert frame_of_table(builder, pa.table(columns(**{name: values}))).equals(builder.from_events(RIDES))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("pickupZone", [1, 266]),
        ("pickupZone", [1, None]),
        ("pickupZone", pa.array([1, 2**64 - 1], pa.uint64())),
        ("pickupZone", [1.5, 2.0]),
        ("pickupZone", [True, False]),
        ("tripDistance", [2.5, None]),
        ("tripDistance", ["2.5", "far"]),
        ("shared", [0, 2]),
        ("started", ["2019-01-01T08:30:00Z", "2019-06-30T23:59:59Z"]),
        ("started", pa.array([0, 1], pa.timestamp("us", tz="UTC"))),
        ("started", ["yesterday", "today"]),
        ("rideId", [7, 8]),
        ("payment", [None, "barter"]),
        ("payment", pa.array([None, "barter"]).dictionary_encode()),
    ],
)
def test_a_table_with_an_invalid_value_is_refused(builder: FrameBuilder, name: str, values: Any) -> None:
    with pytest.raises(DecodeError, match=f"^{name}"):
        frame_of_table(builder, pa.table(columns(**{name: values})))


def test_a_missing_column_is_filled_with_its_default(builder: FrameBuilder) -> None:
    made = rows(builder, pa.table(columns(shared=None, payment=None)))
    assert [(row["shared"], row["payment"]) for row in made] == [(False, None)] * 2


def test_a_missing_column_without_a_default_is_named(builder: FrameBuilder) -> None:
    with pytest.raises(DecodeError, match=r"no column 'tripDistance'.*rideId"):
        frame_of_table(builder, pa.table(columns(tripDistance=None)))


def test_other_columns_are_ignored_and_order_does_not_matter(builder: FrameBuilder) -> None:
    turned = pa.table(dict(reversed(columns(weather=["sun", "rain"]).items())))
    assert frame_of_table(builder, turned).equals(builder.from_events(RIDES))


def test_parquet_makes_the_frame_of_the_events(builder: FrameBuilder, tmp_path: Any) -> None:
    pq.write_table(pa.table(columns()), tmp_path / "rides.parquet")
    assert frame_of_table(builder, pq.read_table(tmp_path / "rides.parquet")).equals(
        builder.from_events(RIDES)
    )


def test_csv_makes_the_frame_of_the_events(builder: FrameBuilder, tmp_path: Any) -> None:
    pa.csv.write_csv(pa.table(columns()), tmp_path / "rides.csv")
    schema = schema_of(columns_of(Ride))
    options = pa.csv.ConvertOptions(
        column_types={c.source: schema.field(c.name).type for c in columns_of(Ride)}, strings_can_be_null=True
    )
    table = pa.csv.read_csv(tmp_path / "rides.csv", convert_options=options)
    assert frame_of_table(builder, table).equals(builder.from_events(RIDES))


def test_an_int_beyond_64_bits_is_refused_by_name() -> None:
    class Counted(msgspec.Struct):
        count: int

    with pytest.raises(DecodeError, match=r"^count: .*int64"):
        FrameBuilder(frame_type("polars", Counted)).from_events([Counted(2**64)])


def test_an_unsigned_int_beyond_64_bits_does_not_wrap() -> None:
    class Counted(msgspec.Struct):
        count: int

    with pytest.raises(DecodeError, match=r"^count: .*int64"):
        frame_of_table(
            FrameBuilder(frame_type("pandas", Counted)), pa.table({"count": pa.array([2**63], pa.uint64())})
        )


def test_an_int_in_a_column_of_floats_is_the_float_that_an_event_would_hold() -> None:
    class Priced(msgspec.Struct):
        price: float

    big = 2**53 + 1
    builder = FrameBuilder(frame_type("pandas", Priced))
    event = msgspec.json.decode(b'{"price":%d}' % big, type=Priced)
    assert frame_of_table(builder, pa.table({"price": [big]})).equals(builder.from_events([event]))


def test_an_optional_int_that_a_float_cannot_hold_is_refused_in_pandas_only() -> None:
    class Counted(msgspec.Struct):
        count: int | None

    big = [Counted(2**53 + 1), Counted(None)]
    with pytest.raises(DecodeError, match=r"^count: .*float64"):
        FrameBuilder(frame_type("pandas", Counted)).from_events(big)
    assert FrameBuilder(frame_type("polars", Counted)).from_events(big)["count"].to_list() == [
        2**53 + 1,
        None,
    ]


def test_a_time_with_an_offset_is_refused_in_a_column_without_and_says_what_to_annotate() -> None:
    class At(msgspec.Struct):
        at: dt.datetime

    with pytest.raises(DecodeError, match=r"^at: .*offset.*Meta\(tz=True\)"):
        FrameBuilder(frame_type("pandas", At)).from_events([At(dt.datetime(2019, 1, 1, tzinfo=dt.UTC))])


def test_a_uuid_is_text_and_looks_alike_however_it_was_written() -> None:
    class Known(msgspec.Struct):
        known: uuid.UUID

    builder = FrameBuilder(frame_type("pyarrow", Known))
    one = uuid.uuid4()
    assert rows(builder, pa.table({"known": [str(one).upper()]})) == [{"known": str(one)}]
    assert builder.from_events([Known(one)]).to_pylist() == [{"known": str(one)}]
