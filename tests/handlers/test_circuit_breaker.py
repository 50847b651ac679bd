"""A handler of which most events fail stops: a mistake costs few dead letters, and nothing is lost."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from eventml import Delivery, Record
from eventml.codec import Decoder
from eventml.errors import CircuitBreakerError, Reject
from eventml.runtime.failures.circuit_breaker import FailureWindow
from eventml.runtime.failures.exceptions import failure_cause
from tests.failures.scenario import publish, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.failures.scenario import Scenario

pytestmark = pytest.mark.anyio

EVENTS = 2_000


class Ride(msgspec.Struct):
    number: int


@given(size=st.integers(1, 12), events=st.lists(st.booleans(), max_size=60))
def test_the_window_counts_the_last_events(size: int, events: list[bool]) -> None:
    window = FailureWindow(size)
    for end, failed in enumerate(events, 1):
        if failed:
            assert window.failed() is (2 * sum(events[max(end - size, 0) : end]) > size)
        else:
            window.succeeded(1)


async def test_a_wrong_schema_costs_few_dead_letters(
    scenario: Scenario, caplog: pytest.LogCaptureFixture
) -> None:
    scenario.bus.predictor(scenario.topic, to=scenario.to, name="double")(double)
    records = scenario.records([b'{"number": "Anna Smith"}'] * EVENTS)
    with anyio.fail_after(120):
        async with scenario.connect() as backend:
            finished: list[bool] = []
            async with scenario.bus.open(backend), scenario.bus.worker() as worker:
                async with anyio.create_task_group() as tasks:

                    async def run() -> None:
                        finished.append(await worker.run())

                    tasks.start_soon(run)
                    await worker.ready.wait()
                    await publish(backend, records)
                    with pytest.raises(CircuitBreakerError, match="double has stopped: more than half of"):
                        await worker.idle(0.1)
                    worker.stop()
                stats = worker.stats["double"]
            assert finished == [False]
            assert 100 <= stats.dead_letters <= 200
            lines = [record.getMessage() for record in caplog.records if record.name == "eventml"]
            assert sum("double has stopped" in line for line in lines) == 1
            assert sum("moved to the dead letters" in line for line in lines) <= 3
            assert not any("Anna" in line for line in lines), "what is in an event stays in its dead letter"
            # Nothing is lost: those that were in flight go back, and what comes after them waits.
            scenario.bus.configure(
                scenario.bus.read_settings(
                    {"backend": scenario.url, "consumer": {"double": {"breaker_window": 0}}}
                )
            )
            async with scenario.working(backend) as worker:
                await until(lambda: worker.stats["double"].dead_letters == EVENTS - stats.dead_letters)
            await scenario.collect(backend, EVENTS)
    scenario.check(answered=set(), dead_letters=set(range(EVENTS)))


def double(ride: Ride) -> Ride:
    return Ride(2 * ride.number)


class Broken:
    """A handler that fails until it is mended."""

    def __init__(self) -> None:
        self.mended = False

    def each(self, ride: Ride) -> Ride:
        if not self.mended:
            raise ValueError("no such column")
        return ride

    async def at_once(self, ride: Ride) -> Ride:
        return self.each(ride)

    def batch(self, rides: list[Ride]) -> list[Ride]:
        return list(map(self.each, rides))


@pytest.mark.parametrize("form", ["each", "at_once", "batch"])
async def test_it_goes_on_once_events_pass(
    form: str, scenario: Scenario, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken()
    caplog.set_level(logging.WARNING, "eventml")
    register: Callable[..., Any] = scenario.bus.predictor(
        scenario.topic, to=scenario.to, name="copy", retries=0, backoff=0.01, max_backoff=0.1
    )
    register(getattr(broken, form))
    with anyio.fail_after(120):
        async with scenario.connect() as backend:
            async with scenario.working(backend) as worker:
                stats = worker.stats["copy"]
                await publish(backend, scenario.records(map(Ride, range(EVENTS))))
                await until(lambda: bool(stats.breaker_open))
                broken.mended = True
                await until(lambda: stats.completed == EVENTS)
                assert (stats.breaker_open, stats.dead_letters <= 200) == ("", True)
            await scenario.collect(backend, EVENTS)
    assert len(scenario.outputs) + len(scenario.dead_letters) == EVENTS
    lines = [record.getMessage() for record in caplog.records if record.name == "eventml"]
    assert [sum(text in line for line in lines) for text in ("has stopped", "goes on")] == [1, 1]


async def test_rejects_do_not_stop_a_handler(scenario: Scenario) -> None:
    @scenario.bus.predictor(scenario.topic, to=scenario.to)
    def choose(rides: list[Ride]) -> list[Ride | Reject]:
        return [ride if ride.number % 10 == 0 else Reject("not a tenth") for ride in rides]

    await scenario.run(list(map(Ride, range(EVENTS))))
    scenario.check(answered=set(range(0, EVENTS, 10)), dead_letters={n for n in range(EVENTS) if n % 10})


@pytest.mark.parametrize(
    ("type_", "value", "cause"),
    [
        (Ride, b'{"number": "Anna"}', "DecodeError: Expected `int`, got `str` at `$.number`"),
        (Ride, b"{}", "DecodeError: Object missing required field `number`"),
        (Ride, b'{"number": An', "DecodeError: JSON is malformed"),
        (Literal["Bob", "Cid"], b"\"it's Anna's\"", "DecodeError"),
        (Annotated[float, Meta(gt=0.5)], b"-1", "DecodeError: Expected `float` > 0.5"),
        (Annotated[int, Meta(multiple_of=3)], b"4", "DecodeError: Expected `int` that's a multiple of 3"),
        (Annotated[str, Meta(max_length=3)], b'"Anna"', "DecodeError: Expected `str` of length <= 3"),
        (Annotated[str, Meta(pattern="^B")], b'"Anna"', "DecodeError: Expected `str` matching regex"),
        (list[datetime], b'["Anna"]', "DecodeError: Invalid RFC3339 encoded datetime at `$`"),
        (dict[str, int], b'{"Anna": null}', "DecodeError: Expected `int`, got `null` at `$`"),
    ],
)
def test_the_cause_of_an_undecodable_event_has_none_of_its_values(
    type_: Any, value: bytes, cause: str
) -> None:
    [error] = Decoder(type_).decode([Delivery(Record("rides", value, id="Anna"), 0, 0, 0.0)])
    assert failure_cause(error) == cause


def test_the_cause_of_a_failure_is_where_it_was_raised() -> None:
    try:
        Broken().each(Ride(1))
    except ValueError as exc:
        cause = failure_cause(exc)
    assert re.fullmatch(r"ValueError at tests\.handlers\.test_circuit_breaker:\d+ in each", cause)


APP = """
from eventml import Bus

bus = Bus("rides")

@bus.consumer("rides.started")
def watch(ride: int) -> None:
    pass
"""


@pytest.mark.parametrize("workers", [[], ["--workers", "1", "--operations", "0"]])
def test_run_until_idle_ends_with_a_status_of_its_own(
    workers: list[str], redis_server: Any, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(APP.replace('Bus("rides")', f'Bus("rides{len(workers)}")'))
    (tmp_path / "rides.jsonl").write_text('"one"\n' * 300)
    env = {**os.environ, "EVENTML_BACKEND": redis_server.url}

    def eventml(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "eventml", *arguments],
            cwd=tmp_path, env=env, text=True, capture_output=True, timeout=60, check=False,
        )  # fmt: skip

    published = eventml("publish", "rides.started", "rides.jsonl")
    assert published.returncode == 0, published.stderr
    run = eventml("run", "app:bus", "--until-idle", "0.5", *workers)
    assert (run.returncode, "watch has stopped: more than half" in run.stderr) == (65, True), run.stderr


@pytest.mark.parametrize("form", ["each", "at_once", "batch"])
async def test_few_that_pass_do_not_close_it(form: str, scenario: Scenario) -> None:
    """15% pass. Each trial of few events could be one of those."""

    class Mostly(Broken):
        def each(self, ride: Ride) -> Ride:
            self.mended = ride.number % 20 < 3
            return super().each(ride)

    options: dict[str, Any] = {"retries": 0, "backoff": 0.001, "max_backoff": 0.01}
    scenario.bus.predictor(scenario.topic, to=scenario.to, name="most", **options)(getattr(Mostly(), form))
    with anyio.fail_after(60):
        async with scenario.connect() as backend, scenario.bus.open(backend), scenario.bus.worker() as worker:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(worker.run)
                await worker.ready.wait()
                await publish(backend, scenario.records(map(Ride, range(EVENTS))))
                stats = worker.stats["most"]
                await until(lambda: bool(stats.breaker_open))
                calls = stats.calls
                await until(lambda: stats.calls > calls + 300)
                worker.stop()
            assert stats.dead_letters <= 200
            await scenario.collect(backend, stats.dead_letters)


@pytest.mark.parametrize("form", ["each", "at_once", "batch"])
async def test_order_per_key_is_kept(form: str, scenario: Scenario) -> None:
    if scenario.url.startswith("redis"):
        pytest.skip("Redis keeps no order per key by default")
    broken = Broken()

    class Partly(Broken):
        def each(self, ride: Ride) -> Ride:
            self.mended = broken.mended or ride.number % 4 == 0
            return super().each(ride)

    options: dict[str, Any] = {"retries": 0, "backoff": 0.001, "max_backoff": 0.01, "breaker_window": 20}
    scenario.bus.predictor(scenario.topic, to=scenario.to, name="part", **options)(getattr(Partly(), form))
    rides = list(map(Ride, range(400)))
    with anyio.fail_after(60):
        async with scenario.connect() as backend:
            async with scenario.working(backend) as worker:
                stats = worker.stats["part"]
                keys = [b"ab"[n % 2 : n % 2 + 1] for n in range(400)]
                await publish(backend, scenario.records(rides, keys=keys))
                await until(lambda: bool(stats.breaker_open))
                calls = stats.calls
                await until(lambda: stats.calls > calls + 3)
                broken.mended = True
                await until(lambda: stats.completed == 400)
            await scenario.collect(backend, 400)
    for parity in range(2):
        found = [int(number) for number in scenario.outputs if int(number) % 2 == parity]
        assert found == sorted(found)
    assert len(scenario.outputs) + len(scenario.dead_letters) == 400


async def test_a_stop_lets_healthy_calls_finish(scenario: Scenario) -> None:
    begun: list[int] = []

    @scenario.bus.predictor(scenario.topic, to=scenario.to, retries=0, breaker_window=20)
    async def copy(ride: Ride) -> Ride:
        if ride.number >= 20:
            raise ValueError("no such column")
        begun.append(ride.number)
        await anyio.sleep(0.5)
        return ride

    with anyio.fail_after(60):
        async with scenario.connect() as backend, scenario.bus.open(backend), scenario.bus.worker() as worker:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(worker.run)
                await worker.ready.wait()
                stats = worker.stats["copy"]
                await publish(backend, scenario.records(map(Ride, range(60))))
                await until(lambda: bool(stats.breaker_open) and len(begun) == 20)
                worker.stop()
            assert (stats.published, sorted(begun)) == (20, list(range(20)))


class NoZone(Reject):
    """A reason of the app's own."""


@pytest.mark.parametrize("returned", [True, False])
async def test_a_reason_of_the_apps_own_is_a_reject(returned: bool, scenario: Scenario) -> None:
    def check(rides: list[Ride]) -> list[Reject | None]:
        return [NoZone("x") for _ in rides]

    def check_one(ride: Ride) -> None:
        raise NoZone("x")

    scenario.bus.consumer(scenario.topic, name="check")(check if returned else check_one)
    await scenario.run(list(map(Ride, range(300))))
    scenario.check(answered=set(), dead_letters=set(range(300)))


async def test_what_is_left_is_logged_when_a_worker_is_abandoned(
    scenario: Scenario, caplog: pytest.LogCaptureFixture
) -> None:
    scenario.bus.predictor(scenario.topic, to=scenario.to, name="copy", retries=0)(Broken().each)
    with anyio.fail_after(60):
        async with scenario.connect() as backend, scenario.working(backend) as worker:
            stats = worker.stats["copy"]
            await publish(backend, scenario.records(map(Ride, range(EVENTS))))
            await until(lambda: bool(stats.breaker_open) and stats.dead_letters == 100)
            worker.abandon()
    found = [re.search(r": (\d+) events? moved", record.message) for record in caplog.records]
    assert sum(int(one[1]) for one in found if one) == 100
