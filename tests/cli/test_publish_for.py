"""`eventml publish --for MODULE:BUS`: events are what the bus declares those of the topic to be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Invoke

APP = """
import dataclasses, datetime, uuid
import eventml, msgspec, pydantic

bus = eventml.Bus("rides")

class Ride(msgspec.Struct):
    ride_id: str
    zone: int
    at: datetime.datetime | None = None

class Model(pydantic.BaseModel):
    ride_id: str
    zone: int

@dataclasses.dataclass
class Trip:
    trip: uuid.UUID
    zone: int

class Camel(msgspec.Struct, rename="camel"):
    ride_id: str
    start_zone: int

class Aliased(pydantic.BaseModel):
    ride_id: str = pydantic.Field(alias="rideId")
    start_zone: int = pydantic.Field(alias="startZone")

bus.topic("camels", event_type=Camel, id_field="ride_id")
bus.topic("aliased", event_type=Aliased, id_field="ride_id")
bus.topic("rides", event_type=Ride, id_field="ride_id")
bus.topic("lax", event_type=Ride, id_field="ride_id", strict=False)
bus.topic("models", event_type=Model, id_field="ride_id")
bus.topic("trips", event_type=Trip, id_field="trip")
bus.topic("packed", event_type=Ride, id_field="ride_id", codec="msgpack")
bus.topic("untyped", id_field="ride_id")
"""
RIDE = '{"ride_id": "r1", "zone": 7, "more": 1}\n'
FOR = ("--for", "app:bus", "--backend", "onehub://")


@pytest.fixture(autouse=True)
def _app(folder: Path) -> None:
    (folder / "app.py").write_text(APP)


def records(invoke: Invoke, topic: str, number: int = 1) -> list[dict[str, Any]]:
    result = invoke("tail", topic, "--from", "earliest", "-n", str(number), "--backend", "onehub://")
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_declared_id_and_the_source_are_those_of_the_app(invoke: Invoke) -> None:
    result = invoke("publish", "rides", *FOR, "--key", "zone", stdin=RIDE)
    assert (result.exit_code, result.stdout) == (0, "1 events published to rides\n")
    [record] = records(invoke, "rides")
    assert (record["id"], record["key"], record["headers"]["ce_source"]) == ("r1", "7", "rides")
    assert record["value"] == {"ride_id": "r1", "zone": 7, "at": None}


@pytest.mark.parametrize("topic", ["rides", "models"])
def test_rows_that_are_not_of_the_declared_type_are_skipped(invoke: Invoke, topic: str) -> None:
    rows = RIDE + '{"ride_id": "r2"}\n{"ride_id": "r3", "zone": "north"}\n'
    result = invoke("publish", topic, *FOR, stdin=rows)
    assert result.exit_code == 1
    assert result.stdout == f"1 events published to {topic}, 2 lines skipped\n"
    lines = result.stderr.splitlines()
    assert lines[0].startswith("skipped: line 2: ")
    assert lines[1].startswith("skipped: line 3: ")
    assert "zone" in lines[0]
    assert [record["id"] for record in records(invoke, topic)] == ["r1"]


def test_lax_conversion_is_that_of_the_topic(invoke: Invoke) -> None:
    row = '{"ride_id": "r1", "zone": "7"}\n'
    assert invoke("publish", "rides", *FOR, stdin=row).exit_code == 1
    assert invoke("publish", "lax", *FOR, stdin=row).exit_code == 0
    assert records(invoke, "lax")[0]["value"]["zone"] == 7


def test_cells_of_a_csv_have_the_types_of_the_fields(invoke: Invoke, folder: Path) -> None:
    (folder / "rides.csv").write_text(
        "ride_id,at,zone,note\n12e4,,7,x\n007,2026-01-05T08:00:00Z,132,\nr3,,,\n"
    )
    result = invoke("publish", "rides", "rides.csv", *FOR)
    assert result.exit_code == 1
    assert "line 4" in result.stderr
    assert {record["id"]: record["value"] for record in records(invoke, "rides", 2)} == {
        "12e4": {"ride_id": "12e4", "zone": 7, "at": None},
        "007": {"ride_id": "007", "zone": 132, "at": "2026-01-05T08:00:00Z"},
    }


def test_a_column_that_an_event_needs_is_missed_at_once(invoke: Invoke) -> None:
    result = invoke("publish", "rides", *FOR, stdin="ride_id,district\nr1,7\n")
    assert result.exit_code == 2
    assert "'zone', which Ride needs" in result.stderr


def test_an_id_may_be_of_another_type(invoke: Invoke) -> None:
    trip = "6f1c1f0e-5d4f-4a0c-9d77-0f6a4f0f9a11"
    result = invoke("publish", "trips", *FOR, stdin=f"trip,zone\n{trip},1\n")
    assert result.exit_code == 0, result.output
    assert records(invoke, "trips")[0]["id"] == trip


def test_the_format_is_that_of_the_topic(invoke: Invoke) -> None:
    assert invoke("publish", "packed", *FOR, stdin=RIDE).exit_code == 0
    assert records(invoke, "packed")[0]["headers"]["content-type"] == "application/msgpack"


def test_a_topic_without_a_type_takes_rows_as_they_are(invoke: Invoke) -> None:
    result = invoke("publish", "untyped", *FOR, stdin=RIDE + '{"zone": 7}\n')
    assert result.exit_code == 1
    assert "no text or number in the field 'ride_id'" in result.stderr
    assert records(invoke, "untyped")[0]["value"]["more"] == 1
    other = invoke("publish", "untyped", *FOR, "--id", "zone", stdin='{"zone": 8}\n')
    assert other.exit_code == 0
    assert {record["id"] for record in records(invoke, "untyped", 2)} == {"r1", "8"}


@pytest.mark.parametrize("topic", ["camels", "aliased", "untyped"])
def test_fields_have_their_names_in_the_events(invoke: Invoke, topic: str) -> None:
    row = '{"rideId": "r1", "startZone": 7}\n'
    for options in (FOR, FOR[2:]):
        result = invoke("publish", topic, *options, "--key", "startZone", "--id", "rideId", stdin=row)
        assert (result.exit_code, result.stderr) == (0, "")
    found = {(record["id"], record["key"]) for record in records(invoke, topic, 2)}
    assert found == {("r1", "7")}


def test_columns_of_text_are_refused_where_the_type_decides(invoke: Invoke) -> None:
    refused = invoke("publish", "rides", *FOR, "--text", "ride_id", stdin="ride_id,zone\n1,2\n")
    assert refused.exit_code == 2
    assert "--text and --for" in refused.stderr
    taken = invoke("publish", "untyped", *FOR, "--text", "ride_id", stdin="ride_id,zone\n1,2\n")
    assert taken.exit_code == 0


def test_a_frame_of_pandas_is_published_with_its_truth_values(invoke: Invoke, folder: Path) -> None:
    import pandas as pd  # noqa: PLC0415 - this test alone needs it

    (folder / "app.py").write_text(
        APP + 'class Flag(msgspec.Struct):\n    k: str\n    flag: bool\nbus.topic("flags", event_type=Flag)\n'
    )
    pd.DataFrame({"k": ["a", "b"], "flag": [True, False]}).to_csv(folder / "flags.csv")
    for options in (FOR, FOR[2:]):
        result = invoke("publish", "flags", "flags.csv", *options)
        assert (result.exit_code, result.stderr) == (0, "")
    found = [record["value"] for record in records(invoke, "flags", 4)]
    assert found == [{"k": "a", "flag": True}, {"k": "b", "flag": False}] * 2


def test_a_file_of_other_rows_is_refused_before_anything_is_published(invoke: Invoke, folder: Path) -> None:
    (folder / "rides.csv").write_text("ride_id,zone\n" + "r,north\n" * 1_000 + "r,7\n")
    refused = invoke("publish", "rides", "rides.csv", *FOR)
    assert refused.exit_code == 2
    assert refused.stdout == "0 events published to rides\n"
    [line] = refused.stderr.splitlines()
    assert line.startswith(
        "error: rides.csv: none of the first 1,000 rows is a valid event, and nothing was published; line 2: "
    )
    (folder / "rides.csv").write_text("ride_id,zone\n" + "r,north\n" * 999 + "r,7\nr,south\n")
    taken = invoke("publish", "rides", "rides.csv", *FOR)
    assert (taken.exit_code, taken.stdout) == (1, "1 events published to rides, 1000 lines skipped\n")
    piped = invoke("publish", "rides", *FOR, stdin="ride_id,zone\nr,north\n")
    assert (piped.exit_code, piped.stdout) == (1, "0 events published to rides, 1 lines skipped\n")


def test_a_topic_that_the_bus_does_not_declare_is_refused(invoke: Invoke) -> None:
    result = invoke("publish", "ridse", *FOR, stdin=RIDE)
    assert result.exit_code == 2
    assert "the bus declares these topics: aliased, camels, lax" in result.output
    assert "bus.topic('ridse', event_type=...)" in result.output
