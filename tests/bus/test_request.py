"""Requests over the bus, the same on every backend."""

from __future__ import annotations

import secrets
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from eventml import (
    Bus,
    DecodeError,
    NotOpenError,
    Prediction,
    PredictionError,
    Record,
    Reject,
    RequestTimeoutError,
)
from eventml.backends.memory import Hub
from eventml.records import REPLY_TO
from eventml.runtime import replies as runtime_replies
from eventml.runtime import reply_topic
from eventml.testing import TestBus
from tests.failures.scenario import Duration, Ride, Scenario, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventml.backends.base import Backend

pytestmark = pytest.mark.anyio

SOON = 30.0  # seconds: longer than any reply takes on a busy machine


@pytest.fixture(params=["memory", "redis", "kafka"])
def backend_url(request: pytest.FixtureRequest) -> str:
    scheme, _, query = str(request.param).partition("?")
    if scheme == "memory":
        return f"memory://{secrets.token_hex(4)}"
    server = request.getfixturevalue("redis_server" if scheme == "redis" else "kafka_broker")
    return f"{server.url}?{query}" if query else str(server.url)


@pytest.fixture
def scenario(backend_url: str) -> Scenario:
    scenario = Scenario(backend_url)

    @scenario.bus.predictor(scenario.topic, to=scenario.to, retries=0)
    def duration(rides: list[Ride]) -> list[Duration | None]:
        if any(ride.miles < 0 for ride in rides):
            raise Reject("no such ride")
        return [Duration(ride.ride_id, 2 * ride.miles) if ride.miles else None for ride in rides]

    return scenario


@asynccontextmanager
async def requester(scenario: Scenario) -> AsyncIterator[Bus]:
    """A bus with a connection of its own and without handlers, like one in another process."""
    bus = Bus("web")
    bus.configure(scenario.bus.settings)
    async with bus:
        yield bus


async def replies(backend: Backend, topic: str, count: int) -> list[Record]:
    """The first replies on a topic's reply topic; waits until there are `count`."""
    found: list[Record] = []
    with anyio.fail_after(SOON):
        async with backend.subscribe([reply_topic(topic)], group=None, start="earliest") as reader:
            while len(found) < count:
                found += [delivery.record for delivery in await reader.receive(1000)]
    return found


async def test_the_reply_has_the_output_type_of_the_predictor(scenario: Scenario) -> None:
    async with scenario.connect() as backend, scenario.working(backend):
        answer = await scenario.bus.request(scenario.topic, Ride(1, 2.5), timeout=SOON)
    assert answer == Duration(1, 5.0)


async def test_without_the_predictor_a_reply_is_plain_python_or_the_given_output_type(
    scenario: Scenario,
) -> None:
    async with scenario.connect() as backend, scenario.working(backend), requester(scenario) as web:
        plain = await web.request(scenario.topic, {"ride_id": 1, "miles": 2.5}, timeout=SOON)
        typed = await web.request(scenario.topic, Ride(1, 2.5), timeout=SOON, output_type=Duration)
        with pytest.raises(DecodeError):
            await web.request(scenario.topic, Ride(1, 2.5), timeout=SOON, output_type=list[int])
    assert plain == {"ride_id": 1, "minutes": 5.0}
    assert typed == Duration(1, 5.0)


async def test_the_prediction_also_goes_to_its_topic_without_the_headers_of_the_request(
    scenario: Scenario,
) -> None:
    async with scenario.connect() as backend:
        async with scenario.working(backend):
            await scenario.bus.request(scenario.topic, Ride(1, 2.5), timeout=SOON, predictor="duration")
        await scenario.collect(backend, 1)
        [reply] = await replies(backend, scenario.topic, 1)
    [[prediction]] = scenario.outputs.values()
    assert not [name for name in prediction.headers if name.startswith("eventml-reply")]
    assert (reply.value, reply.id, dict(reply.headers)) == (
        prediction.value,
        prediction.id,
        dict(prediction.headers),
    )


async def test_no_output_is_none(scenario: Scenario) -> None:
    async with scenario.connect() as backend, scenario.working(backend):
        assert await scenario.bus.request(scenario.topic, Ride(1, 0.0), timeout=SOON) is None


async def test_a_failure_has_a_reason_and_fails_its_own_request_only(scenario: Scenario) -> None:
    answers: dict[int, Any] = {}

    async def ask(web: Bus, number: int, miles: float) -> None:
        try:
            answers[number] = await web.request(scenario.topic, Ride(number, miles), timeout=SOON)
        except PredictionError as exc:
            answers[number] = exc

    async with scenario.connect() as backend, scenario.working(backend), requester(scenario) as web:
        async with anyio.create_task_group() as tasks:
            for number, miles in enumerate([1.0, -1.0, 3.0]):
                tasks.start_soon(ask, web, number, miles)
        with pytest.raises(PredictionError) as undecodable:
            await web.request(scenario.topic, {"ride_id": "a word"}, timeout=SOON)
    assert (answers[0]["minutes"], answers[2]["minutes"]) == (2.0, 6.0)
    assert isinstance(answers[1], PredictionError)
    assert (answers[1].exception, answers[1].reason) == ("Reject", "Reject: no such ride")
    assert "duration failed" in str(answers[1])
    assert scenario.dead_letter_topics[0] in str(answers[1])
    assert undecodable.value.exception == "DecodeError"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_reason_of_a_failure_has_no_values_of_the_event() -> None:
    """The requester may be an API that shows it to its own clients."""
    bus = Bus("rides")

    @bus.predictor("rides.started", to="rides.duration")
    def duration(ride: Ride) -> Duration:
        if ride.miles < 0:
            raise Reject("no such ride") from KeyError(f"{ride}")
        raise ValueError(f"cannot handle {ride}")

    found = {}
    async with TestBus(bus) as t:
        for event in (
            {"ride_id": 4711, "miles": 1.5},
            {"ride_id": 4711, "miles": -1.5},
            {"ride_id": "r-4711"},
        ):
            with pytest.raises(PredictionError) as failed:
                await bus.request("rides.started", event)
            assert "4711" not in str(failed.value)
            found[failed.value.exception] = failed.value.reason
        assert "4711" in t.dead_letters()[0].reason, "who may read the dead letters sees it there"
    assert found == {
        "ValueError": "ValueError",
        "Reject": "Reject: no such ride",
        "DecodeError": "DecodeError: Expected `int`, got `str` at `$.ride_id`",
    }


async def test_a_request_in_memory_says_that_its_worker_is_in_this_process() -> None:
    bus = Bus("rides")
    with pytest.raises(RequestTimeoutError, match="is running in this process, as no other one reaches"):
        async with bus.open(Hub()):
            await bus.request("rides.started", {}, timeout=0.01)


async def test_a_late_reply_is_dropped(scenario: Scenario) -> None:
    async with scenario.connect() as backend, requester(scenario) as web:
        # No worker is running yet, but the requester reads the replies already.
        with pytest.raises(RequestTimeoutError, match="eventml lag") as timeout:
            await web.request(scenario.topic, Ride(1, 1.0), timeout=3)
        assert isinstance(timeout.value, TimeoutError)
        async with scenario.working(backend) as worker:
            await until(lambda: worker.stats["duration"].completed == 1)
            assert await web.request(scenario.topic, Ride(2, 2.0), timeout=SOON) == {
                "ride_id": 2,
                "minutes": 4.0,
            }
        assert len(await replies(backend, scenario.topic, 2)) == 2


async def test_each_of_many_requests_gets_its_own_reply(scenario: Scenario) -> None:
    answers: dict[int, Any] = {}

    async def ask(web: Bus, number: int) -> None:
        answers[number] = await web.request(scenario.topic, Ride(number, number + 1.0), timeout=SOON)

    async with (
        scenario.connect() as backend,
        scenario.working(backend) as worker,
        requester(scenario) as one,
        requester(scenario) as two,
        requester(scenario) as three,
        anyio.create_task_group() as tasks,
    ):
        for number in range(1000):
            tasks.start_soon(ask, (one, two, three)[number % 3], number)
        await until(lambda: len(answers) == 1000)
        stats = worker.stats["duration"]
    assert answers == {n: {"ride_id": n, "minutes": 2 * (n + 1.0)} for n in range(1000)}
    assert (stats.completed, stats.published, stats.dead_letters) == (1000, 1000, 0)


async def test_of_two_predictors_the_named_one_replies(scenario: Scenario) -> None:
    @scenario.bus.predictor(scenario.topic, to=scenario.to, name="tip")
    def tip(rides: list[Ride]) -> list[float]:
        return [0.5 for _ in rides]

    @scenario.bus.consumer(scenario.topic)
    def audit(rides: list[Ride]) -> None:
        """A consumer never replies."""

    async with scenario.connect() as backend, scenario.working(backend) as worker:
        duration = await scenario.bus.request(
            scenario.topic, Ride(1, 2.0), timeout=SOON, predictor="duration"
        )
        tip_ = await scenario.bus.request(scenario.topic, Ride(1, 2.0), timeout=SOON, predictor="tip")
        first = await scenario.bus.request(scenario.topic, Ride(1, 2.0), timeout=SOON)
        await until(lambda: all(stats.completed == 3 for stats in worker.stats.values()))
        found = await replies(backend, scenario.topic, 4)
    assert duration == Duration(1, 4.0)
    assert isinstance(tip_, Prediction)
    assert tip_.value == 0.5
    assert isinstance(first, Duration | Prediction)
    assert [reply.headers["ce_predictor"] for reply in found[:2]] == ["duration", "tip"]
    assert len(found) == 4  # the first two requests were answered once each, the third by both


async def test_a_worker_replies_to_its_own_reply_topic_only_whatever_the_header_says(
    scenario: Scenario,
) -> None:
    elsewhere = f"{scenario.bus.name}.elsewhere"
    asking = [
        Record(scenario.topic, b'{"ride_id": 1, "miles": 1}', None, f"r{n}", {REPLY_TO: name})
        for n, name in enumerate([elsewhere, f"{elsewhere}.replies", scenario.to, "", reply_topic("*")])
    ]
    async with scenario.connect() as backend:
        async with scenario.working(backend) as worker:
            await scenario.bus.request(scenario.topic, Ride(7, 1.0), timeout=SOON)
            await backend.publish(asking)
            await until(lambda: worker.stats["duration"].completed == 1 + len(asking))
            await scenario.bus.request(scenario.topic, Ride(8, 1.0), timeout=SOON)
        assert len(await replies(backend, scenario.topic, 2)) == 2
        await scenario.collect(backend, 2 + len(asking))
    assert sorted(map(len, scenario.outputs.values())) == [1] * 7


async def test_a_request_without_a_reply_topic_on_the_broker_is_handled_without_a_reply(
    scenario: Scenario,
) -> None:
    headers = {REPLY_TO: reply_topic(scenario.topic)}
    asking = Record(scenario.topic, b'{"ride_id": 1, "miles": 1}', None, "7", headers)
    async with scenario.connect() as backend:
        async with scenario.working(backend) as worker:
            await backend.publish([asking])
            await until(lambda: worker.stats["duration"].completed == 1)
        await scenario.collect(backend, 1)
    assert [len(records) for records in scenario.outputs.values()] == [1]


@pytest.mark.parametrize("backend_url", ["kafka?delivery=exactly_once"], indirect=True)
async def test_replies_in_transactions(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply is part of its input's transaction. If it cannot be written, the rest of the transaction is."""
    monkeypatch.setattr(runtime_replies, "_PAUSE", 0.0)
    unanswerable = Record(
        scenario.topic, b'{"ride_id": 1, "miles": 1}', None, "7", {REPLY_TO: reply_topic(scenario.topic)}
    )
    async with scenario.connect() as backend:
        async with scenario.working(backend) as worker:
            await backend.publish([unanswerable])
            await until(lambda: worker.stats["duration"].completed == 1)
            assert await scenario.bus.request(scenario.topic, Ride(1, 2.5), timeout=SOON) == Duration(1, 5.0)
        await scenario.collect(backend, 2)
    assert [len(records) for records in scenario.outputs.values()] == [1, 1]


async def test_a_restarted_worker_replies_to_earlier_requests(scenario: Scenario) -> None:
    answers: list[Any] = []

    async def ask(web: Bus) -> None:
        answers.append(await web.request(scenario.topic, Ride(1, 1.0), timeout=SOON))

    async with (
        scenario.connect() as backend,
        requester(scenario) as web,
        anyio.create_task_group() as tasks,
    ):
        async with scenario.working(backend):
            tasks.start_soon(ask, web)
            await until(lambda: len(answers) == 1)
        tasks.start_soon(ask, web)
        await anyio.sleep(0.2)
        async with scenario.working(backend):
            await until(lambda: len(answers) == 2)
    assert answers == [{"ride_id": 1, "minutes": 2.0}] * 2


async def test_requests_from_blocking_code(scenario: Scenario) -> None:
    def ask() -> Any:
        with scenario.bus.producer() as producer:
            return producer.request(scenario.topic, Ride(1, 2.5), timeout=SOON)

    async with scenario.connect() as backend, scenario.working(backend):
        assert await anyio.to_thread.run_sync(ask) == Duration(1, 5.0)


async def test_a_requester_without_this_library_needs_a_header_and_an_id(scenario: Scenario) -> None:
    async with scenario.connect() as backend, scenario.working(backend):
        await scenario.bus.request(scenario.topic, Ride(1, 1.0), timeout=SOON)  # the reply topic is there
        headers = {REPLY_TO: reply_topic(scenario.topic)}
        await backend.publish([Record(scenario.topic, b'{"ride_id":2,"miles":3}', None, "mine", headers)])
        found = await replies(backend, scenario.topic, 2)
    assert found[1].id == "mine/duration"
    assert found[1].value == b'{"ride_id":2,"minutes":6.0}'


_OTHER_PROCESS = """
import sys, anyio
from eventml import Bus, config

async def main(url, topic, first):
    bus = Bus("other")
    bus.configure(config.load(environ={}, overrides={"backend": url}))
    async def ask(number):
        answer = await bus.request(topic, {"ride_id": number, "miles": number}, timeout=60)
        assert answer == {"ride_id": number, "minutes": 2.0 * number}, answer
    async with bus, anyio.create_task_group() as tasks:
        for number in range(first, first + 100):
            tasks.start_soon(ask, number)

anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""


_OTHER_WORKER = """
import sys, time, anyio
from eventml import Bus, config

url, name, topic, to, seconds = sys.argv[1:]
bus = Bus(name)
bus.configure(config.load(environ={}, overrides={"backend": url}))

@bus.predictor(topic, to=to)
def duration(rides: list[dict]) -> list[dict]:
    print("called", flush=True)
    time.sleep(float(seconds))
    return [{"ride_id": ride["ride_id"], "minutes": 2 * ride["miles"]} for ride in rides]

anyio.run(bus.run)
"""


@pytest.mark.parametrize("backend_url", ["redis?lease=1", "kafka?session_timeout=6"], indirect=True)
async def test_requests_in_flight_at_a_killed_worker_are_answered_by_another(scenario: Scenario) -> None:
    answers: dict[int, Any] = {}

    async def ask(number: int) -> None:
        answers[number] = await scenario.bus.request(scenario.topic, Ride(number, 1.0), timeout=60)

    def worker(seconds: float) -> list[str]:
        argv = [scenario.url, scenario.bus.name, scenario.topic, scenario.to, str(seconds)]
        return [sys.executable, "-c", _OTHER_WORKER, *argv]

    async with scenario.connect() as backend, scenario.bus.open(backend), anyio.create_task_group() as tasks:
        async with await anyio.open_process(worker(3600)) as slow:
            for number in range(20):
                tasks.start_soon(ask, number)
            assert slow.stdout is not None
            await slow.stdout.receive()  # the handler has been called
            slow.kill()
        async with await anyio.open_process(worker(0)) as quick:
            await until(lambda: len(answers) == 20)
            quick.terminate()
    assert answers == {number: Duration(number, 2.0) for number in range(20)}


@pytest.mark.parametrize("backend_url", ["redis", "kafka"], indirect=True)
async def test_requesters_in_many_processes_get_their_own_replies(scenario: Scenario) -> None:
    async def ask(first: int) -> None:
        argv = [sys.executable, "-c", _OTHER_PROCESS, scenario.url, scenario.topic, str(first)]
        await anyio.run_process(argv)

    async with scenario.connect() as backend, scenario.working(backend) as worker:
        async with anyio.create_task_group() as tasks:
            for first in (1, 1001, 2001):
                tasks.start_soon(ask, first)
        assert worker.stats["duration"].published == 300


async def test_closing_the_bus_fails_waiting_requests() -> None:
    bus = Bus("rides", backend=f"memory://{secrets.token_hex(4)}")
    failures: list[Exception] = []

    async def ask() -> None:
        try:
            await bus.request("rides.started", {})
        except NotOpenError as exc:
            failures.append(exc)

    async with anyio.create_task_group() as tasks, bus:
        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
    assert len(failures) == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_requests_on_a_test_bus() -> None:
    bus = Bus("rides")

    @bus.predictor("rides.started", to="rides.duration")
    def duration(ride: Ride) -> Duration:
        if ride.miles < 0:
            raise Reject("no such ride")
        return Duration(ride.ride_id, ride.miles)

    async with TestBus(bus) as t:
        assert await bus.request("rides.started", Ride(1, 2.0)) == Duration(1, 2.0)
        with pytest.raises(PredictionError, match="no such ride"):
            await bus.request("rides.started", Ride(1, -2.0))
        await t.publish("rides.started", Ride(2, 3.0))
        assert t.published("rides.duration") == [Duration(1, 2.0), Duration(2, 3.0)]
