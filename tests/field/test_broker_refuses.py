"""The broker answers, but refuses a handler its events or their completion, and the service is "ready"."""

from __future__ import annotations

import logging
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import pytest

import eventml
from eventml.backends import redis
from eventml.backends.memory import Hub
from eventml.deploy.workers import HealthLimits, answer_operations, readiness, watch_health
from eventml.deploy.workers.readiness import unready_reasons
from eventml.deploy.workers.reports import HandlerReport, ServiceStatus, WorkerStatus
from eventml.errors import BackendError, UnavailableError
from eventml.runtime import worker as running
from eventml.runtime.failures.outages import BrokerRetry
from eventml.runtime.stats import Stats
from tests.redis import scene

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from backends.redis.server import RedisServer
    from eventml.backends.base import Backend, Completion, Start, Subscription
    from eventml.records import Delivery
    from eventml.runtime import Worker
    from tests.brokers import StartRedis

pytestmark = pytest.mark.anyio


class Refusing:
    """A subscription that refuses what its hub says; after an error it says when it can read again."""

    def __init__(self, subscription: Subscription, hub: RefusingHub) -> None:
        self._subscription = subscription
        self._hub = hub
        self._failed = False

    async def receive(self, limit: int) -> Sequence[Delivery]:
        if "receive" in self._hub.refuses:
            self._failed = True
            raise BackendError("no permission to read")
        if self._failed:
            self._failed = False
            return ()
        return await self._subscription.receive(limit)

    async def complete(self, done: Sequence[Completion]) -> None:
        if "complete" in self._hub.refuses:
            raise BackendError("no permission to write")
        await self._subscription.complete(done)

    async def lag(self) -> int | None:
        return None if "lag" in self._hub.refuses else await self._subscription.lag()


class RefusingHub(Hub):
    """A hub in memory whose administrator takes permissions away."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses: set[str] = set()

    @asynccontextmanager
    async def subscribe(
        self, topics: Sequence[str], *, group: str | None, start: Start
    ) -> AsyncIterator[Subscription]:
        async with super().subscribe(topics, group=group, start=start) as subscription:
            yield Refusing(subscription, self)


def make_bus(topic: str = "numbers", to: str = "doubled") -> eventml.Bus:
    bus = eventml.Bus("refused")

    @bus.predictor(topic, to=to, group="group")
    async def double(numbers: list[int]) -> list[dict[str, int]]:
        return [{"is": 2 * number} for number in numbers]

    return bus


class Service(NamedTuple):
    """A worker in this process, and what `/readyz` answers about it."""

    worker: Worker
    readyz: Callable[[], tuple[int, str]]


@asynccontextmanager
async def served(bus: eventml.Bus, backend: Backend) -> AsyncIterator[Service]:
    """Run the handlers of a bus."""
    async with bus.open(backend), bus.worker() as worker, anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await worker.ready.wait()
        async with watch_health(bus.name, worker, HealthLimits()) as status:

            def readyz() -> tuple[int, str]:
                code, body, _ = answer_operations("/readyz", status)
                return int(code), body.decode()

            assert readyz() == (200, "ok\n")
            yield Service(worker, readyz)
        worker.abandon()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "FAILING_AFTER", 0.3)


def about(caplog: pytest.LogCaptureFixture, step: str) -> list[tuple[str, str]]:
    """Level and start of each line above DEBUG about a step."""
    found = [r for r in caplog.records if r.levelno > logging.DEBUG and f"double: {step} " in r.message]
    return [(r.levelname, " ".join(r.message.split()[:3])) for r in found]


@pytest.mark.parametrize("step", ["receive", "complete"])
async def test_readiness_names_the_step_and_the_reason_and_comes_back(
    step: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bus, hub = make_bus(), RefusingHub()
    with anyio.fail_after(30):
        async with served(bus, hub) as (_, readyz):
            hub.refuses = {step}
            await bus.publish("numbers", 1)  # the receive under way returns it
            await scene.until(lambda: readyz()[0] == 503, "still ready")
            expected = rf"worker: {step} of double has failed for \d+ s: BackendError: no permission to \w+\n"
            assert re.fullmatch(expected, readyz()[1])
            hub.refuses = set()
            await scene.until(lambda: readyz() == (200, "ok\n"), "not ready again")
    assert about(caplog, step) == [("WARNING", f"double: {step} fails"), ("INFO", f"double: {step} succeeds")]


async def test_a_step_that_fails_every_other_time_is_one_outage(caplog: pytest.LogCaptureFixture) -> None:
    """One partition of a topic cannot be read, and another can."""
    caplog.set_level(logging.INFO)
    stats = Stats()
    retry, since = BrokerRetry("double", "receive", stats), set()
    for _ in range(4):
        await retry.wait(BackendError("a bad partition"))
        since.add(stats.failing["receive"].since)
        retry.succeeded()
        assert not stats.failing
    assert len(since) == 1
    assert len(about(caplog, "receive")) == 2


def test_a_supervisor_joins_the_readiness_of_its_workers() -> None:
    def worker(name: str, seconds: float, silence: float = 0.0, **options: Any) -> WorkerStatus:
        report = HandlerReport(group="g", failing={"receive": (seconds, "NOPERM")})
        options = {"state": "ready", **options}
        return WorkerStatus(name=name, pid=1, silence=silence, handlers={"tip": report}, **options)

    workers = [
        worker("worker-1", 0.1),
        worker("worker-2", 31),
        worker("worker-3", 0.2, silence=0.2),
        worker("worker-4", 99, state="draining"),
        worker("worker-4", 0),
    ]
    assert unready_reasons(ServiceStatus(bus="b", workers=workers), None) == [
        "worker-2: receive of tip has failed for 31 s: NOPERM",
        "worker-3: receive of tip has failed for 0 s: NOPERM",
    ]


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        ({"lag"}, "the lag of double is unknown"),
        ({"receive"}, "receive of double fails: BackendError: no permission to read"),
        ({"complete"}, "complete of double fails: BackendError: no permission to write"),
    ],
)
async def test_a_job_does_not_end_well_while_it_is_unknown_whether_events_are_left(
    refused: set[str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_IDLE_UNKNOWN", 0.3)
    bus, hub = make_bus(), RefusingHub()
    with anyio.fail_after(30):
        async with served(bus, hub) as (worker, _):
            hub.refuses = refused
            await bus.publish("numbers", 1)
            with pytest.raises(UnavailableError, match=rf"whether events are left.*{reason}"):
                await worker.idle(0.1)


async def test_a_job_waits_while_that_is_unknown_for_a_short_time() -> None:
    bus, hub = make_bus(), RefusingHub()
    with anyio.fail_after(30):
        async with served(bus, hub) as (worker, _):
            hub.refuses = {"lag"}
            with anyio.move_on_after(0.5) as waited:
                await worker.idle(0.05)
            assert waited.cancelled_caught
            hub.refuses = set()
            await worker.idle(0.05)


# Real Redis: a login of its own, whose rights an administrator changes.

SETTINGS = redis.Settings(timeout=0.3, publish_timeout=0.2)
USER, PASSWORD = "worker", "a-secret-of-redis"


@asynccontextmanager
async def as_user(server: RedisServer) -> AsyncIterator[tuple[str, Callable[..., Awaitable[Any]]]]:
    """The URL of a user, and what an administrator calls to change its rights."""
    async with scene.asking(server.url) as client:

        async def change(*rules: str) -> None:
            await client.execute_command("ACL", "SETUSER", USER, *rules)
            await client.execute_command("CLIENT", "KILL", "USER", USER)

        await change("reset", "on", f">{PASSWORD}", "~*", "+@all")
        yield server.url.replace("://", f"://{USER}:{PASSWORD}@"), change
        await client.execute_command("ACL", "DELUSER", USER)


@pytest.mark.parametrize(
    ("takes", "gives", "reason"),
    [
        pytest.param(("-xreadgroup",), ("+xreadgroup",), "NOPERM.*ACL SETUSER", id="permission to read"),
        pytest.param(("resetpass", ">other"), ("resetpass", f">{PASSWORD}"), "WRONGPASS", id="password"),
        pytest.param(("-xinfo", "-xreadgroup"), ("+xinfo", "+xreadgroup"), "NOPERM", id="lag, too"),
    ],
)
async def test_rights_that_redis_takes_away_and_gives_back(
    redis_server: RedisServer,
    takes: tuple[str, ...],
    gives: tuple[str, ...],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    bus = make_bus(scene.new_topic(), scene.new_topic())
    async with (
        as_user(redis_server) as (url, change),
        redis.open(url, SETTINGS) as backend,
        served(bus, backend) as (_, readyz),
    ):
        await change(*takes)
        expected = rf"worker: receive of double has failed for \d+ s: \w+Error: .*{reason}"
        await scene.until(lambda: re.search(expected, readyz()[1]), f"not so: {expected}")
        assert readyz()[0] == 503
        assert PASSWORD not in readyz()[1] + caplog.text
        await change(*gives)
        await scene.until(lambda: readyz() == (200, "ok\n"), "not ready again")
    assert about(caplog, "receive")[-1] == ("INFO", "double: receive succeeds")
    assert len(about(caplog, "receive")) <= 3, "one line for each kind of error, and one for the end"


async def test_a_server_of_redis_that_has_become_a_replica(start_redis: StartRedis) -> None:
    server, master = start_redis(), start_redis()
    topic = scene.new_topic()
    bus = make_bus(topic, scene.new_topic())
    async with (
        redis.open(server.url, SETTINGS) as backend,
        scene.asking(server.url) as client,
        served(bus, backend) as (_, readyz),
    ):
        master.kill()  # so that the data stays
        await client.execute_command("REPLICAOF", "127.0.0.1", master.port)
        await scene.until(lambda: "READONLY" in readyz()[1], "still ready")
        assert readyz()[0] == 503
        await client.execute_command("REPLICAOF", "NO", "ONE")
        await scene.until(lambda: readyz() == (200, "ok\n"), "not ready again")
