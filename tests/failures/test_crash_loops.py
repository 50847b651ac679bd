"""An event that kills its process is found and moved to the dead letters."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from subprocess import PIPE

import anyio
import pytest

from tests.failures.scenario import Ride, Scenario, publish

ROOT = Path(__file__).parents[2]
POISON = {13, 21}
COUNT = 60
MAX_DELIVERIES = 3  # the smallest: each one is the life of a process
pytestmark = pytest.mark.anyio


@pytest.fixture(params=["", "exactly_once"])
def scenario(shared_backend_url: str, request: pytest.FixtureRequest) -> Scenario:
    if not request.param:
        return Scenario(shared_backend_url)
    if not shared_backend_url.startswith("kafka:"):
        pytest.skip("only Kafka has this setting")
    return Scenario(f"{shared_backend_url}&delivery={request.param}")


@pytest.mark.slow
async def test_an_event_that_segfaults_its_process_costs_that_event_only(scenario: Scenario) -> None:
    scenario.bus.predictor(scenario.topic, to=scenario.to, name="duration", max_deliveries=MAX_DELIVERIES)(
        lambda rides: rides
    )
    async with scenario.connect() as backend:
        await publish(backend, scenario.records([Ride(n, 1.0) for n in range(COUNT)]))
        deaths = 0
        with anyio.fail_after(110):
            while await run_worker(scenario) == -signal.SIGSEGV:
                deaths += 1
        assert 0 < deaths <= (MAX_DELIVERIES + 1) * len(POISON)
        await scenario.collect(backend, COUNT)
    scenario.check(answered=set(range(COUNT)) - POISON, dead_letters=POISON)
    [letter] = scenario.dead_letters["13"]
    assert letter.headers["eventml-dlq-exception"] == "CrashLoopError"
    # A death counts against the events of one call, so the second one kills no worker more.
    deliveries = {int(scenario.reason(number).split("delivered ")[1].split()[0]) for number in POISON}
    assert deliveries == {MAX_DELIVERIES}


async def run_worker(scenario: Scenario) -> int:
    """Run a worker in a process, until it is idle or dies. Returns its exit status."""
    command = [sys.executable, "-m", "eventml", "run", "tests.failures.poisoned:bus"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "POISONED_BUS": scenario.bus.name,
        "POISON_MAX_DELIVERIES": str(MAX_DELIVERIES),
        "POISON_EVENTS": ",".join(map(str, POISON)),
    }
    done = await anyio.run_process(
        [*command, "--until-idle", "1", "--backend", scenario.url],
        cwd=ROOT,
        env=environment,
        check=False,
        stderr=PIPE,
    )
    assert done.returncode in {0, -signal.SIGSEGV}, done.stderr.decode()
    return done.returncode
