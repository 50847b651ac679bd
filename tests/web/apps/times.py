"""An app whose events have times and limits, as msgspec and pydantic describe them."""

import datetime as dt
import uuid
from typing import Annotated, Any, Literal

import msgspec
import pydantic

from eventml import Bus

bus = Bus("times")


class Stop(msgspec.Struct, tag="stop"):
    at: dt.datetime


class Start(msgspec.Struct, tag="start", array_like=True):
    at: dt.datetime


class Node(msgspec.Struct):
    at: dt.datetime
    below: "list[Node]"


class Ride(msgspec.Struct):
    ride_id: str
    zone: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    chance: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    pickup: dt.datetime
    aware: Annotated[dt.datetime, msgspec.Meta(tz=True)]
    naive: Annotated[dt.datetime, msgspec.Meta(tz=False)]
    day: dt.date
    clock: dt.time
    took: dt.timedelta
    key: uuid.UUID
    code: Annotated[str, msgspec.Meta(min_length=6, max_length=8)]
    colour: Annotated[str, msgspec.Meta(pattern="^#", examples=["#ffffff"])]
    stops: list[Stop | None]
    by_name: dict[str, dt.datetime]
    pair: tuple[int, dt.datetime]
    start: Start
    tree: Node
    dropoff: dt.datetime | None = None


class Trip(pydantic.BaseModel):
    pickup: dt.datetime
    aware: pydantic.AwareDatetime
    past: pydantic.PastDatetime
    day: dt.date
    clock: dt.time
    took: dt.timedelta
    kind: Literal["taxi", "bus"]
    distance: Annotated[float, pydantic.Field(gt=0)]
    stops: Annotated[list[dt.datetime], pydantic.Field(min_length=2)]
    dropoff: dt.datetime | None = None


@bus.predictor("rides", to="ride.answers")
def ride(event: Ride) -> str:
    return event.ride_id


@bus.predictor("trips", to="trip.answers")
def trip(event: Trip) -> str:
    return event.kind


@bus.predictor("moments", to="moment.answers")
def moment(event: dt.datetime) -> dt.datetime:
    return event


@bus.predictor("things", to="thing.answers")
def thing(event: dict[str, Any]) -> int:
    return len(event)
