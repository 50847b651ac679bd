"""A failure of the infrastructure costs time, and no event."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from eventml.errors import PublishError, UnavailableError
from tests.failures.intercepting import InterceptingBackend
from tests.failures.scenario import Duration, Ride, Scenario, publish, until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventml.backends.base import Backend, Completion, Subscription
    from eventml.runtime.worker import Worker

pytestmark = pytest.mark.anyio

RIDES = [Ride(number, 1.0) for number in range(40)]


class Database:
    """A database that is down for some seconds from its first use on."""

    def __init__(self, seconds: float, error: Exception) -> None:
        self._seconds = seconds
        self._error = error
        self._down_until: float | None = None
        self.refused = 0

    def look_up(self, ride: Ride) -> Duration:
        if self._down_until is None:
            self._down_until = time.monotonic() + self._seconds
        if time.monotonic() < self._down_until:
            self.refused += 1
            raise self._error
        return Duration(ride.ride_id, ride.miles)


@pytest.mark.slow
async def test_database_down_for_five_seconds_costs_no_event(scenario: Scenario) -> None:
    database = Database(5.0, ConnectionError("the database is down"))

    @scenario.bus.predictor(scenario.topic, to=scenario.to, max_batch=8, max_backoff=1.0)
    def duration(rides: list[Ride]) -> list[Duration]:
        return [database.look_up(ride) for ride in rides]

    await scenario.run(RIDES)
    scenario.check(answered=set(range(40)), dead_letters=set())
    assert database.refused > scenario.bus.handlers["duration"].options.retries + 1
    assert scenario.stats.calls - scenario.stats.retries == 5, "the batches were never split"


class DriverError(Exception):
    pass


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(DriverError("no route"), id="declared"),
        pytest.param(TimeoutError(), id="timeout"),
        pytest.param(MemoryError(), id="RAM"),
        pytest.param(ExceptionGroup("two queries", [ConnectionError(), TimeoutError()]), id="group"),
    ],
)
async def test_single_events_wait_for_the_database_too(
    scenario: Scenario, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(0.5, error)

    @scenario.bus.predictor(
        scenario.topic, to=scenario.to, retries=0, backoff=0.01, max_backoff=0.1, retry_on=[DriverError]
    )
    async def duration(ride: Ride) -> Duration:
        return database.look_up(ride)

    await scenario.run(RIDES)
    scenario.check(answered=set(range(40)), dead_letters=set())
    lines = [record.getMessage() for record in caplog.records if record.name == "eventml"]
    assert [sum(text in line for line in lines) for text in ("trying again", "succeed again")] == [1, 1]


class DeadLettersRefused:
    """A backend that refuses to write to dead-letter topics until `writable` is set.

    Args:
        for_good: Whether it refuses the records for good; otherwise it is unavailable.
    """

    def __init__(self, *, for_good: bool) -> None:
        self._for_good = for_good
        self.writable = False
        self.refusals = 0

    def wrap(self, backend: Backend) -> Backend:
        return InterceptingBackend(backend, self._complete)

    async def _complete(self, subscription: Subscription, done: Sequence[Completion]) -> None:
        letters = {i for i, c in enumerate(done) if any(r.topic.endswith(".dlq") for r in c.outputs)}
        if self.writable or not letters:
            await subscription.complete(done)
            return
        self.refusals += 1
        if not self._for_good:
            raise UnavailableError("the leader of the dead-letter topic is away")
        await subscription.complete([c for i, c in enumerate(done) if i not in letters])
        raise PublishError("some were refused", dict.fromkeys(letters, "not authorised"))


@pytest.mark.parametrize("for_good", [False, True], ids=["unavailable", "refused"])
async def test_unwritable_dead_letter_topic_stops_the_handler_and_loses_nothing(
    scenario: Scenario, for_good: bool
) -> None:
    refusing, bad, count = DeadLettersRefused(for_good=for_good), 5, 2_000

    @scenario.bus.predictor(scenario.topic, to=scenario.to, max_batch=16, retries=0)
    def duration(rides: list[Ride]) -> list[Duration]:
        if any(ride.ride_id == bad for ride in rides):
            raise KeyError("no such zone")
        return [Duration(ride.ride_id, ride.miles) for ride in rides]

    with anyio.fail_after(60):
        async with scenario.connect() as backend:
            async with scenario.working(refusing.wrap(backend)) as worker:
                await publish(backend, scenario.records([Ride(n, 1.0) for n in range(count)]))
                stats = worker.stats["duration"]
                await until(lambda: refusing.refusals >= 3)
                before = stats.received
                await until(lambda: refusing.refusals >= 5)
                assert stats.received == before < count, "no new events are received"
                assert await unfinished(worker) == count - stats.completed >= count - before + 1
                assert stats.dead_letters == 0
                refusing.writable = True
                await until(lambda: stats.completed == count)
            await scenario.collect(backend, count)
    scenario.check(answered=set(range(count)) - {bad}, dead_letters={bad})
    assert scenario.reason(bad) == "KeyError: 'no such zone'", "the reason of the failure, not of the refusal"


async def unfinished(worker: Worker) -> int | None:
    [lag] = (await worker.lag()).values()
    return lag


async def test_output_that_the_broker_refuses_costs_its_own_event(scenario: Scenario) -> None:
    async def complete(subscription: Subscription, done: Sequence[Completion]) -> None:
        bad = {i for i, c in enumerate(done) if any(r.id == "7/duration" for r in c.outputs)}
        await subscription.complete([c for i, c in enumerate(done) if i not in bad])
        if bad:
            raise PublishError("some were refused", dict.fromkeys(bad, "too large"))

    @scenario.bus.predictor(scenario.topic, to=scenario.to)
    def duration(rides: list[Ride]) -> list[Duration]:
        return [Duration(ride.ride_id, ride.miles) for ride in rides]

    await scenario.run(RIDES, wrap=lambda backend: InterceptingBackend(backend, complete))
    scenario.check(answered=set(range(40)) - {7}, dead_letters={7})
    assert scenario.reason(7) == "PublishError: too large"


@pytest.mark.parametrize("end", [SystemExit(3), "cancelled"], ids=["exit", "cancellation"])
@pytest.mark.parametrize("style", ["batch", "single", "coroutine"])
async def test_handler_that_would_end_its_worker_costs_its_own_event(
    scenario: Scenario, end: Any, style: str
) -> None:
    raised = anyio.get_cancelled_exc_class() if end == "cancelled" else end

    def one(ride: Ride) -> Duration:
        if ride.ride_id == 3:
            raise raised
        return Duration(ride.ride_id, ride.miles)

    async def coroutine(ride: Ride) -> Duration:
        return one(ride)

    def batch(rides: list[Ride]) -> list[Duration]:
        return [one(ride) for ride in rides]

    functions: dict[str, Callable[..., Any]] = {"batch": batch, "single": one, "coroutine": coroutine}
    register = scenario.bus.predictor(scenario.topic, to=scenario.to, retries=0, name="duration")
    register(functions[style])
    await scenario.run(RIDES)
    scenario.check(answered=set(range(40)) - {3}, dead_letters={3})
    assert "which would have ended its worker" in scenario.reason(3)


async def test_exception_without_a_text_costs_its_own_event(scenario: Scenario) -> None:
    class WithoutText(Exception):  # noqa: N818 - its name is part of the test
        def __str__(self) -> str:
            raise RuntimeError("no text")

    @scenario.bus.predictor(scenario.topic, to=scenario.to, retries=0)
    async def duration(ride: Ride) -> Duration:
        if ride.ride_id == 1:
            raise WithoutText
        if ride.ride_id == 2:
            raise ValueError("half a character: \udcff")
        return Duration(ride.ride_id, ride.miles)

    await scenario.run(RIDES)
    scenario.check(answered=set(range(40)) - {1, 2}, dead_letters={1, 2})
    assert scenario.reason(1) == "WithoutText: <str() of the exception failed: RuntimeError>"
    assert scenario.reason(2) == r"ValueError: half a character: \udcff"
