"""A producer publishes every event twice to two workers, one of which is killed meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.failures.scenario import Ride, Scenario, publish, until

if TYPE_CHECKING:
    from eventml.backends.base import Backend

ROOT = Path(__file__).parents[2]
COUNT = 1_000
IN_FLIGHT = 8 * 3  # of a handler: called, waiting for completion, being completed; `max_batch` each
pytestmark = pytest.mark.anyio


@pytest.fixture
def scenario(shared_backend_url: str) -> Scenario:
    kafka = shared_backend_url.startswith("kafka:")
    return Scenario(f"{shared_backend_url}&delivery=exactly_once" if kafka else shared_backend_url)


@pytest.mark.slow
async def test_events_that_are_published_twice_are_handled_once_though_a_worker_dies(
    scenario: Scenario, tmp_path: Path
) -> None:
    """Each has one output. A side effect is repeated only if its worker died before the ack."""
    scenario.bus.predictor(scenario.topic, to=scenario.to, name="duration")(lambda rides: rides)
    scenario.bus.consumer(scenario.topic, name="record")(lambda rides: None)
    rides = scenario.records(
        [Ride(n, 1.0) for n in range(2 * COUNT)], keys=[b"%d" % n for n in range(2 * COUNT)]
    )
    first = COUNT
    recorded = tmp_path / "calls"
    recorded.touch()
    with anyio.fail_after(110):
        async with scenario.connect() as backend:
            if not backend.capabilities.deduplicates:
                pytest.skip("this backend does not record ids")
            workers = [start(scenario, recorded) for _ in range(2)]
            try:
                while len({pid for _, pid in calls(recorded)}) < len(workers):  # until both take part
                    await publish(backend, rides[first : first + 10])
                    first += 10
                    await anyio.sleep(0.1)
                await publish(backend, rides[:COUNT] * 2)
                await until(lambda: len(calls(recorded)) > first - COUNT // 2)
                workers[0].kill()
                while await unfinished_events(scenario, backend):
                    await anyio.sleep(0.1)
            finally:
                for worker in workers:
                    worker.kill()
                    worker.wait()
            await scenario.collect(backend, first)
    scenario.check(answered=set(range(first)), dead_letters=set())
    pids: defaultdict[int, list[int]] = defaultdict(list)
    for number, pid in calls(recorded):
        pids[number].append(pid)
    assert set(pids) == set(range(first))
    again = {number: by for number, by in pids.items() if len(by) > 1}
    assert all(workers[0].pid in by for by in again.values()), again
    assert sum(len(by) - 1 for by in again.values()) <= IN_FLIGHT


def calls(recorded: Path) -> list[tuple[int, int]]:
    """The number of each event that was recorded, and the process that recorded it."""
    lines = (line.split() for line in recorded.read_text().splitlines())
    return [(int(number), int(pid)) for number, pid in lines]


def start(scenario: Scenario, recorded: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "RECORDING_BUS": scenario.bus.name,
        "RECORDING_IN": str(recorded),
    }
    command = [sys.executable, "-m", "eventml", "run", "tests.failures.recording:bus"]
    return subprocess.Popen([*command, "--backend", scenario.url], cwd=ROOT, env=environment)  # noqa: S603 - ours


async def unfinished_events(scenario: Scenario, backend: Backend) -> int:
    """How many events the groups have not finished."""
    groups = [handler.options.group for handler in scenario.bus.handlers.values()]
    lags = [await backend.lag(scenario.topic, group=group) for group in groups]
    return sum(sum(lag.values()) if lag is not None else COUNT for lag in lags)
