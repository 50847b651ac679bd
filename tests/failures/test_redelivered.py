"""Redelivered events, which a worker before did not finish."""

from __future__ import annotations

import anyio
import pytest

from tests.failures.scenario import Duration, Ride, Scenario, publish, until

pytestmark = pytest.mark.anyio

COUNT = 20


@pytest.mark.parametrize("max_batch", [1, 4])
async def test_redelivered_event_that_fails_is_tried_again(scenario: Scenario, max_batch: int) -> None:
    failures = 0

    @scenario.bus.predictor(scenario.topic, to=scenario.to, backoff=0.01, retries=2, max_batch=max_batch)
    async def duration(ride: Ride) -> Duration:
        nonlocal failures
        if ride.ride_id == 0 and failures < 2:
            failures += 1
            raise RuntimeError("not yet")
        return Duration(ride.ride_id, ride.miles)

    with anyio.fail_after(60):
        async with scenario.connect() as backend:
            await publish(backend, scenario.records([Ride(n, 1.0) for n in range(COUNT)]))
            group = scenario.bus.handlers["duration"].options.group
            async with backend.subscribe([scenario.topic], group=group, start="earliest") as earlier:
                received = 0
                while received < COUNT:  # by a worker that leaves without finishing any
                    received += len(await earlier.receive(COUNT))
            async with scenario.working(backend) as worker:
                await until(lambda: worker.stats["duration"].completed == COUNT)
            await scenario.collect(backend, COUNT)
    scenario.check(answered=set(range(COUNT)), dead_letters=set())
