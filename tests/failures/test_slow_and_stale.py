"""Handlers that run past their timeout, and events that are older than `max_age`."""

from __future__ import annotations

import time
from functools import partial

import anyio
import pytest

from eventml.runtime.failures import retry
from tests.failures.intercepting import InterceptingBackend
from tests.failures.scenario import Duration, Ride, Scenario

pytestmark = pytest.mark.anyio

RIDES = [Ride(number, 1.0) for number in range(12)]


async def test_event_whose_coroutine_runs_past_its_timeout_is_a_dead_letter(scenario: Scenario) -> None:
    @scenario.bus.predictor(scenario.topic, to=scenario.to, timeout=0.2, retries=0)
    async def duration(ride: Ride) -> Duration:
        if ride.ride_id == 5:
            await anyio.sleep_forever()
        return Duration(ride.ride_id, ride.miles)

    await scenario.run(RIDES)
    scenario.check(answered=set(range(12)) - {5}, dead_letters={5})
    assert "ran past its timeout of 0.2 s" in scenario.reason(5)


async def test_thread_past_its_timeout_is_reported_and_the_stream_goes_on(
    scenario: Scenario, caplog: pytest.LogCaptureFixture
) -> None:
    @scenario.bus.predictor(scenario.topic, to=scenario.to, timeout=0.2, retries=0, max_batch=4)
    def duration(rides: list[Ride]) -> list[Duration]:
        if any(ride.ride_id == 5 for ride in rides):
            time.sleep(0.6)
        return [Duration(ride.ride_id, ride.miles) for ride in rides]

    await scenario.run(RIDES)
    scenario.check(answered=set(range(12)) - {5}, dead_letters={5})
    [reported] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"][-1:]
    assert "cannot be stopped" in reported
    assert scenario.stats.abandoned >= 3, "the batch, and its parts that contain the event"


async def test_coroutine_past_its_timeout_leaves_no_thread(scenario: Scenario) -> None:
    @scenario.bus.predictor(scenario.topic, to=scenario.to, timeout=0.1, retries=0, max_batch=4)
    async def duration(rides: list[Ride]) -> list[Duration]:
        if any(ride.ride_id == 5 for ride in rides):
            await anyio.sleep_forever()
        return [Duration(ride.ride_id, ride.miles) for ride in rides]

    await scenario.run(RIDES)
    scenario.check(answered=set(range(12)) - {5}, dead_letters={5})
    assert scenario.stats.abandoned == 0


async def test_slow_handler_is_not_called_for_every_event_of_a_bad_batch(scenario: Scenario) -> None:
    calls = 0

    @scenario.bus.predictor(
        scenario.topic, to=scenario.to, retries=0, bisect_for=0.2, max_batch=256, breaker_window=0
    )
    def duration(rides: list[Ride]) -> list[Duration]:
        nonlocal calls
        calls += 1
        time.sleep(0.02)
        if any(ride.ride_id >= 4 for ride in rides):
            raise ValueError("a bad one")
        return [Duration(ride.ride_id, ride.miles) for ride in rides]

    whole = partial(InterceptingBackend, at_least=256)
    await scenario.run([Ride(number, 1.0) for number in range(256)], wrap=whole)
    assert calls == 17, "what one bad event takes, more than 0.2 s; 505 calls would have settled all"
    scenario.check(answered={0, 1, 2, 3}, dead_letters=set(range(4, 256)))
    assert scenario.reason(255) == "ValueError: a bad one"


async def test_stale_events_are_dead_letters_by_default(scenario: Scenario) -> None:
    @scenario.bus.predictor(scenario.topic, to=scenario.to, max_batch=1, concurrency=1, max_age=0.5)
    async def duration(ride: Ride) -> Duration:
        await anyio.sleep(1 if ride.ride_id == 0 else 0)
        return Duration(ride.ride_id, ride.miles)

    await scenario.run(RIDES)
    scenario.check(answered={0}, dead_letters=set(range(1, 12)))
    assert "old when its turn came" in scenario.reason(7)
    assert scenario.stats.stale == 11


async def test_stale_events_are_answered_by_the_fallback(scenario: Scenario) -> None:
    @scenario.bus.predictor(
        scenario.topic,
        to=scenario.to,
        max_batch=1,
        concurrency=1,
        max_age=0.5,
        when_stale=lambda ride: Duration(ride.ride_id, -1.0),
    )
    async def duration(ride: Ride) -> Duration:
        await anyio.sleep(1)
        return Duration(ride.ride_id, ride.miles)

    await scenario.run(RIDES)
    scenario.check(answered=set(range(12)), dead_letters=set())
    assert b"-1.0" in scenario.outputs["11"][0].value


async def test_stale_events_can_be_dropped_and_are_counted(scenario: Scenario) -> None:
    @scenario.bus.predictor(
        scenario.topic, to=scenario.to, max_batch=1, concurrency=1, max_age=0.5, when_stale="drop"
    )
    async def duration(ride: Ride) -> Duration:
        await anyio.sleep(1)
        return Duration(ride.ride_id, ride.miles)

    await scenario.run(RIDES)
    assert scenario.dead_letters == {}
    assert len(scenario.outputs) == 12 - scenario.stats.stale > 0
    assert scenario.stats.stale > 0


@pytest.mark.parametrize("single", [True, False])
async def test_an_event_that_waited_behind_a_retry_may_be_stale(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch, single: bool
) -> None:
    if scenario.url.startswith("redis"):
        pytest.skip("Redis keeps no order per key by default, so none waits")
    monkeypatch.setattr(retry, "backoff_delay", lambda *_: 0.8)
    called: list[int] = []

    def one(ride: Ride) -> Duration:
        called.append(ride.ride_id)
        if called == [0]:
            raise ValueError("once more")
        return Duration(ride.ride_id, ride.miles)

    async def one_coroutine(ride: Ride) -> Duration:
        return one(ride)

    handler = one_coroutine if single else one
    scenario.bus.predictor(scenario.topic, to=scenario.to, name="duration", max_age=0.5)(handler)
    await scenario.run(RIDES[:2], keys=[b"k", b"k"])
    assert called == [0, 0]
    scenario.check(answered={0}, dead_letters={1})
    assert "old when its turn came" in scenario.reason(1)
