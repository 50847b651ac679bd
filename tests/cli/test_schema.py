"""`eventml schema`: a valid AsyncAPI document, whose schemas are those of the events that travel."""

from __future__ import annotations

import json
import re
import warnings
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

import jsonschema_rs
import msgspec
import numpy as np
import pydantic
import pytest

from eventml import Bus, config
from eventml.bus import asyncapi_document
from eventml.cli import check
from eventml.testing import TestBus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Invoke

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its fields named `schema`
    from asyncapi3.models import AsyncAPI3

URLS = ["memory://", "redis://localhost", "rediss://localhost", "kafka://localhost:9092"]


class Point(NamedTuple):
    x: float
    name: str


class Card(msgspec.Struct, tag=True):
    number: str


class Cash(msgspec.Struct, tag=True):
    coins: list[int]


class Stop(msgspec.Struct):
    at: Point
    then: Stop | None = None


class Ride(msgspec.Struct):
    ride_id: str
    paid: Card | Cash
    first: Stop
    kind: Literal["short", "long"] = "short"
    discriminator: dict[str, int] = {}


class Audit(pydantic.BaseModel):
    ride: str = pydantic.Field(alias="rideId")
    stops: tuple[int, str] = (0, "")


class Scored(TypedDict):
    ride_id: str
    miles: float | None


def registered(name: str = "rides") -> Bus:
    bus = Bus(name)
    bus.topic("rides.started", event_type=Ride)
    bus.topic("rides.scored", event_type=Scored, codec="msgpack")
    bus.topic("rides.cancelled", event_type=Ride)
    bus.topic("rides_started", event_type=Scored)  # not rides.started

    @bus.predictor("rides.started", to={"rides.priced": Ride, "rides/audit:1": Audit})
    def price(rides: list[Ride]) -> list[list[Ride | Audit]]:
        return [[ride, Audit(rideId=ride.ride_id, stops=(1, "a"))] for ride in rides]

    @bus.predictor("rides.started", to="rides.scored")
    def score(ride: Ride) -> Scored:
        return Scored(ride_id=ride.ride_id, miles=None)

    @bus.predictor("rides.started", to="rides.number")
    def number(rides: list[Ride]) -> np.ndarray:
        return np.ones(len(rides))

    @bus.consumer("rides.started")
    def look(ride: dict[str, Any]) -> None: ...

    @bus.consumer("rides.started")
    def see(ride: Any) -> None: ...

    return bus


def document_of(url: str) -> dict[str, Any]:
    bus = registered()
    bus.configure(config.load(environ={}, overrides={"backend": url}))
    found: dict[str, Any] = json.loads(msgspec.json.encode(asyncapi_document(bus)))
    return found


def references(part: Any) -> Iterator[str]:
    for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from references(value)
    if isinstance(part, dict) and isinstance(part.get("$ref"), str):
        yield part["$ref"]


def validate(document: dict[str, Any]) -> None:
    """By a validator that takes no dots in keys, unlike AsyncAPI."""
    undotted = {
        part: {key.replace(".", "_-_"): one for key, one in document[part].items()}
        for part in ("channels", "operations")
    }
    text = json.dumps(document | undotted)
    text = re.sub(r'"#/channels/[^"]*"', lambda found: found[0].replace(".", "_-_"), text)
    AsyncAPI3.model_validate_json(text)


def at(document: dict[str, Any], reference: str) -> Any:
    for key in reference.removeprefix("#/").split("/"):
        document = document[key]
    return document


@pytest.mark.parametrize("url", URLS)
def test_the_document_is_valid_and_all_its_references_lead_somewhere(url: str) -> None:
    document = document_of(url)
    validate(document)
    for reference in references(document):
        assert isinstance(at(document, reference), dict)


@pytest.mark.parametrize(
    "breaking",
    [
        lambda document: document["operations"]["receive_price"].update(action="publish"),
        lambda document: document["operations"]["receive_price"].pop("channel"),
        lambda document: document["channels"]["rides.number"].update(topic="a"),
        lambda document: document["channels"]["rides.number"]["bindings"]["kafka"].update(group="a"),
        lambda document: document.pop("info"),
    ],
)
def test_the_validator_refuses_what_is_no_asyncapi(breaking: Any) -> None:
    document = document_of("kafka://localhost:9092")
    breaking(document)
    with pytest.raises(pydantic.ValidationError):
        validate(document)


def test_operations_are_what_handlers_read_and_write_and_what_only_the_app_publishes() -> None:
    document = document_of("memory://")
    operations = {
        name: (
            one["action"],
            at(document, one["channel"]["$ref"])["address"],
            [reference["$ref"].rpartition("/")[2] for reference in one["messages"]],
        )
        for name, one in document["operations"].items()
    }
    assert operations == {
        "receive_price": ("receive", "rides.started", ["Ride"]),
        "send_price_rides.priced": ("send", "rides.priced", ["Ride"]),
        "send_price_rides_audit_1": ("send", "rides/audit:1", ["Audit"]),
        "receive_score": ("receive", "rides.started", ["Ride"]),
        "send_score_rides.scored": ("send", "rides.scored", ["Scored"]),
        "receive_number": ("receive", "rides.started", ["Ride"]),
        "send_number_rides.number": ("send", "rides.number", ["Prediction"]),
        "receive_look": ("receive", "rides.started", ["event"]),
        "receive_see": ("receive", "rides.started", ["Ride"]),  # as the topic is declared
        "send_rides.cancelled": ("send", "rides.cancelled", ["Ride"]),
        "send_rides_started": ("send", "rides_started", ["Scored"]),
    }
    assert document["channels"]["rides.scored"]["messages"]["Scored"]["contentType"] == "application/msgpack"


def test_the_order_of_registration_changes_nothing() -> None:
    topics = ["a/b", "a_b", "a.b"]
    documents = []
    for order in (topics, topics[::-1]):
        bus = Bus("app")
        for topic in order:
            bus.topic(topic, event_type=Scored)
        documents.append(msgspec.json.encode(asyncapi_document(bus)))
    assert documents[0] == documents[1]
    addresses = {key: one["address"] for key, one in json.loads(documents[0])["channels"].items()}
    assert addresses == {"a.b": "a.b", "a_b": "a/b", "a_b_": "a_b"}


def test_bindings_are_those_of_the_backend() -> None:
    kafka = document_of("kafka://localhost:9092")
    channel = kafka["channels"]["rides.started"]
    assert channel["bindings"] == {"kafka": {"topic": "rides.started", "bindingVersion": "0.5.0"}}
    assert kafka["operations"]["receive_price"]["bindings"] == {
        "kafka": {"groupId": {"type": "string", "enum": ["rides.price"]}, "bindingVersion": "0.5.0"}
    }
    assert channel["messages"]["Ride"]["bindings"]["kafka"]["key"] == {"type": "string"}
    for url in URLS[1:3]:
        assert document_of(url)["channels"]["rides.started"]["bindings"] == {"redis": {}}
    assert "bindings" not in document_of("memory://")["channels"]["rides.started"]


@pytest.mark.anyio
async def test_the_events_that_travel_fit_the_schemas() -> None:
    """In draft 07 of JSON Schema, which AsyncAPI has: tuples, tags and types that contain themselves too."""
    document = document_of("memory://")
    stop = Stop(Point(1.5, "a"), Stop(Point(2, "b")))
    rides = [Ride("r-1", Card("1"), stop), Ride("r-2", Cash([1, 2]), Stop(Point(0, "")), "long", {"a": 1})]
    async with TestBus(registered()) as test:
        await test.publish_many("rides.started", rides)
        values = {
            channel["address"]: [msgspec.json.decode(one.value) for one in test.records(channel["address"])]
            for channel in document["channels"].values()
            if channel["address"] not in ("rides.cancelled", "rides_started", "rides.scored")
        }
    wrong: dict[str, Any] = {
        "rides.started": {"ride_id": "r", "paid": {"type": "Card", "number": 1}},
        "rides/audit:1": {"rideId": "r", "stops": [1, "a", 2]},
        "rides.priced": {**values["rides.priced"][0], "first": {"at": ["a", 1]}},
        "rides.number": {"value": 1},
    }
    for channel in document["channels"].values():
        _, message = min(channel["messages"].items())  # Ride, and not `event`, which may be anything
        validator = jsonschema_rs.Draft7Validator(
            {**message["payload"], "components": document["components"]}
            if "$ref" not in message["payload"]
            else {"allOf": [message["payload"]], "components": document["components"]}
        )
        for value in values.get(channel["address"], []):
            assert [error.message for error in validator.iter_errors(value)] == []
        if channel["address"] in wrong:
            assert not validator.is_valid(wrong[channel["address"]])
    assert [len(found) for found in values.values()] == [2, 2, 2, 2]


APP = """
import eventml, msgspec

bus = eventml.Bus("rides")

class Ride(msgspec.Struct):
    ride_id: str
    miles: float

class Minutes(msgspec.Struct):
    minutes: float

@bus.predictor("rides.started", to="rides.duration", model="no.skops")
def duration(ride: Ride, model) -> Minutes: ...
"""


def test_it_is_printed_without_a_model_or_a_broker(invoke: Invoke, folder: Path) -> None:
    (folder / "app.py").write_text(APP)
    result = invoke("schema", "app:bus", "--backend", "kafka://nowhere:1")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    validate(document)
    assert document["components"]["schemas"]["Ride"]["required"] == ["ride_id", "miles"]
    assert result.stdout.startswith('{\n  "asyncapi": "3.0.0",\n')


def test_check_against_an_earlier_document(invoke: Invoke, folder: Path) -> None:
    old = APP.replace('model="no.skops"', "").replace(", model)", ")")
    (folder / "app.py").write_text(old)
    (folder / "old.json").write_text(invoke("schema", "app:bus", "--backend", "kafka://nowhere:1").stdout)
    same = invoke("check", "app:bus", "--against", "old.json")
    assert (same.exit_code, same.stderr) == (0, "")
    new = old.replace("miles: float", "miles: int\n    zone: str\n    tip: float = 0.0")
    (folder / "new.py").write_text(new.replace("    minutes: float", "    minutes: float | None"))
    changed = invoke("check", "new:bus", "--against", "old.json", "--json")
    assert changed.exit_code == 1
    take = "give a new field a default, and take the old form until its last event has been read"
    assert json.loads(changed.stdout)["problems"] == [
        f"read from rides.started: $.zone: events lack it and readers require it; {take}",
        f"read from rides.started: $.miles: it may be number and readers take integer; {take}",
        "written to rides.duration: $.minutes: it may be null and readers take number; "  # noqa: ISC004
        "go on writing what its readers take, or write the new form to another topic",
    ]


def test_another_codec_breaks_readers(invoke: Invoke, folder: Path) -> None:
    old = APP.replace('model="no.skops"', "").replace(", model)", ")")
    (folder / "app.py").write_text(old)
    (folder / "old.json").write_text(invoke("schema", "app:bus").stdout)
    packed = "".join(f'bus.topic("rides.{name}", codec="msgpack")\n' for name in ("started", "duration"))
    (folder / "new.py").write_text(old + packed)
    changed = invoke("check", "new:bus", "--against", "old.json", "--json")
    [problem] = json.loads(changed.stdout)["problems"]  # what is read may be of either format
    assert "rides.duration: it is application/msgpack and readers take application/json; go on" in problem


def test_an_error_of_the_app_is_not_one_of_the_file(
    invoke: Invoke, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "app.py").write_text(APP.replace('model="no.skops"', "").replace(", model)", ")"))
    (folder / "old.json").write_text("{}")
    monkeypatch.setattr(check, "asyncapi_document", lambda _: dict[str, Any]()["our own"])
    with pytest.raises(KeyError, match="our own"):
        invoke("check", "app:bus", "--against", "old.json")


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"operations": {"a": {"action": "send"}}}', '{"operations": []}']
)
def test_a_file_that_is_no_such_document_is_refused(invoke: Invoke, folder: Path, text: str) -> None:
    (folder / "app.py").write_text(APP.replace('model="no.skops"', "").replace(", model)", ")"))
    (folder / "old.json").write_text(text)
    result = invoke("check", "app:bus", "--against", "old.json")
    assert result.exit_code == 2
    assert "old.json was not written by eventml schema" in result.stderr
    assert invoke("check", "app:bus", "--against", "none.json").exit_code == 2
