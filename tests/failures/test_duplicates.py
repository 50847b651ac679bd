"""Events that are published twice under one id, with `dedupe_window`: called once, answered once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from eventml import Reject, config
from eventml.backends.base import Capabilities
from eventml.errors import UnsupportedError
from tests.failures.intercepting import InterceptingBackend
from tests.failures.scenario import Duration, Ride, Scenario, publish, until

if TYPE_CHECKING:
    from eventml import Record
    from eventml.backends.base import Backend

pytestmark = pytest.mark.anyio

COUNT = 300


@pytest.fixture
def scenario(backend_url: str) -> Scenario:
    backend = config.load(environ={}, overrides={"backend": backend_url}).backend
    if not config.find_backend(backend.scheme).capabilities(backend.options).deduplicates:
        pytest.skip("this backend does not record ids")
    return Scenario(backend_url)


def rides(scenario: Scenario, count: int) -> list[Record]:
    return scenario.records([Ride(n, 1.0) for n in range(count)], keys=[b"%d" % n for n in range(count)])


@pytest.mark.parametrize("batched", [True, False])
async def test_an_event_that_is_published_twice_is_answered_once(scenario: Scenario, batched: bool) -> None:
    called: list[int] = []

    if batched:

        @scenario.bus.predictor(scenario.topic, to=scenario.to, dedupe_window=1_000, max_batch=64)
        def duration(rides: list[Ride]) -> list[Duration]:
            called.extend(ride.ride_id for ride in rides)
            return [Duration(ride.ride_id, ride.miles) for ride in rides]

    else:

        @scenario.bus.predictor(scenario.topic, to=scenario.to, dedupe_window=1_000, name="duration")
        async def one(ride: Ride) -> Duration:
            called.append(ride.ride_id)
            return Duration(ride.ride_id, ride.miles)

    records = rides(scenario, COUNT)
    with anyio.fail_after(30):
        async with scenario.connect() as backend:
            async with scenario.working(backend) as worker:
                stats = worker.stats["duration"]
                await publish(backend, records)
                await publish(backend, records)
                await until(lambda: stats.completed == 2 * COUNT)
            await scenario.collect(backend, COUNT)
    scenario.check(answered=set(range(COUNT)), dead_letters=set())
    assert sorted(called) == list(range(COUNT))
    assert (stats.duplicates, stats.published) == (COUNT, COUNT)


async def test_a_duplicate_in_the_same_batch_waits_for_the_first_event(scenario: Scenario) -> None:
    called: list[int] = []

    @scenario.bus.consumer(scenario.topic, dedupe_window=1_000)
    async def record(ride: Ride) -> None:
        called.append(ride.ride_id)

    twins = [record for record in rides(scenario, 30) for _ in range(3)]
    with anyio.fail_after(30):
        async with scenario.connect() as backend:
            await publish(backend, twins)
            async with scenario.working(backend) as worker:
                await until(lambda: worker.stats["record"].completed == len(twins))
    assert sorted(called) == list(range(30))
    assert worker.stats["record"].duplicates == 60


@pytest.mark.parametrize("first", [b"not JSON", b'{"ride_id": 7, "miles": -1}'])
async def test_a_corrected_event_is_accepted_under_the_same_id(scenario: Scenario, first: bytes) -> None:
    """The first event became a dead letter: together with the corrected one, and before it."""

    @scenario.bus.predictor(scenario.topic, to=scenario.to, dedupe_window=1_000)
    def duration(ride: Ride) -> Duration:
        if ride.miles < 0:
            raise Reject("no ride goes backwards")
        return Duration(ride.ride_id, ride.miles)

    [bad] = scenario.records([first], keys=[b"0"])
    good = rides(scenario, 1)[0]
    with anyio.fail_after(30):
        async with scenario.connect() as backend:
            await publish(backend, [bad, good, good])
            async with scenario.working(backend) as worker:
                stats = worker.stats["duration"]
                await until(lambda: stats.completed == 3)
                await publish(backend, [bad])
                await until(lambda: stats.completed == 4)
            await scenario.collect(backend, 2)
    assert [len(scenario.outputs["0"]), len(scenario.dead_letters["0"])] == [1, 1]
    assert stats.duplicates == 2, "a third one, and a bad one, under an id that has been answered"


async def test_a_duplicate_waits_for_the_retries_of_the_first_event(scenario: Scenario) -> None:
    tries = 0

    @scenario.bus.predictor(scenario.topic, to=scenario.to, dedupe_window=100, backoff=0.05, max_batch=4)
    async def duration(ride: Ride) -> Duration:
        nonlocal tries
        if ride.ride_id == 0:
            tries += 1
            if tries < 3:
                raise RuntimeError("not yet")
        return Duration(ride.ride_id, ride.miles)

    records = rides(scenario, 8)
    with anyio.fail_after(30):
        async with scenario.connect() as backend:
            await publish(backend, records[:1] * 6 + records)  # more duplicates than a batch holds
            async with scenario.working(backend) as worker:
                await until(lambda: worker.stats["duration"].received == 14)
            # The worker was stopped while duplicates were waiting: it finished them all.
            assert worker.stats["duration"].completed == 14
            await scenario.collect(backend, 8)
    scenario.check(answered=set(range(8)), dead_letters=set())
    assert tries == 3


async def test_an_id_outside_the_window_is_no_duplicate(scenario: Scenario) -> None:
    called: list[int] = []

    @scenario.bus.consumer(scenario.topic, dedupe_window=10)
    async def record(ride: Ride) -> None:
        called.append(ride.ride_id)

    records = scenario.records([Ride(n, 1.0) for n in range(40)], keys=[b"one"] * 40)
    with anyio.fail_after(30):
        async with scenario.connect() as backend, scenario.working(backend) as worker:
            for part in (records, records[-10:], records[:1], records[-1:]):
                before = worker.stats["record"].completed
                await publish(backend, part)
                await until(lambda: worker.stats["record"].completed == before + len(part))  # noqa: B023
    assert called == [*range(40), 0]


async def test_a_replayed_dead_letter_is_called_though_its_id_is_recorded(scenario: Scenario) -> None:
    called: list[float] = []

    @scenario.bus.predictor(scenario.topic, to=scenario.to, dedupe_window=100, retries=0)
    def duration(ride: Ride) -> Duration:
        called.append(ride.miles)
        if len(called) == 1:
            raise Reject("once")
        return Duration(ride.ride_id, ride.miles)

    async def handle(backend: Backend, completed: int) -> None:
        async with scenario.working(backend) as worker:
            await until(lambda: worker.stats["duration"].completed == completed)

    bad, corrected = (scenario.records([Ride(0, miles)], keys=[b"0"]) for miles in (1.0, 2.0))
    with anyio.fail_after(30):
        async with scenario.connect() as backend:
            await publish(backend, bad)
            await handle(backend, 1)
            await publish(backend, corrected)
            await handle(backend, 1)
            report = await scenario.replay(backend)
            await handle(backend, 1)
            await publish(backend, corrected)
            await handle(backend, 1)
    assert report.chosen.total() == 1
    assert called == [1.0, 2.0, 1.0], "and the last one is a duplicate"


def test_a_window_of_no_ids_is_refused(scenario: Scenario) -> None:
    with pytest.raises(Exception, match="dedupe_window: expected `int` >= 1"):
        scenario.bus.consumer(scenario.topic, dedupe_window=0)(print)


async def test_a_backend_that_records_no_ids_refuses_it_at_start_up() -> None:
    """A backend that was written before the capability existed, and does not declare it."""

    class WithoutDedupe(InterceptingBackend):
        capabilities = Capabilities(
            ordering="per_key",
            redelivery="leave",
            atomic_completion=True,
            durable=False,
            counts_attempts=True,
            shared=False,
        )

    scenario = Scenario("memory://")
    scenario.bus.consumer(scenario.topic, dedupe_window=10, name="record")(print)
    async with scenario.connect() as backend:
        backend_without = WithoutDedupe(backend, lambda subscription, done: subscription.complete(done))
        async with scenario.bus.open(backend_without):
            with pytest.raises(
                UnsupportedError, match=r"consumer\.record\.dedupe_window: .* Or drop dedupe_window"
            ):
                async with scenario.bus.worker():
                    pass
