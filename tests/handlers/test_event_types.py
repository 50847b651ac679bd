"""Events and outputs of every kind of class, in the three deployments: the same values, validated once."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, is_typeddict
from uuid import UUID

import anyio
import attrs
import httpx
import msgspec
import numpy as np
import pydantic
import pydantic.dataclasses
import pytest

from eventml import Bus, Record, config
from eventml.deploy.batch import ScorePlan, parse_location, score
from eventml.deploy.web.openapi import describe
from eventml.errors import RegistrationError
from eventml.event_types import json_schemas
from eventml.testing import TestBus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.anyio


class StructRide(msgspec.Struct):
    ride_id: str
    miles: float


@dataclasses.dataclass
class DataclassRide:
    ride_id: str
    miles: float


@attrs.define
class AttrsRide:
    ride_id: str
    miles: float = attrs.field(validator=attrs.validators.ge(0))


class NamedTupleRide(NamedTuple):
    ride_id: str
    miles: float


class TypedDictRide(TypedDict):
    ride_id: str
    miles: float


class PydanticRide(pydantic.BaseModel):
    ride_id: str
    miles: float = pydantic.Field(ge=0)


@pydantic.dataclasses.dataclass
class PydanticDataclassRide:
    ride_id: str
    miles: float


TYPES = [
    StructRide,
    DataclassRide,
    AttrsRide,
    NamedTupleRide,
    TypedDictRide,
    PydanticRide,
    PydanticDataclassRide,
]
OBJECTS = [type_ for type_ in TYPES if type_ is not NamedTupleRide]  # that one is a list in JSON


def app(ride_type: Any, *, strict: bool = True, codec: Literal["json", "msgpack"] = "json") -> Bus:
    """A bus with a predictor whose events and outputs have this type."""
    bus = Bus("rides")
    bus.topic("rides.started", event_type=ride_type, id_field="ride_id", strict=strict, codec=codec)

    def double(rides: Any) -> Any:
        assert {type(ride) for ride in rides} == {dict if is_typeddict(ride_type) else ride_type}
        return [ride_type(ride_id=ride_id, miles=2 * miles) for ride_id, miles in map(fields, rides)]

    double.__annotations__ = {"rides": list[ride_type], "return": list[ride_type]}
    bus.predictor("rides.started", to="rides.doubled", retries=0)(double)
    return bus


def fields(ride: Any) -> tuple[str, float]:
    return (ride["ride_id"], ride["miles"]) if isinstance(ride, dict) else (ride.ride_id, ride.miles)


async def on_a_stream(bus: Bus, values: Sequence[bytes]) -> tuple[list[Any], list[str]]:
    """The values of the outputs, and the reasons of the dead letters."""
    async with TestBus(bus) as test:
        for number, value in enumerate(values):
            await test.publish_record(Record("rides.started", value, None, str(number)))
        outputs = [json.loads(record.value) for record in test.records("rides.doubled")]
        return outputs, [letter.reason for letter in test.dead_letters()]


async def over_http(bus: Bus, values: Sequence[bytes]) -> list[Any]:
    """The answers: a prediction, or a problem."""
    bus.configure(config.load(environ={}, overrides={}))
    application = bus.asgi(authenticate=False)
    transport, headers = httpx.ASGITransport(application), {"content-type": "application/json"}
    async with (
        application.lifespan(),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client,
    ):
        return [(await client.post("/predict/double", content=value)).json() for value in values]


async def as_a_job(bus: Bus, source: str) -> list[dict[str, Any]]:
    plan = ScorePlan(
        predictor="double",
        source=parse_location(source, option="--from"),
        target=parse_location("out.jsonl", option="--to"),
    )
    await score(bus, plan)
    return [json.loads(line) for line in (await anyio.Path("out.jsonl").read_text()).splitlines()]


GOOD, BAD = b'{"ride_id": "r-1", "miles": 1.5}', b'{"ride_id": "r-2", "miles": "far"}'


@pytest.mark.parametrize("ride_type", OBJECTS)
async def test_on_a_stream(ride_type: Any) -> None:
    outputs, letters = await on_a_stream(app(ride_type), [GOOD, BAD])
    assert outputs == [{"ride_id": "r-1", "miles": 3.0}]
    assert len(letters) == 1
    assert "miles" in letters[0]


@pytest.mark.parametrize("ride_type", OBJECTS)
async def test_over_http(ride_type: Any) -> None:
    answer, problem = await over_http(app(ride_type), [GOOD, BAD])
    assert answer["prediction"] == {"ride_id": "r-1", "miles": 3.0}
    assert (answer["input"], problem["status"], problem["path"]) == ("r-1", 422, "$.miles")


@pytest.mark.parametrize("ride_type", OBJECTS)
@pytest.mark.parametrize("source", ["rides.jsonl", "rides.csv", "sqlite:///rides.db#rides"])
def test_as_a_job(ride_type: Any, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rides.jsonl").write_bytes(GOOD + b"\n" + BAD + b"\n")
    Path("rides.csv").write_text("ride_id,miles\nr-1,1.5\nr-2,far\n")
    with closing(sqlite3.connect("rides.db")) as database:
        database.execute("create table rides (ride_id, miles)")
        database.execute("insert into rides values ('r-1', 1.5), ('r-2', 'far')")
        database.commit()
    [row] = anyio.run(as_a_job, app(ride_type), source)
    assert (row["id"], row["ride_id"], row["miles"]) == ("r-1", "r-1", 3.0)
    [reject] = [json.loads(line) for line in Path("out.jsonl.rejects.jsonl").read_bytes().splitlines()]
    assert reject["id"] == "r-2"


async def test_a_named_tuple_is_a_list_in_json() -> None:
    outputs, letters = await on_a_stream(app(NamedTupleRide), [b'["r-1", 1.5]', b'["r-2", "far"]'])
    assert outputs == [["r-1", 3.0]]
    assert len(letters) == 1


@pytest.mark.parametrize("ride_type", TYPES)
@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_published_and_decoded_again(ride_type: Any, codec: Literal["json", "msgpack"]) -> None:
    async with TestBus(app(ride_type, codec=codec)) as test:
        await test.publish("rides.started", ride_type(ride_id="r-1", miles=1.5))
        assert test.published("rides.doubled") == [ride_type(ride_id="r-1", miles=3.0)]


@pytest.mark.parametrize("ride_type", [AttrsRide, PydanticRide])
async def test_validators_of_a_class_are_asked(ride_type: Any) -> None:
    outputs, letters = await on_a_stream(app(ride_type), [b'{"ride_id": "r-1", "miles": -1.0}'])
    assert outputs == []
    assert "0" in letters[0]


@pytest.mark.parametrize("ride_type", [type_ for type_ in OBJECTS if "Pydantic" not in type_.__name__])
async def test_text_fills_a_number_only_by_choice(ride_type: Any) -> None:
    value = b'{"ride_id": "r-1", "miles": "1.5"}'
    assert (await on_a_stream(app(ride_type), [value]))[0] == []
    assert (await on_a_stream(app(ride_type, strict=False), [value]))[0] == [{"ride_id": "r-1", "miles": 3.0}]
    [answer] = await over_http(app(ride_type, strict=False), [value])
    assert answer["prediction"]["miles"] == 3.0


class Zone(pydantic.BaseModel):
    """Names in JSON that are not those in Python, a default, a nested model, and types that JSON has not."""

    model_config = pydantic.ConfigDict(populate_by_name=True)

    id: UUID = pydantic.Field(alias="zoneId")
    since: dt.datetime
    centre: Point | None = None


class Point(pydantic.BaseModel):
    x: Decimal


Zone.model_rebuild()
ZONE = (
    b'{"zoneId":"00000000-0000-0000-0000-000000000001","since":"2026-01-05T08:00:00Z","centre":{"x":"1.50"}}'
)


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_a_model_keeps_its_aliases_and_its_types(codec: Literal["json", "msgpack"]) -> None:
    bus = Bus("zones")
    bus.topic("zones", event_type=Zone, codec=codec)
    bus.topic("zones.copied", event_type=Zone, codec=codec)

    @bus.predictor("zones", to="zones.copied")
    def copy(zone: Zone) -> Zone:
        return zone

    zone = Zone.model_validate_json(ZONE)
    async with TestBus(bus) as test:
        await test.publish("zones", zone)
        await test.publish_record(Record("zones", ZONE, None, "1"))
        assert test.published("zones.copied") == [zone, zone]
        if codec == "json":
            assert test.records("zones.copied")[0].value == ZONE


async def test_a_union_of_models() -> None:
    class Started(pydantic.BaseModel):
        kind: Literal["started"]

    class Ended(pydantic.BaseModel):
        kind: Literal["ended"]
        miles: float

    bus, seen = Bus("rides"), list[Any]()

    @bus.consumer("rides", event_type=Started | Ended)
    def watch(ride: Any) -> None:
        seen.append(ride)

    async with TestBus(bus) as test:
        await test.publish("rides", Ended(kind="ended", miles=1.0))
        await test.publish("rides", Started(kind="started"))
    assert seen == [Ended(kind="ended", miles=1.0), Started(kind="started")]


async def test_a_number_that_is_not_finite_is_found_in_a_model() -> None:
    bus = Bus("rides")

    @bus.predictor("rides", to="rides.doubled", retries=0)
    def double(ride: PydanticRide) -> PydanticRide:
        return PydanticRide(ride_id=ride.ride_id, miles=float("inf"))

    async with TestBus(bus) as test:
        await test.publish("rides", PydanticRide(ride_id="r-1", miles=1.0))
        [letter] = test.dead_letters()
    assert "not a finite number" in letter.reason


async def test_a_wrong_output_type_is_found() -> None:
    bus = Bus("rides")

    @bus.predictor("rides", to="rides.doubled", retries=0)
    def double(ride: PydanticRide) -> PydanticRide:
        return Point(x=Decimal(1))  # type: ignore[return-value]  # that is the case

    async with TestBus(bus) as test:
        await test.publish("rides", PydanticRide(ride_id="r-1", miles=1.0))
        [letter] = test.dead_letters()
    assert "returned a Point where its annotation says PydanticRide" in letter.reason


@pytest.mark.parametrize("ride_type", OBJECTS)
def test_the_description_of_the_service_has_the_fields(ride_type: Any) -> None:
    bus = app(ride_type)
    bus.configure(config.load(environ={}, overrides={}))
    document = describe("rides", list(bus.handlers.values()), {}, bus.settings.web, token=False)
    [schema] = [s for name, s in flat(document) if "miles" in s.get("properties", {})][:1]
    assert {"ride_id", "miles"} <= set(schema["properties"])


def test_the_description_names_nested_models_once() -> None:
    schema_of, components = json_schemas([Zone, StructRide], "#/components/schemas/{name}")
    assert schema_of(Zone)["properties"]["centre"]["anyOf"][0] == {"$ref": "#/components/schemas/Point"}
    assert schema_of(StructRide) == {"$ref": "#/components/schemas/StructRide"}
    assert {"Point", "StructRide"} <= components.keys()


class Plain:
    """A class with no form in JSON."""


class Holder(msgspec.Struct):
    plain: Plain


class HolderOfModel(msgspec.Struct):
    zone: Zone


@pytest.mark.parametrize(
    ("event_type", "message"),
    [
        (Plain, "Plain cannot be the type of an event: it has no form in JSON. It may be a msgspec.Struct"),
        (Holder, "Holder cannot be the type of an event: Plain, which it contains, has no form in JSON"),
        (list[Plain], "Plain, which it contains, has no form"),
        (HolderOfModel, "Zone, which it contains, has no form in JSON; make the event a pydantic model too"),
        (StructRide | DataclassRide, "more than one"),
        (complex, "complex cannot be the type of an event"),
        (Callable, "cannot be the type of an event"),
    ],
)
def test_what_cannot_be_an_event_is_refused_when_it_is_registered(event_type: Any, message: str) -> None:
    bus = Bus("rides")
    with pytest.raises(RegistrationError, match=re.escape(message)):
        bus.consumer("rides", event_type=event_type)(lambda ride: None)
    with pytest.raises(RegistrationError, match=re.escape(message)):
        bus.topic("rides", event_type=event_type)


@pytest.mark.parametrize("output_type", [Plain, Holder, list[Plain]])
def test_what_cannot_be_an_output_is_refused_too(output_type: Any) -> None:
    with pytest.raises(RegistrationError, match="has no form in JSON"):
        Bus("rides").predictor("rides", to="rides.doubled", output_type=output_type)(lambda ride: ride)


class SetRide(msgspec.Struct):
    ride_id: str
    miles: float
    tags: set[Any] = msgspec.field(default_factory=set)


@dataclasses.dataclass
class StrictRide:
    ride_id: str
    miles: float

    def __post_init__(self) -> None:
        _ = {"r-1": 1}[self.ride_id]


class ValidatedRide(pydantic.BaseModel):
    ride_id: str
    miles: float

    @pydantic.field_validator("ride_id")
    @classmethod
    def known(cls, ride_id: str) -> str:
        _ = {"r-1": 1}[ride_id]
        return ride_id


@pytest.mark.parametrize("ride_type", [SetRide, StrictRide, ValidatedRide])
async def test_an_error_that_is_no_validation_error_costs_its_event(
    ride_type: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = b'{"ride_id": "r-9", "miles": 1.0, "tags": [[1]]}'
    outputs, letters = await on_a_stream(app(ride_type), [GOOD, bad, GOOD])
    assert [output["miles"] for output in outputs] == [3.0, 3.0]
    assert len(letters) == 1
    good, problem = await over_http(app(ride_type), [GOOD, bad])
    assert (good["prediction"]["miles"], problem["status"]) == (3.0, 422)
    monkeypatch.chdir(tmp_path)
    await anyio.Path("rides.jsonl").write_bytes(GOOD + b"\n" + bad + b"\n")
    assert len(await as_a_job(app(ride_type), "rides.jsonl")) == 1


class NumpyRide(msgspec.Struct):
    ride_id: str
    miles: np.float64
    steps: np.ndarray[Any, Any]


@pytest.mark.parametrize(
    "output_type", [NumpyRide, dict[str, np.float64], object, HolderOfModel, np.float64, np.ndarray]
)
def test_outputs_may_hold_whatever_is_encoded(output_type: Any) -> None:
    Bus("rides").predictor("rides", to="rides.doubled", output_type=output_type)(lambda ride: ride)


async def test_numbers_of_numpy_in_an_output() -> None:
    bus = Bus("rides")

    @bus.predictor("rides.started", to="rides.doubled")
    def double(ride: StructRide) -> NumpyRide:
        return NumpyRide(ride.ride_id, np.float64(2 * ride.miles), np.array([1, 2]))

    [output], _ = await on_a_stream(bus, [GOOD])
    assert output == {"ride_id": "r-1", "miles": 3.0, "steps": [1, 2]}


class Colour(enum.Enum):
    YELLOW = "yellow"


class Credit(msgspec.Struct, tag="credit"):
    card: str


class Cash(msgspec.Struct, tag="cash"):
    coins: int


class Everything(msgspec.Struct):
    fare: Decimal
    ride: UUID
    colour: Colour
    payment: Credit | Cash
    picture: bytes
    start: dt.datetime
    day: dt.date
    lasts: dt.timedelta
    tags: set[str]


EVERYTHING = Everything(
    fare=Decimal("12.50"),
    ride=UUID(int=7),
    colour=Colour.YELLOW,
    payment=Cash(coins=3),
    picture=b"\x00\xff",
    start=dt.datetime(2026, 1, 5, 8, tzinfo=dt.timezone(dt.timedelta(hours=1))),
    day=dt.date(2026, 1, 5),
    lasts=dt.timedelta(minutes=7),
    tags={"late"},
)


async def test_types_of_fields_are_the_same_in_all_deployments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bus, seen = Bus("rides"), list[Everything]()
    bus.topic("rides.started", id_field="ride")

    @bus.predictor("rides.started", to="rides.doubled")
    def double(ride: Everything) -> Everything:
        seen.append(ride)
        return ride

    value = msgspec.json.encode(EVERYTHING)
    await anyio.Path("rides.jsonl").write_bytes(value + b"\n")
    [streamed], _ = await on_a_stream(bus, [value])
    [answer] = await over_http(bus, [value])
    [row] = await as_a_job(bus, "rides.jsonl")
    assert seen == [EVERYTHING] * 3
    assert streamed == answer["prediction"] == json.loads(value)
    assert (row["fare"], row["ride"], row["start"]) == (
        "12.50",
        str(EVERYTHING.ride),
        "2026-01-05T08:00:00+01:00",
    )


def flat(document: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All objects of a JSON document, each with its name."""
    if isinstance(document, dict):
        yield name, document
        for key, value in document.items():
            yield from flat(value, key)
    elif isinstance(document, list):
        for value in document:
            yield from flat(value, name)


@pytest.mark.parametrize("base64", [False, True])
async def test_bytes_of_a_model_are_what_it_says(*, base64: bool) -> None:
    config = pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64") if base64 else {}

    class Picture(pydantic.BaseModel):
        model_config = config
        pixels: bytes

    bus = Bus("pictures")

    @bus.predictor("pictures", to="pictures.copied", event_type=Picture, output_type=Picture)
    def copy(picture: Any) -> Any:
        return picture

    pixels, written = (b"\x00\xff", b"AP8=") if base64 else (b"text", b"text")
    async with TestBus(bus) as test:
        await test.publish("pictures", Picture(pixels=pixels))
        assert test.records("pictures.copied")[0].value == b'{"pixels":"%s"}' % written
