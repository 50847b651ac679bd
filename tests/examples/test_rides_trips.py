"""Trips from files: names of columns, formats, and faults of such files."""

from __future__ import annotations

import csv
import gzip
import itertools
import logging
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from examples.rides.events import RideStarted
from examples.rides.tlc import read
from examples.rides.trips import TripsError, ride_events, rides

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


PLAIN = {
    "pickup_datetime": "2019-01-15 03:36:12",
    "dropoff_datetime": "2019-01-15 03:42:42",
    "passenger_count": "1",
    "trip_distance": "1.5",
    "pickup_location_id": "230",
    "dropoff_location_id": "48",
    "payment_type": "1",
    "fare_amount": "6.5",
    "tip_amount": "1.95",
}
TLC = {
    "pickup_datetime": "tpep_pickup_datetime",
    "dropoff_datetime": "tpep_dropoff_datetime",
    "pickup_location_id": "PULocationID",
    "dropoff_location_id": "DOLocationID",
}
GREEN = TLC | {"pickup_datetime": "lpep_pickup_datetime", "dropoff_datetime": "lpep_dropoff_datetime"}
SHOUTED = {name: f" {name.upper()}" for name in PLAIN}


def trip(**cells: str) -> dict[str, str]:
    return PLAIN | cells


def renamed(rows: list[dict[str, str]], names: dict[str, str]) -> list[dict[str, str]]:
    return [{names.get(name, name): cell for name, cell in row.items()} for row in rows]


def as_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_parquet(path: Path, rows: list[dict[str, str]]) -> Path:
    """With the TLC's types: times are timestamps, and whatever has an empty cell is a float."""

    def typed(name: str, cells: list[str]) -> Any:
        if "datetime" in name.lower():
            return pa.array(
                [datetime.fromisoformat(cell) if cell else None for cell in cells], pa.timestamp("us")
            )
        if all(cell.isdigit() for cell in cells):
            return pa.array([int(cell) for cell in cells], pa.int64())
        return pa.array([float(cell) if cell else None for cell in cells], pa.float64())

    parquet.write_table(pa.table({name: typed(name, [row[name] for row in rows]) for name in rows[0]}), path)
    return path


@pytest.fixture(params=["csv", "parquet"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[list[dict[str, str]]], Path]:
    writer = as_csv if request.param == "csv" else as_parquet
    return lambda rows: writer(tmp_path / f"trips.{request.param}", rows)


@pytest.mark.parametrize("names", [{}, TLC, GREEN, SHOUTED], ids=["plain", "yellow", "green", "shouted"])
def test_names_of_columns_in_both_formats(
    write: Callable[[list[dict[str, str]]], Path], names: dict[str, str]
) -> None:
    trips = read([write(renamed([trip(), trip(passenger_count="")], names))])

    assert list(ride_events(trips)) == [
        {
            "ride_id": f"trips-{row}",
            "pickup_location_id": 230,
            "dropoff_location_id": 48,
            "trip_distance": 1.5,
            "pickup_datetime": datetime(2019, 1, 15, 3, 36, 12),  # noqa: DTZ001 - the records' times are naive
            "passenger_count": count,
        }
        for row, count in enumerate([1, None])
    ]
    assert trips.minutes.tolist() == [6.5, 6.5]
    assert trips.tip_amount.tolist() == [1.95, 1.95]


def test_event_decodes_to_the_ride(write: Callable[[list[dict[str, str]]], Path]) -> None:
    trips = read([write([trip(), trip(passenger_count="")])])

    decoded = [msgspec.json.decode(msgspec.json.encode(e), type=RideStarted) for e in ride_events(trips)]

    assert decoded == rides(trips)


@pytest.mark.parametrize(
    "empty", ["pickup_location_id", "dropoff_location_id", "trip_distance", "pickup_datetime"]
)
def test_missing_field_is_named_by_the_decoding_error(
    write: Callable[[list[dict[str, str]]], Path], empty: str
) -> None:
    trips = read([write([trip(), trip(**{empty: ""})])])

    whole, broken = (msgspec.json.encode(event) for event in ride_events(trips))

    assert msgspec.json.decode(whole, type=RideStarted).ride_id == "trips-0"
    with pytest.raises(msgspec.ValidationError, match=rf"null.*\$\.{empty}"):
        msgspec.json.decode(broken, type=RideStarted)
    assert trips.is_ride.tolist() == [True, False]
    assert trips.tip_amount.tolist() == [1.95, 1.95]


def test_empty_column(
    write: Callable[[list[dict[str, str]]], Path], caplog: pytest.LogCaptureFixture
) -> None:
    trips = read([write([trip(passenger_count="", fare_amount="")] * 3)])

    assert [event["passenger_count"] for event in ride_events(trips)] == [None] * 3
    assert trips.is_ride.all()
    assert trips.is_tipped.all()
    assert not caplog.records  # an empty cell is nothing to warn of


def test_counts_as_floats(write: Callable[[list[dict[str, str]]], Path]) -> None:
    trips = read([write([trip(passenger_count="2.0", pickup_location_id="230.0")])])

    event = next(ride_events(trips))

    assert (event["passenger_count"], event["pickup_location_id"]) == (2, 230)
    assert isinstance(event["passenger_count"], int)
    assert isinstance(event["pickup_location_id"], int)


def test_zone_that_is_not_a_whole_number_fails_decoding(tmp_path: Path) -> None:
    trips = read([as_csv(tmp_path / "trips.csv", [trip(pickup_location_id="230.5")])])

    with pytest.raises(msgspec.ValidationError, match="pickup_location_id"):
        rides(trips)
    assert not trips.is_ride.any()


def test_cell_that_cannot_be_parsed_is_empty(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        trip(trip_distance="far"),
        trip(pickup_datetime="yesterday"),
        trip(trip_distance=" 2.5 "),
        trip(trip_distance="-1e-2"),
    ]
    with caplog.at_level(logging.WARNING):
        trips = read([as_csv(tmp_path / "trips.csv", rows)])

    events = list(ride_events(trips))
    assert [event["trip_distance"] for event in events] == [None, 1.5, 2.5, -0.01]
    assert [event["pickup_datetime"] is None for event in events] == [False, True, False, False]
    assert "1 cells of column trip_distance" in caplog.text
    assert "'far'" in caplog.text
    assert "'yesterday'" in caplog.text


def test_row_with_another_number_of_cells_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = as_csv(tmp_path / "trips.csv", [trip()] * 3)
    path.write_text(path.read_text() + "2019-01-15 03:36:12,2019-0")

    with caplog.at_level(logging.WARNING):
        assert len(read([path])) == 3
    assert "skipped 1 rows" in caplog.text


def test_compressed_csv(tmp_path: Path) -> None:
    path = tmp_path / "trips.csv.gz"
    path.write_bytes(gzip.compress(as_csv(tmp_path / "plain.csv", [trip()] * 2).read_bytes()))

    assert read([path]).ride_ids() == ["trips-0", "trips-1"]


def test_ids_are_distinct_for_files_of_the_same_name(tmp_path: Path) -> None:
    paths = []
    for name in "abc":
        (tmp_path / name).mkdir()
        paths.append(as_csv(tmp_path / name / "trips.csv", [trip()] * 2))

    assert read(paths).ride_ids() == [
        "trips-0",
        "trips-1",
        "trips~2-0",
        "trips~2-1",
        "trips~3-0",
        "trips~3-1",
    ]
    assert read(paths).ride_ids() == read(paths).ride_ids()


def test_fewer_trips_are_spread_over_each_file_and_keep_their_ids(tmp_path: Path) -> None:
    paths = [as_csv(tmp_path / f"{name}.csv", [trip()] * 9) for name in "ab"]

    assert read(paths, at_most=3).ride_ids() == ["a-0", "a-4", "a-8", "b-0", "b-4", "b-8"]
    assert len(read(paths, at_most=100)) == 18


def test_taken_trips_keep_their_ids_and_events(tmp_path: Path) -> None:
    trips = read([as_csv(tmp_path / "trips.csv", [trip(trip_distance=str(n)) for n in range(20)])])

    some = trips.take(trips.trip_distance > 16)

    assert list(ride_events(some)) == list(itertools.islice(ride_events(trips), 17, 20))


def test_every_tip_is_recorded_without_a_payment_column(tmp_path: Path) -> None:
    row = trip()
    for absent in ("payment_type", "passenger_count", "fare_amount"):
        del row[absent]

    trips = read([as_csv(tmp_path / "trips.csv", [row])])

    assert trips.is_tipped.all()
    assert np.isnan(trips.passenger_count).all()


def test_missing_column_is_an_error_with_its_known_names(
    write: Callable[[list[dict[str, str]]], Path],
) -> None:
    row = trip()
    del row["pickup_location_id"]

    with pytest.raises(TripsError, match=r"no column pickup_location_id \(.*PULocationID\)"):
        read([write([row])])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (",".join(PLAIN).encode() + b"\n", "holds no trips"),
        (b"PAR1 but no more", "cannot be read"),
        (b"\x00\xff\xfe\x01" * 40, r"no column|cannot be read"),
    ],
)
def test_other_files_are_an_error_with_their_name(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "january.csv"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(TripsError, match=rf"january\.csv.*({message})"):
        read([path])


def test_directory_or_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TripsError, match="is a directory"):
        read([tmp_path])
    with pytest.raises(TripsError, match="no trip files"):
        read([])


def test_column_of_another_type_is_an_error_with_its_name(tmp_path: Path) -> None:
    path = as_parquet(tmp_path / "trips.parquet", [trip()])
    table = parquet.read_table(path)
    place = table.column_names.index("trip_distance")
    parquet.write_table(table.set_column(place, "trip_distance", pa.array([[1.5]])), path)

    with pytest.raises(TripsError, match="column trip_distance holds list"):
        read([path])
