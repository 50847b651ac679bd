"""The test bus, as users' own tests meet it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import numpy as np
import pytest
from anyio import to_thread

from eventml import Bus, ConfigError, DecodeError, Model, ModelError, Prediction, Record, Reject, config
from eventml.errors import NotOpenError
from eventml.testing import TestBus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])]


class Ride(msgspec.Struct):
    id: str
    miles: float


class Duration(msgspec.Struct):
    id: str
    minutes: float


class Constant:
    def predict(self, rows: list[list[float]]) -> list[float]:
        return [7.0 for _ in rows]


def no_model() -> Any:
    raise FileNotFoundError("there is no model here")


def make_bus() -> Bus:
    """Two handlers in a chain, and one beside them."""
    bus = Bus("rides", backend="redis://nobody.invalid:1")

    @bus.predictor("started", to="duration")
    def duration(rides: list[Ride]) -> list[Duration | None]:
        if any(ride.miles > 1e6 for ride in rides):
            raise ValueError("a ride to the moon")
        return [Duration(ride.id, ride.miles * 3) if ride.miles else None for ride in rides]

    @bus.predictor("duration", to="alarm")
    async def alarm(ride: Duration) -> Duration | None:
        await anyio.sleep(0.01)
        return ride if ride.minutes > 60 else None

    @bus.consumer("started", name="watch", retries=4)
    def watch(ride: Ride) -> None:
        if ride.miles < 0:
            raise Reject(f"{ride.miles} miles")

    return bus


async def test_publish_returns_once_a_whole_chain_has_handled_it() -> None:
    bus = make_bus()
    async with TestBus(bus) as t:
        await t.publish("started", Ride("a", 1.0))
        await t.publish("started", Ride("b", 30.0))
        assert t.published("duration") == [Duration("a", 3.0), Duration("b", 90.0)]
        assert t.published("alarm") == [Duration("b", 90.0)]
        assert t.published("nobody writes this") == []
    assert t.published("alarm") == [Duration("b", 90.0)], "what was published can be looked at afterwards"


async def test_order_is_that_of_publishing_whatever_the_keys() -> None:
    rides = [Ride(f"{n}", float(n)) for n in range(3_000)]
    async with TestBus(make_bus(), only=["duration"]) as t:
        assert await t.publish_many("started", iter(rides), key=lambda ride: ride.id) == 3_000
        assert [event.id for event in t.published("duration")] == [f"{n}" for n in range(1, 3_000)]
        assert t.published("alarm") == []
        assert t.published("started")[7] == {"id": "7", "miles": 7.0}


async def test_the_topics_declared_type_wins() -> None:
    bus = make_bus()
    bus.topic("started", event_type=Ride, id_field="id")
    bus.topic("duration", event_type=dict[str, Any])
    async with TestBus(bus) as t:
        await t.publish("started", Ride("a", 2.0), key="k")
        assert t.published("started") == [Ride("a", 2.0)]
        assert t.published("duration") == [{"id": "a", "minutes": 6.0}]
        [record] = t.records("duration")
    assert (record.key, record.id, record.headers["ce_predictor"]) == (b"k", "a/duration", "duration")


async def test_dead_letters_say_why_and_the_neighbours_pass() -> None:
    async with TestBus(make_bus()) as t:
        await t.publish_many("started", [Ride("a", 1.0), Ride("moon", 3e6), Ride("b", 2.0)])
        assert [event.id for event in t.published("duration")] == ["a", "b"]
        [letter] = t.dead_letters("duration")
        assert (letter.handler, letter.exception) == ("duration", "ValueError")
        assert "a ride to the moon" in letter.reason
        assert msgspec.json.decode(letter.record.value, type=Ride) == Ride("moon", 3e6)
        assert letter.attempts == 3, "tried again as often as the policy says"
        assert isinstance(letter.error, ValueError)

        await t.publish("started", Ride("back", -1.0))
        assert [letter.handler for letter in t.dead_letters("started")] == ["duration", "watch"]
        assert t.dead_letters("watch")[0].attempts == 1
        assert len(t.dead_letters()) == 2
        with pytest.raises(ConfigError, match="no handler is named 'nobody'"):
            t.dead_letters("nobody")


async def test_failures_can_fail_the_test() -> None:
    async with TestBus(make_bus(), raise_failures=True) as t:
        await t.publish("started", Ride("a", 1.0))
        with pytest.raises(AssertionError, match=r"duration: .* ValueError: a ride to the moon") as failed:
            await t.publish("started", Ride("moon", 3e6))
        assert isinstance(failed.value.__cause__, ValueError)
        await t.publish("started", Ride("b", 2.0))
        with pytest.raises(AssertionError, match=r"watch: .* Reject: -2"):
            await t.publish("started", Ride("c", -2.0))


async def test_a_failure_is_reported_once_although_its_exception_is_raised_again() -> None:
    bus, error = Bus("rides"), ValueError("no ride")

    @bus.consumer("started", retries=0)
    def refuse(ride: Ride) -> None:
        raise error

    async with TestBus(bus, raise_failures=True) as t:
        for number in (1, 2):
            with pytest.raises(
                AssertionError, match=rf"^refuse: \w+-{number} failed after 1 attempts: .*no ride$"
            ):
                await t.publish("started", Ride("a", 1.0))


async def test_a_malformed_record_is_a_dead_letter() -> None:
    async with TestBus(make_bus(), only=["duration"]) as t:
        await t.publish_record(Record("started", b"{junk", b"key", "bad"))
        [letter] = t.dead_letters("duration")
        assert (letter.exception, letter.record.value, letter.error) == ("DecodeError", b"{junk", None)
        with pytest.raises(DecodeError):
            t.published("started")


async def test_configuration_does_not_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVENTML_BACKEND", "kafka://nobody.invalid:9092")
    (tmp_path / "eventml.toml").write_text("[consumer.duration]\nmodel = 'nothing.skops'\nnonsense = 1\n")
    bus = make_bus()
    async with TestBus(bus) as t:
        await t.publish("started", Ride("a", 1.0))
        assert t.published("duration") == [Duration("a", 3.0)]
    with pytest.raises(ConfigError, match="nonsense"):
        _ = bus.settings


async def test_the_bus_is_afterwards_as_it_was() -> None:
    bus = make_bus()
    bus.lifespan(database)
    handlers, settings = dict(bus.handlers), config.load(environ={})
    bus.configure(settings)
    with pytest.raises(RuntimeError, match="on purpose"):
        async with TestBus(bus, lifespans={"database": 1}):
            raise RuntimeError("on purpose")
    assert bus.handlers == handlers
    assert bus.settings is settings
    with pytest.raises(NotOpenError):
        await bus.publish("started", Ride("a", 1.0))
    bus = make_bus()
    for _ in range(2):
        async with TestBus(bus) as t:
            await t.publish("started", Ride("a", 1.0))
            assert len(t.published("duration")) == 1, "every test has a broker of its own"


async def test_a_model_can_be_replaced() -> None:
    bus = Bus("rides")

    @bus.predictor("started", to="numbers", model=no_model)
    def numbers(rides: list[Ride], model: Any) -> list[float]:
        return [float(n) for n in model.predict([[ride.miles] for ride in rides])]

    @bus.predictor("started", to="array", model=no_model)
    def array(rides: list[Ride], model: Any) -> np.ndarray:
        return np.array(model.predict([[ride.miles] for ride in rides]))

    with pytest.raises(ModelError, match="there is no model here"):
        async with TestBus(bus):
            pass
    models = {"numbers": Constant(), "array": Model(Constant(), name="constant", version="1")}
    async with TestBus(bus, models=models) as t:
        await t.publish("started", Ride("a", 1.0), id="a")
        assert t.published("numbers") == [Prediction("a", 7.0)]
        assert t.published("array") == [Prediction("a", 7.0)]
        assert t.records("numbers")[0].id == "a/numbers@test"
        assert t.records("array")[0].id == "a/array@1"
    with pytest.raises(ConfigError, match="no handler with a model named 'duratoin'; there are: array, num"):
        async with TestBus(bus, models={"duratoin": Constant()}):
            pass


async def database() -> AsyncIterator[list[str]]:
    yield []


async def test_a_lifespan_can_be_replaced() -> None:
    bus = Bus("rides")
    seen: list[str] = []
    bus.lifespan(database)

    @bus.consumer("started")
    def store(ride: Ride, database: list[str]) -> None:
        database.append(ride.id)

    async with TestBus(bus, lifespans={"database": seen}) as t:
        await t.publish("started", Ride("a", 1.0))
    assert seen == ["a"]
    with pytest.raises(ConfigError, match="no lifespan named 'db'"):
        async with TestBus(bus, lifespans={"db": seen}):
            pass


async def test_what_the_code_under_test_publishes_is_seen() -> None:
    bus = make_bus()

    @bus.consumer("alarm")
    async def echo(ride: Duration) -> None:
        await bus.publish("echo", {"id": ride.id})

    def view() -> None:
        with bus.producer() as producer:
            producer.publish("started", Ride("web", 40.0))

    async with TestBus(bus) as t:
        await to_thread.run_sync(view)
        await t.settle()
        assert t.published("echo") == [{"id": "web"}]


async def test_what_is_never_handled_is_named() -> None:
    bus = Bus("rides")

    @bus.consumer("started")
    async def stuck(ride: Ride) -> None:
        raise ConnectionError("the database is down")

    with pytest.raises(TimeoutError, match=r"stuck: 1 events .*ConnectionError: the database is down"):
        async with TestBus(bus, timeout=0.2) as t:
            await t.publish("started", Ride("a", 1.0))


async def test_it_has_to_be_open() -> None:
    t = TestBus(make_bus())
    with pytest.raises(NotOpenError):
        await t.publish("started", Ride("a", 1.0))
    with pytest.raises(NotOpenError):
        t.published("started")
