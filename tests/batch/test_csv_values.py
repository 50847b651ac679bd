"""A CSV of any program: `eventml score` and `eventml publish` read the same values from it."""

from __future__ import annotations

import dataclasses
import io
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import anyio
import msgspec
import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventml import Bus
from eventml.cli.publish import EventRow, read_csv
from eventml.deploy.batch import BadRow, ScorePlan, TextLines, parse_location, score

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.anyio


class Ride(msgspec.Struct):
    ride_id: str
    shared: bool
    zone: int
    distance: float
    tip: float | None = None


@dataclasses.dataclass
class DataRide:
    ride_id: str
    shared: bool
    zone: int
    distance: float
    tip: float | None = None


class TypedRide(TypedDict):
    ride_id: str
    shared: bool
    zone: int
    distance: float
    tip: float | None


class PydanticRide(pydantic.BaseModel):
    ride_id: str
    shared: bool
    zone: int
    distance: float
    tip: float | None = None


class StrictRide(PydanticRide):
    model_config = pydantic.ConfigDict(strict=True)


TYPES = [Ride, DataRide, TypedRide, PydanticRide, StrictRide]
HEADER = "ride_id,shared,zone,distance,tip\n"


def published(text: str, event_type: Any) -> list[Any]:
    """What `publish` makes of the rows of a CSV, None for a row that it skips."""
    rows = read_csv(TextLines(io.BytesIO(text.encode()), "rides.csv"), "rides.csv", (), event_type)
    return [row.event if isinstance(row, EventRow) else None for row in rows]


async def scored(text: str, event_type: Any, *, events_at_once: int = 100) -> list[Any]:
    """What `score` makes of them, with the rejected rows left out."""
    bus, seen = Bus("rides"), list[Any]()

    def keep(events: list[Any]) -> list[int]:
        seen.extend(events)
        return [1] * len(events)

    keep.__annotations__["events"] = list[event_type]
    bus.predictor("rides", to="ones")(keep)
    Path("rides.csv").write_text(text)  # noqa: ASYNC240 - a test's small file
    plan = ScorePlan(
        predictor="keep",
        source=parse_location("rides.csv", option="--from"),
        target=parse_location("out.jsonl", option="--to"),
        id_column="ride_id",
        chunk=events_at_once,
    )
    await score(bus, plan)
    return seen


@pytest.mark.parametrize("event_type", TYPES)
@pytest.mark.parametrize(
    ("cell", "value"),
    [
        *((text, True) for text in ("True", "true", "TRUE", "1", "1.0", "yes", "Y", "t", "on", " True ")),
        *((text, False) for text in ("False", "false", "FALSE", "0", "0.0", "no", "N", "f", "off", " no")),
    ],
)
async def test_a_truth_value_has_every_usual_spelling(cell: str, value: bool, event_type: Any) -> None:
    text = f"{HEADER}r-1,{cell},7,1.5,\n"
    [event] = published(text, event_type)
    assert msgspec.to_builtins(event, enc_hook=lambda model: model.model_dump())["shared"] is value
    assert await scored(text, event_type) == [event]


@pytest.mark.parametrize("event_type", TYPES)
@pytest.mark.parametrize("cells", ["maybe,7,1.5", "2,7,1.5", ",7,1.5", "True,x,1.5", "True,7,x"])
async def test_what_is_no_value_of_the_type_is_refused_by_both(cells: str, event_type: Any) -> None:
    text = f"{HEADER}r-1,{cells},\n"
    assert published(text, event_type) == [None]
    assert await scored(text, event_type) == []


@pytest.mark.parametrize("event_type", [*TYPES, dict])
@pytest.mark.parametrize("number", [" 1.5 ", "1.5", "\t1.5", " 2", "1e3 "])
async def test_blanks_around_a_number_are_ignored_by_both(number: str, event_type: Any) -> None:
    text = f"{HEADER}r-1,True,7,{number},{number}\n"
    [event] = published(text, event_type)
    values = msgspec.to_builtins(event, enc_hook=lambda model: model.model_dump())
    assert values["distance"] == values["tip"] == float(number)
    assert await scored(text, event_type) == [event]


CELLS = st.text(st.characters(codec="utf-8", exclude_characters='",\r\n'), max_size=6) | st.sampled_from(
    ["True", "no", " 7 ", "7.0", "1e3", "007", "nan", "", " ", "-1"]
)


@pytest.mark.parametrize("event_type", [Ride, DataRide, PydanticRide, dict])
def test_both_commands_read_the_same_from_any_cells(event_type: Any) -> None:
    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=4))
    def check(rows: Sequence[tuple[str, str, str]]) -> None:
        text = HEADER + "".join(f"r-{n},{a},{b},{c},\n" for n, (a, b, c) in enumerate(rows))
        events = [event for event in published(text, event_type) if event is not None]
        assert anyio.run(scored, text, event_type) == events

    check()


async def test_what_pandas_writes_is_read_as_it_was() -> None:
    class Trip(msgspec.Struct):
        ride_id: str
        shared: bool
        passengers: int | None
        distance: float
        at: datetime
        paid: bool | None
        note: str | None

    frame = pd.DataFrame(
        {
            "ride_id": ["r-1", "r-2", "r-3"],
            "shared": [True, False, True],
            "passengers": [1, None, 3],  # pandas makes floats of them
            "distance": [1.5, 2.0, np.nextafter(1, 2)],
            "at": pd.to_datetime(
                ["2026-01-05 08:00:00", "2026-01-05 08:00:01.5", "2026-01-06"], format="ISO8601"
            ),
            "paid": [True, None, False],
            "note": ["a, b", None, 'say "x"'],
        }
    )
    text = frame.to_csv()
    assert text.startswith(",ride_id,shared")
    expected = [
        Trip("r-1", True, 1, 1.5, datetime(2026, 1, 5, 8), True, "a, b"),  # noqa: DTZ001 - pandas' are naive
        Trip("r-2", False, None, 2.0, datetime(2026, 1, 5, 8, 0, 1, 500_000), None, None),  # noqa: DTZ001
        Trip("r-3", True, 3, np.nextafter(1, 2).item(), datetime(2026, 1, 6), False, 'say "x"'),  # noqa: DTZ001
    ]
    assert published(text, Trip) == expected
    midnight = frame.assign(at=pd.Timestamp(2026, 1, 5)).to_csv()  # pandas writes dates
    assert [trip.at.hour for trip in published(midnight, Trip)] == [0, 0, 0]
    assert await scored(text, Trip, events_at_once=2) == expected
    untyped = published(frame[["ride_id", "shared", "distance"]].to_csv(), Any)
    assert untyped == frame[["ride_id", "shared", "distance"]].to_dict("records")


def test_a_row_that_is_cut_is_reported_with_its_cells() -> None:
    rows = list(read_csv(TextLines(io.BytesIO(b"a,b\n1\n"), "x"), "x", (), Any))
    assert rows == [BadRow(2, "1 fields under a header of 2", ["1"])]
