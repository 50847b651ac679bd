"""Handlers of single events that make many calls at once: how many, in which order, what a failure costs."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventml import Bus, Reject
from eventml.testing import TestBus
from tests.failures.scenario import publish, until

if TYPE_CHECKING:
    from tests.failures.scenario import Scenario

pytestmark = pytest.mark.anyio


class Job(msgspec.Struct):
    number: int
    key: str = ""
    steps: int = 1
    failures: int = 0


class Calls:
    """What a handler saw: how many calls ran at once, and the order of their ends by key."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.of_key: Counter[str] = Counter()
        self.times: Counter[int] = Counter()
        self.ended: defaultdict[str, list[int]] = defaultdict(list)

    async def handle(self, job: Job) -> None:
        self.times[job.number] += 1
        self.running += 1
        self.of_key[job.key] += 1
        self.most = max(self.most, self.running)
        assert not job.key or self.of_key[job.key] == 1, "one call at a time for each key"
        try:
            for _ in range(job.steps):
                await anyio.lowlevel.checkpoint()
            if self.times[job.number] <= job.failures:
                raise ValueError("once more")
            self.ended[job.key].append(job.number)
        finally:
            self.running -= 1
            self.of_key[job.key] -= 1


def app(calls: Calls, **options: int) -> Bus:
    bus = Bus("jobs")
    bus.consumer("jobs", name="work", backoff=0.0, **options)(calls.handle)  # type: ignore[arg-type]
    return bus


async def test_as_many_calls_at_once_as_there_may_be() -> None:
    calls = Calls()

    @(bus := Bus("jobs")).predictor("jobs", to="done")
    async def work(job: Job) -> Job:
        calls.running += 1
        calls.most = max(calls.most, calls.running)
        await anyio.sleep(0.02)
        calls.running -= 1
        return job

    async with TestBus(bus) as test:
        await test.publish_many("jobs", map(Job, range(256)))
        assert sorted(job.number for job in test.published("done")) == list(range(256))
    assert calls.most == 64


async def test_a_slow_call_holds_back_its_key_only() -> None:
    release, ended = anyio.Event(), list[int]()

    @(bus := Bus("jobs")).consumer("jobs")
    async def work(job: Job) -> None:
        if job.number == 0:
            await release.wait()
        ended.append(job.number)
        if len(ended) == 15:  # all of the other key
            release.set()

    jobs = [Job(number, "ab"[number % 2]) for number in range(30)]
    async with TestBus(bus) as test:
        await test.publish_many("jobs", jobs, key=lambda job: job.key)
    assert ended == [*range(1, 30, 2), *range(0, 30, 2)]


@settings(max_examples=60)
@given(
    jobs=st.lists(
        st.tuples(st.sampled_from(["", "a", "b", "c"]), st.integers(0, 6), st.sampled_from([0, 0, 0, 1, 3])),
        max_size=40,
    ),
    concurrency=st.integers(1, 8),
)
def test_order_per_key_and_each_event_once(jobs: list[tuple[str, int, int]], concurrency: int) -> None:
    made = [Job(number, *job) for number, job in enumerate(jobs)]
    calls = Calls()

    async def run() -> set[int]:
        async with TestBus(app(calls, concurrency=concurrency, retries=2)) as test:
            await test.publish_many("jobs", made, key=lambda job: job.key or None)
            return {msgspec.json.decode(dead.record.value, type=Job).number for dead in test.dead_letters()}

    given_up = anyio.run(run)
    assert given_up == {job.number for job in made if job.failures > 2}
    for key in {job.key for job in made} - {""}:
        assert calls.ended[key] == [j.number for j in made if j.key == key and j.failures <= 2]
    assert sorted(calls.ended[""]) == [j.number for j in made if not j.key and j.failures <= 2]
    assert all(calls.times[job.number] == min(job.failures, 2) + 1 for job in made), (
        "only the failed are called again"
    )
    assert calls.most <= concurrency


async def test_threads_of_a_plain_function() -> None:
    barrier = threading.Barrier(8, timeout=5)

    @(bus := Bus("jobs")).consumer("jobs", concurrency=8)
    def work(job: Job) -> None:
        barrier.wait()  # passes only if eight calls are made at once

    async with TestBus(bus) as test:
        await test.publish_many("jobs", map(Job, range(16)))
        assert test.dead_letters() == []


async def test_on_every_backend(scenario: Scenario) -> None:
    calls = Calls()

    @scenario.bus.predictor(scenario.topic, to=scenario.to, concurrency=16, retries=1, backoff=0.001)
    async def work(job: Job) -> Job | Reject:
        await calls.handle(job)
        return job if job.number % 10 else Reject("a tenth")

    jobs = [
        Job(number, "abc"[number % 3], number % 4, failures=int(number % 7 == 0)) for number in range(200)
    ]
    keys = [job.key.encode() for job in jobs]
    await scenario.run(jobs, keys=keys)
    scenario.check(answered={n for n in range(200) if n % 10}, dead_letters=set(range(0, 200, 10)))
    assert 1 < calls.most <= 16
    assert all(calls.times[job.number] == 1 + job.failures for job in jobs)
    if not scenario.url.startswith("redis"):  # which keeps no order per key by default
        for key in "abc":
            assert calls.ended[key] == [job.number for job in jobs if job.key == key]


async def test_calls_are_finished_before_the_worker_stops(scenario: Scenario) -> None:
    begun = anyio.Event()

    @scenario.bus.predictor(scenario.topic, to=scenario.to)
    async def work(job: Job) -> Job:
        begun.set()
        await anyio.sleep(0.2)
        return job

    with anyio.fail_after(60):
        async with scenario.connect() as backend:
            async with scenario.working(backend) as worker:
                await publish(backend, scenario.records(map(Job, range(20))))
                await until(lambda: worker.stats["work"].received == 20)
                await begun.wait()
            assert (worker.in_flight, worker.stats["work"].published) == (0, 20)
