"""Workers were killed again and again, and events that they had only read ahead became dead letters."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from tests.failures.scenario import Ride, Scenario, publish
from tests.limits import started

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
COUNT: Final = 12
KILLED_IN: Final = (1, 5, 6)
"""Events in whose calls the workers are killed. All of them had read event 6, and only the last called it."""

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(params=["redis", "kafka"])
def scenario(request: pytest.FixtureRequest) -> Scenario:
    if request.param == "redis":
        return Scenario(f"{request.getfixturevalue('redis_server').url}?lease=1")
    return Scenario(f"{request.getfixturevalue('kafka_broker').url}?session_timeout=6")


async def test_only_events_in_the_call_count_when_a_worker_is_killed(scenario: Scenario) -> None:
    """With `max_deliveries=3`, an event that four workers received, and that one died with, is answered."""
    scenario.bus.predictor(scenario.topic, to=scenario.to, name="duration", max_deliveries=3)(
        lambda rides: rides
    )
    async with scenario.connect() as backend:
        await publish(backend, scenario.records([Ride(n, 1.0) for n in range(COUNT)]))
        with anyio.fail_after(110):
            for event in KILLED_IN:
                await anyio.to_thread.run_sync(kill_a_worker, scenario, event)
            await anyio.to_thread.run_sync(finish, scenario)
        await scenario.collect(backend, COUNT)
    scenario.check(answered=set(range(COUNT)), dead_letters=set())


@contextmanager
def worker(scenario: Scenario, event: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "eventml", "run", "tests.field.killed_app:bus", *options]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "KILLED_BUS": scenario.bus.name,
        "KILLED_IN": str(event),
    }
    command += ["--backend", scenario.url]
    with started(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as process:
        yield process


def kill_a_worker(scenario: Scenario, event: int) -> None:
    """Kill a worker while its handler is called with an event."""
    with worker(scenario, event) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in the call\n"
        process.kill()


def finish(scenario: Scenario) -> None:
    """Run a worker that completes all that is left."""
    with worker(scenario, -1, "--until-idle", "1") as process:
        assert process.wait() == 0
