"""Canaries on each backend: two workers, trips with their true durations, and the command line."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import numpy as np
import pytest

from eventml import Bus, Model, Record, config
from eventml.bus import create_topics
from eventml.runtime import CanaryRecord, CanaryTrial, canary_topic
from eventml.runtime.model_versions.canary_trial import is_in_share
from examples.rides.events import DurationPredicted, RideStarted
from examples.rides.features import features
from tests.deploy.oracle import Oracle
from tests.deploy.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.canary.conftest import Month

pytestmark = pytest.mark.anyio

APPS = Path(__file__).with_name("apps")
CHUNK, CHUNKS = 1_000, 10
"""Rides that are published at once, with their true durations behind them, and how often at most."""


@pytest.fixture(params=["memory", "redis", "kafka"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "redis":
        return str(request.getfixturevalue("redis_server").url)
    if request.param == "kafka":
        return str(request.getfixturevalue("kafka_broker").url)
    return f"memory://{secrets.token_hex(4)}"


@pytest.fixture
def rides_of(request: pytest.FixtureRequest) -> Month:
    """Recorded trips where there are some, else generated ones."""
    month: Month = request.getfixturevalue("recorded" if os.environ.get("RIDES_TRIPS") else "generated")
    return month


class TooLong:
    """A model whose predictions are too long by 30%."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def predict(self, matrix: Any) -> Any:
        return 1.3 * self._model.predict(matrix)


class Rides:
    """Two workers of one app, whose canary is another model of trips; each ride has its zone as its key."""

    def __init__(self, url: str, month: Month, canary: Any) -> None:
        self.name = f"t{secrets.token_hex(4)}"
        self.month = month
        self.buses = [self._bus(url, Model(month.model(slice(None)), "all", "all"), canary) for _ in range(2)]
        self.published = 0

    def _bus(self, url: str, model: Model, canary: Model) -> Bus:
        bus = Bus(self.name)
        bus.configure(config.load(environ={}, overrides={"backend": url}))
        bus.topic(f"{self.name}.started", event_type=RideStarted, id_field="ride_id")

        @bus.predictor(f"{self.name}.started", to=f"{self.name}.duration", model=model)
        def duration(rides: list[RideStarted], model: Any) -> list[DurationPredicted]:
            minutes = model.predict(features(rides)).tolist()
            return [
                DurationPredicted(ride.ride_id, value) for ride, value in zip(rides, minutes, strict=True)
            ]

        bus.canary("duration", model=canary, share=0.1, truth=f"{self.name}.ended", error="minutes")
        return bus

    async def run(self, *, until_worse: bool) -> CanaryTrial:
        """Publish rides and their true durations. Returns what is known of the canary at the end."""
        with anyio.fail_after(240):
            async with AsyncExitStack() as stack:
                bus = await stack.enter_async_context(self.buses[0])
                await create_topics(bus)
                await stack.enter_async_context(self.buses[1])
                self.workers = [await stack.enter_async_context(one.worker()) for one in self.buses]
                tasks = await stack.enter_async_context(anyio.create_task_group())
                for worker in self.workers:
                    tasks.start_soon(worker.run)
                    await worker.ready.wait()
                for number in range(CHUNKS):
                    if until_worse and self._found_worse():
                        break
                    await self._publish(bus, slice(number * CHUNK, (number + 1) * CHUNK))
                rides = self.month.later[: self.published]
                keys = [str(ride.pickup_location_id).encode() for ride in rides]
                chosen = sum(is_in_share(Record("", b"", key), 0.1) for key in keys)
                while not (self._found_worse() if until_worse else await self._compared(bus, chosen)):
                    await anyio.sleep(0.1)
                found = await self._trial(bus)
                for worker in self.workers:
                    worker.stop()
        return found

    def _found_worse(self) -> bool:
        return all(worker.stats["duration"].canary_worse for worker in self.workers)

    async def _publish(self, bus: Bus, part: slice) -> None:
        rides = self.month.later[part]
        by_id = {ride.ride_id: str(ride.pickup_location_id) for ride in rides}
        await bus.publish_many(f"{self.name}.started", rides, key=lambda ride: by_id[ride.ride_id])
        self.published += len(rides)
        while sum(worker.stats["duration"].completed for worker in self.workers) < self.published:
            await anyio.sleep(0.02)
        truths = zip(rides, self.month.minutes[part].tolist(), strict=True)
        await bus.publish_many(f"{self.name}.ended", [{"id": r.ride_id, "minutes": m} for r, m in truths])

    async def _trial(self, bus: Bus) -> CanaryTrial:
        trial = CanaryTrial(CanaryRecord(version="canary", share=0.1), rolls_back=True)
        async for delivery in bus.read(canary_topic(bus.configured_handler("duration")), until="end"):
            trial.apply(msgspec.convert(delivery.event, CanaryRecord))
        return trial

    async def _compared(self, bus: Bus, rides: int) -> bool:
        """Whether so many errors are compared: each worker reports when it has a tenth more."""
        return (await self._trial(bus)).observations["errors"] >= rides / 1.1 - 2


async def test_a_worse_model_is_rolled_back_by_itself_within_10000_rides(url: str, rides_of: Month) -> None:
    rides = Rides(url, rides_of, Model(TooLong(rides_of.model(slice(None))), "long", "canary"))
    trial = await rides.run(until_worse=True)
    assert trial.share == 0.0
    assert "its errors are larger than error_tolerance allows" in trial.worse
    print(f"rolled back within {rides.published} rides: {trial.worse}")  # noqa: T201 - a figure for the docs


async def test_an_equal_model_stays(url: str, rides_of: Month) -> None:
    """It was trained on the same trips without each tenth."""
    rows = np.arange(len(rides_of.trained))
    equal = rides_of.model(rows[rows % 10 > 0])
    rides = Rides(url, rides_of, Model(equal, "most", "canary"))
    trial = await rides.run(until_worse=False)
    assert rides.published == CHUNK * CHUNKS
    assert (trial.share, trial.worse) == (0.1, "")
    assert trial.observations["errors"] > 300


# The command line, over processes


def eventml(env: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "eventml", *arguments],
        cwd=APPS,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def name() -> str:
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def service(url: str, name: str, tmp_path: Path) -> Iterator[Service]:
    options = ("--workers", "2", "--operations", "0")
    variables = {"APP": name, "EVENTML_BACKEND": url}
    eventml({**os.environ, **variables}, "topics", "create", "canary_app:bus")
    service = Service(tmp_path / "log", *options, app="canary_app:bus", env=variables, apps=APPS)
    yield service
    print(service.text)  # noqa: T201 - shown where the test fails
    service.kill()


@pytest.mark.parametrize("url", ["redis", "kafka"], indirect=True)
def test_the_share_is_set_on_all_workers(service: Service, url: str, name: str) -> None:
    env = {**os.environ, "APP": name, "EVENTML_BACKEND": url}

    def canary(*options: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(eventml(env, "canary", "canary_app:answer", *options))
        return found

    oracle = Oracle(url, name)

    def totals(numbers: int) -> set[int]:
        first = oracle.published
        oracle.publish(numbers)
        oracle.collect(within=60)
        answers = [json.loads(oracle.answers[str(n)][0].value) for n in range(first, oracle.published)]
        return {answer["total"] - answer["number"] for answer in answers}

    oracle.publish(1)
    service.until_ready()
    assert totals(100) == {1}
    assert canary() == {"version": "ten", "share": 0.0, "worse": "", "observations": canary()["observations"]}
    for share, expected, text in ((1.0, {10}, "1"), (0.5, {1, 10}, "0.5"), (0.0, {1}, "0")):
        assert canary("--share", text)["share"] == share
        times = 2 * (2 if share == 0.0 else 1)  # it was 0 at the start
        service.until_logged(rf"its canary ten answers for {text} of the keys", times)
        assert totals(100) == expected
        assert canary()["share"] == share
    assert service.metric("eventml_canary_events_total", handler="answer") > 100
    assert service.stop() == 0
