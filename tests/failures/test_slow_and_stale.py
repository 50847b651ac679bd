"""Handlers that take too long, and events that come too late."""

from __future__ import annotations

import time

import anyio
import pytest

from tests.failures.scenario import Duration, Ride, Scenario

pytestmark = pytest.mark.anyio

RIDES = [Ride(number, 1.0) for number in range(12)]


async def test_coroutine_past_its_timeout_is_set_aside_and_the_others_answered(scenario: Scenario) -> None:
    @scenario.bus.predictor(scenario.topic, to=scenario.to, timeout=0.2, retries=0)
    async def duration(ride: Ride) -> Duration:
        if ride.ride_id == 5:
            await anyio.sleep_forever()
        return Duration(ride.ride_id, ride.miles)

    await scenario.run(RIDES)
    scenario.check(answered=set(range(12)) - {5}, set_aside={5})
    assert "ran past its timeout of 0.2 s" in scenario.reason(5)


async def test_thread_past_its_timeout_is_abandoned_and_the_stream_goes_on(scenario: Scenario) -> None:
    @scenario.bus.predictor(scenario.topic, to=scenario.to, timeout=0.2, retries=0, max_batch=4)
    def duration(rides: list[Ride]) -> list[Duration]:
        if any(ride.ride_id == 5 for ride in rides):
            time.sleep(0.6)
        return [Duration(ride.ride_id, ride.miles) for ride in rides]

    await scenario.run(RIDES)
    scenario.check(answered=set(range(12)) - {5}, set_aside={5})


async def test_stale_events_are_dead_letters_by_default(scenario: Scenario) -> None:
    @scenario.bus.predictor(scenario.topic, to=scenario.to, max_batch=1, max_age=0.05)
    async def duration(ride: Ride) -> Duration:
        await anyio.sleep(0.2 if ride.ride_id == 0 else 0)
        return Duration(ride.ride_id, ride.miles)

    await scenario.run(RIDES)
    scenario.check(answered={0}, set_aside=set(range(1, 12)))
    assert "old when its turn came" in scenario.reason(7)
    assert scenario.stats.stale == 11


async def test_fallback_answers_for_stale_events(scenario: Scenario) -> None:
    @scenario.bus.predictor(
        scenario.topic,
        to=scenario.to,
        max_batch=1,
        max_age=0.05,
        when_stale=lambda ride: Duration(ride.ride_id, -1.0),
    )
    async def duration(ride: Ride) -> Duration:
        await anyio.sleep(0.2)
        return Duration(ride.ride_id, ride.miles)

    await scenario.run(RIDES)
    scenario.check(answered=set(range(12)), set_aside=set())
    assert b"-1.0" in scenario.outputs["11"][0].value


async def test_stale_events_can_be_dropped_and_are_counted(scenario: Scenario) -> None:
    @scenario.bus.predictor(scenario.topic, to=scenario.to, max_batch=1, max_age=0.05, when_stale="drop")
    async def duration(ride: Ride) -> Duration:
        await anyio.sleep(0.2)
        return Duration(ride.ride_id, ride.miles)

    await scenario.run(RIDES)
    assert scenario.letters == {}
    assert len(scenario.outputs) == 12 - scenario.stats.stale > 0
    assert scenario.stats.stale > 0
