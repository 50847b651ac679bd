"""The bus as a user sees it: predictions with their ids and headers, lifespans, publishing, batching."""

from __future__ import annotations

import re
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import msgspec
import numpy as np
import pytest

from eventml import Bus, Model, NotOpenError, OutputError, Prediction, RegistrationError, config
from eventml.backends.memory import Hub, Settings
from eventml.errors import ConfigError, UnsupportedError
from tests.bus.running import records, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])]


class Ride(msgspec.Struct):
    ride_id: str
    miles: float = 1.0


class Duration(msgspec.Struct):
    ride_id: str
    minutes: float


@pytest.fixture
def bus() -> Bus:
    bus = Bus("rides")
    bus.configure(config.load(environ={}))
    return bus


async def test_prediction_names_its_input_its_predictor_and_its_model(bus: Bus) -> None:
    hub = Hub()

    @bus.predictor("rides.started", to="rides.duration", model=lambda: Model(3.0, "linear", "v7"))
    def duration(rides: list[Ride], model: float) -> list[Duration]:
        return [Duration(ride.ride_id, ride.miles * model) for ride in rides]

    async with running(bus, hub):
        await bus.publish("rides.started", Ride("a", 2.0), key="zone-4", id="ride-1")
    [record] = await records(hub, "rides.duration", 1)
    assert msgspec.json.decode(record.value) == {"ride_id": "a", "minutes": 6.0}
    assert (record.id, record.key) == ("ride-1/duration@v7", b"zone-4")
    assert dict(record.headers) == {
        "ce_specversion": "1.0",
        "ce_type": "rides.duration",
        "ce_source": "rides",
        "content-type": "application/json",
        "ce_predictor": "duration",
        "ce_model": "linear",
        "ce_modelversion": "v7",
    }


async def test_array_becomes_predictions_that_name_their_input(bus: Bus) -> None:
    hub = Hub()

    @bus.predictor("rides.started", to="rides.minutes")
    def minutes(rides: list[Ride]) -> np.ndarray[Any, Any]:
        return np.array([ride.miles for ride in rides]) * 2

    @bus.predictor("rides.started", to="rides.classes")
    async def classes(rides: list[Ride]) -> Any:
        return np.array([[ride.miles, 1.0] for ride in rides])

    async with running(bus, hub):
        await bus.publish("rides.started", Ride("a", 2.5), id="x")
    [number] = await records(hub, "rides.minutes", 1)
    [row] = await records(hub, "rides.classes", 1)
    assert msgspec.json.decode(number.value, type=Prediction) == Prediction("x", 5.0)
    assert msgspec.json.decode(row.value, type=Prediction) == Prediction("x", [2.5, 1.0])


async def test_every_handler_gets_every_event_and_none_is_no_output(bus: Bus) -> None:
    hub = Hub()
    seen: list[str] = []

    @bus.predictor("rides.started", to="rides.long")
    async def long(ride: Ride) -> Ride | None:
        return ride if ride.miles > 5 else None

    @bus.consumer("rides.started")
    def audit(ride: Ride) -> None:
        seen.append(ride.ride_id)

    @bus.consumer("rides.long")
    async def alarm(rides: list[Ride]) -> None:
        seen.extend(f"long {ride.ride_id}" for ride in rides)

    async with running(bus, hub) as worker:
        count = await bus.publish_many("rides.started", [Ride(str(n), float(n)) for n in range(10)])
    assert count == 10
    assert sorted(seen) == sorted([str(n) for n in range(10)] + [f"long {n}" for n in range(6, 10)])
    assert (worker.stats["long"].received, worker.stats["long"].published) == (10, 4)


async def test_lifespans_are_entered_once_and_left_in_the_end(bus: Bus) -> None:
    log: list[str] = []

    @bus.lifespan
    async def database() -> AsyncIterator[str]:
        log.append("open")
        yield "connection"
        log.append("closed")

    @bus.lifespan
    def cache() -> Iterator[dict[str, int]]:
        yield {}

    @bus.consumer("t")
    def first(ride: Ride, database: str, cache: dict[str, int]) -> None:
        cache[ride.ride_id] = 1
        log.append(f"first with {database}")

    @bus.consumer("t")
    async def second(ride: Ride, database: str) -> None:
        log.append(f"second with {database}")

    async with running(bus):
        await bus.publish("t", Ride("a"))
    assert log[0] == "open"
    assert log[-1] == "closed"
    assert sorted(log[1:-1]) == ["first with connection", "second with connection"]


async def test_a_parameter_without_a_lifespan_is_refused_at_start(bus: Bus) -> None:
    @bus.consumer("t")
    def store(ride: Ride, database: str) -> None: ...

    with pytest.raises(RegistrationError, match="define a lifespan of that name"):
        async with running(bus):
            pytest.fail("it must not start")


async def test_id_field_and_format_of_a_topic(bus: Bus) -> None:
    hub = Hub()
    bus.topic("rides.started", id_field="ride_id", codec="msgpack")

    @bus.consumer("rides.started")
    def audit(ride: Ride) -> None: ...

    async with running(bus, hub) as worker:
        await bus.publish("rides.started", Ride("r-9"))
        with pytest.raises(OutputError, match=r"topic\.rides\.started\.id_field"):
            await bus.publish("rides.started", {"no": "id"})
    [record] = await records(hub, "rides.started", 1)
    assert record.id == "r-9"
    assert record.headers["content-type"] == "application/msgpack"
    assert msgspec.msgpack.decode(record.value, type=Ride) == Ride("r-9")
    assert worker.stats["audit"].dead_letters == 0


async def test_ids_are_unique_if_none_are_given(bus: Bus) -> None:
    hub = Hub()
    async with bus.open(hub):
        await bus.publish_many("t", [Ride("a")] * 500)
        async with anyio.create_task_group() as tasks:
            for _ in range(500):
                tasks.start_soon(bus.publish, "t", Ride("a"))
    assert len({record.id for record in await records(hub, "t", 1000)}) == 1000


async def test_a_closed_bus_refuses_to_publish(bus: Bus) -> None:
    with pytest.raises(NotOpenError, match="async with bus"):
        await bus.publish("t", Ride("a"))
    async with bus.open(Hub()):
        with pytest.raises(NotOpenError, match="open already"):
            async with bus:
                pytest.fail("opened twice")


async def test_an_error_inside_the_open_bus_is_raised_unchanged(bus: Bus) -> None:
    with pytest.raises(OutputError, match="cannot encode"):
        async with bus.open(Hub()):
            await bus.publish("t", object())


async def test_an_event_that_cannot_be_encoded_does_not_affect_others(bus: Bus) -> None:
    hub = Hub()
    async with bus.open(hub):
        with pytest.raises(OutputError, match="object object"):
            await bus.publish_many("t", [Ride("a"), object()])
        await bus.publish("t", Ride("b"))
    [record] = await records(hub, "t", 1)
    assert msgspec.json.decode(record.value, type=Ride).ride_id == "b"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"id": 5}, "an event's id is text, not 5"),
        ({"id": "\ud800"}, "an event's id is text"),
        ({"key": 5}, "an event's key is text or bytes, not 5"),
        ({"key": "\ud800"}, "an event's key is text or bytes"),
        ({"headers": {"x": 1}}, "an event's headers are texts by name, not {'x': 1}"),
        ({"headers": {5: "x"}}, "an event's headers are texts by name"),
        ({"headers": ["x"]}, "an event's headers are texts by name"),
        ({"topic": None}, "a topic's name is text, not None"),
        ({"topic": ""}, "a topic's name is text, not ''"),
    ],
)
async def test_what_cannot_be_published_costs_its_call_alone(
    bus: Bus, given: dict[str, Any], message: str
) -> None:
    async with bus.open(Hub()):
        with pytest.raises(OutputError, match=re.escape(message)):
            await bus.publish(**{"topic": "rides.started", "event": {"x": 1}, **given})
        await bus.publish("rides.started", {"x": 2})
        assert [delivery.event async for delivery in bus.read("rides.started", until="end")] == [{"x": 2}]


async def test_keys_and_ids_of_many_events_are_checked(bus: Bus) -> None:
    bus.topic("rides.started", id_field="ride_id")
    async with bus.open(Hub()):
        with pytest.raises(OutputError, match="key is text or bytes, not 5"):
            await bus.publish_many("rides.started", [{"ride_id": 1}], key=lambda ride: 5)  # type: ignore[arg-type, return-value]
        with pytest.raises(OutputError, match="'ride_id' is None, and no id"):
            await bus.publish_many("rides.started", [{"ride_id": None}])
        with pytest.raises(OutputError, match="headers are texts by name"):
            await bus.publish_many("rides.started", [{"ride_id": 1}], headers={"x": 1})  # type: ignore[dict-item]


async def test_configuration_replaces_the_value_in_the_code(bus: Bus) -> None:
    sizes: list[int] = []

    @bus.consumer("t", max_batch=100)
    def audit(rides: list[Ride]) -> None:
        sizes.append(len(rides))

    bus.configure(config.load(environ={"EVENTML_CONSUMER_AUDIT_MAX_BATCH": "7"}, known_handlers=["audit"]))
    async with running(bus):
        await bus.publish_many("t", [Ride(str(n)) for n in range(70)])
    assert sum(sizes) == 70
    assert max(sizes) == 7


async def test_an_order_that_the_backend_cannot_keep_is_refused(bus: Bus) -> None:
    @bus.consumer("t", ordered=True)
    def audit(ride: Ride) -> None: ...

    hub = Hub()
    hub.capabilities = msgspec.structs.replace(hub.capabilities, ordering="single_member")
    with pytest.raises(UnsupportedError, match=r"consumer\.audit\.ordered: .*one member"):
        async with running(bus, hub):
            pytest.fail("it must not start")


async def test_only_some_handlers(bus: Bus) -> None:
    @bus.consumer("t")
    def one(ride: Ride) -> None: ...

    @bus.consumer("t")
    def two(ride: Ride) -> None: ...

    async with bus.open(Hub()):
        async with bus.worker(["two"]) as worker:
            assert list(worker.stats) == ["two"]
        with pytest.raises(ConfigError, match="no handler is named 'three'; there are: one, two"):
            async with bus.worker(["three"]):
                pytest.fail("it must not start")


async def test_batches_grow_while_the_handler_is_busy_and_keep_their_order(bus: Bus) -> None:
    batches: list[list[str]] = []
    gate = anyio.Event()

    @bus.consumer("t", max_batch=50)
    async def audit(rides: list[Ride]) -> None:
        batches.append([ride.ride_id for ride in rides])
        await gate.wait()

    async with running(bus) as worker:
        await bus.publish("t", Ride("0"), key="k")
        while not batches:
            await anyio.lowlevel.checkpoint()
        for n in range(1, 40):
            await bus.publish("t", Ride(str(n)), key="k")
        while worker.stats["audit"].received < 40:
            await anyio.lowlevel.checkpoint()
        gate.set()
    assert batches == [["0"], [str(n) for n in range(1, 40)]]


async def test_a_slow_handler_bounds_the_events_in_flight(bus: Bus) -> None:
    gate = anyio.Event()

    @bus.consumer("t", max_batch=10)
    async def audit(rides: list[Ride]) -> None:
        await gate.wait()

    async with running(bus) as worker:
        await bus.publish_many("t", [Ride(str(n)) for n in range(500)])
        await anyio.wait_all_tasks_blocked()
        assert worker.in_flight <= 40
        gate.set()
    assert worker.stats["audit"].completed == 500


async def test_publisher_is_held_back_by_a_slow_handler(bus: Bus) -> None:
    gate = anyio.Event()
    published = 0

    @bus.consumer("t", max_batch=10)
    async def audit(rides: list[Ride]) -> None:
        await gate.wait()

    async def produce() -> None:
        nonlocal published
        for n in range(300):
            await bus.publish("t", Ride(str(n)))
            published += 1

    async with running(bus, Hub(Settings(retention=50))) as worker, anyio.create_task_group() as tasks:
        tasks.start_soon(produce)
        await anyio.wait_all_tasks_blocked()
        assert published < 100
        gate.set()
    assert published == worker.stats["audit"].completed == 300


def test_blocking_producer_shared_by_threads(anyio_backend_name: str) -> None:
    name = secrets.token_hex(4)
    bus = Bus("rides", backend=f"memory://{name}")
    bus.configure(config.load(environ={}, overrides={"backend": f"memory://{name}"}))
    seen: set[str] = set()
    done = threading.Event()

    @bus.consumer("t")
    def audit(rides: list[Ride]) -> None:
        seen.update(ride.ride_id for ride in rides)
        if len(seen) == 400:
            done.set()

    async def run() -> None:
        async with bus, bus.worker() as worker, anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await anyio.to_thread.run_sync(done.wait, 20)
            worker.stop()

    def produce(start: int) -> None:
        for n in range(100):
            producer.publish("t", Ride(str(start + n)))

    with ThreadPoolExecutor(5) as threads:
        running = threads.submit(lambda: anyio.run(run, backend=anyio_backend_name))
        with bus.producer() as producer:
            work = [threads.submit(produce, start) for start in (0, 100, 200)]
            assert producer.publish_many("t", [Ride(str(n)) for n in range(300, 400)]) == 100
            for job in work:
                job.result(20)
        running.result(30)
    assert len(seen) == 400
    with pytest.raises(NotOpenError, match="this producer is closed"):
        producer.publish("t", Ride("late"))


async def test_handler_may_publish_by_itself(bus: Bus) -> None:
    hub = Hub()

    @bus.consumer("t")
    async def forward(ride: Ride) -> None:
        await bus.publish("u", ride)

    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        async with running(bus, hub):
            yield

    async with opened():
        await bus.publish("t", Ride("a"))
    assert len(await records(hub, "u", 1)) == 1
