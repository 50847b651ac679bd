"""Malformed payloads among good ones: good ones are answered, bad ones are dead letters, memory is flat."""

from __future__ import annotations

import gc
import logging
import secrets
from array import array
from itertools import count as counting
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any
from zlib import crc32

import anyio
import pytest

from eventml import Record
from eventml.backends.base import Completion
from eventml.records import NO_HEADERS
from examples.rides.events import DurationPredicted, RideStarted
from tests.failures import fuzzer
from tests.failures.scenario import Scenario, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventml.backends.base import Backend
    from eventml.runtime.stats import Stats

pytestmark = pytest.mark.anyio

CHUNK = 500
FLAT = 24 * 2**20  # bytes: what RSS may grow by between a quarter of the way and its end


@pytest.fixture
def fuzzed_url(request: pytest.FixtureRequest) -> str:
    return f"memory://{secrets.token_hex(4)}?retention=10000"


@pytest.fixture
def small_heap() -> Iterator[None]:
    """Collect garbage as often as in a worker: not less often because of what tests left in memory."""
    gc.freeze()
    gc.collect()  # the next collection depends on what is left
    yield
    gc.unfreeze()


@pytest.mark.slow
@pytest.mark.usefixtures("small_heap")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="it reads its memory from /proc")
async def test_hundred_thousand_malformed_among_as_many_good_ones_in_flat_memory(fuzzed_url: str) -> None:
    fuzz = Fuzz(Scenario(fuzzed_url), 200_000, seed=1)
    await fuzz.run()
    fuzz.check()
    assert fuzz.memory[-1] - fuzz.memory[len(fuzz.memory) // 4] < FLAT, fuzz.memory


async def test_malformed_payloads_among_good_ones(scenario: Scenario) -> None:
    fuzz = Fuzz(scenario, 10_000, seed=2)
    await fuzz.run()
    fuzz.check()


class Fuzz:
    """Good and malformed events in equal parts, published, handled and read back all at once.

    Attributes:
        memory: This process's, in bytes, in the course of it.
    """

    def __init__(self, scenario: Scenario, events: int, *, seed: int) -> None:
        self.scenario = scenario
        self.events = events
        self.memory: list[int] = []
        self._seed = seed
        self._answered = bytearray(events)
        self._failed = bytearray(events)
        self._sums = array("Q", bytes(8 * events))
        self._altered = 0
        scenario.bus.predictor(scenario.topic, to=scenario.to, name="duration", breaker_window=0)(
            self._duration
        )

    async def run(self) -> None:
        with anyio.fail_after(110):
            async with (
                self.scenario.connect() as backend,
                self.scenario.working(backend) as worker,
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(self._read, backend, self.scenario.to, self._answered)
                tasks.start_soon(self._read, backend, self.scenario.dead_letter_topics[0], self._failed)
                await self._publish(backend, worker.stats["duration"])
                await until(lambda: self._answered.count(1) + self._failed.count(1) >= self.events)
                await anyio.sleep(0.2)  # a duplicate would arrive now
                tasks.cancel_scope.cancel()

    def check(self) -> None:
        """Half of them are answered and half are dead letters, each once, with their values unchanged."""
        assert list(self._answered) == [1, 0] * (self.events // 2)
        assert list(self._failed) == [0, 1] * (self.events // 2)
        assert not self._altered

    @staticmethod
    def _duration(rides: list[RideStarted]) -> list[DurationPredicted]:
        return [DurationPredicted(ride.ride_id, ride.trip_distance * 4) for ride in rides]

    def _records(self) -> Iterator[Record]:
        """Even ones are good; the odd ones are not."""
        random = Random(self._seed)
        for number in range(self.events):
            make = random.choice(fuzzer.MALFORMED if number % 2 else fuzzer.GOOD)
            value, headers = make(random, fuzzer.ride(random, str(number)))
            self._sums[number] = crc32(value)
            yield Record(self.scenario.topic, value, None, str(number), headers or NO_HEADERS)

    async def _publish(self, backend: Backend, stats: Stats) -> None:
        chunk: list[Record] = []
        for position, record in zip(counting(1), self._records(), strict=False):
            chunk.append(record)
            if position % CHUNK == 0:
                await backend.publish(chunk)
                chunk = []
                while stats.in_flight + position - stats.received > 10 * CHUNK:
                    await anyio.sleep(0.005)
                if position % (20 * CHUNK) == 0:
                    self.memory.append(_resident())

    async def _read(self, backend: Backend, topic: str, seen: bytearray) -> None:
        async with backend.subscribe([topic], group="test", start="earliest") as subscription:
            while True:
                deliveries = await subscription.receive(1000)
                for delivery in deliveries:
                    number = int(delivery.record.id.split("/")[0])
                    seen[number] += 1
                    if topic != self.scenario.to:
                        self._altered += crc32(delivery.record.value) != self._sums[number]
                await subscription.complete([Completion(delivery) for delivery in deliveries])


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[Any]:
    """Pytest would keep the log line of each dead letter in memory."""
    log = logging.getLogger("eventml")
    level = log.level
    log.setLevel(logging.ERROR)
    yield
    log.setLevel(level)
