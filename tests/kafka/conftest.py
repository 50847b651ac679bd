"""Topics, connections, members and processes for the tests of the Kafka backend."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from backends.kafka.cluster import KafkaCluster
from backends.process import NotInstalledError
from eventml.backends import kafka
from eventml.backends.base import Completion, NewTopic
from eventml.errors import UnavailableError
from eventml.records import Record
from tests.brokers import without_broker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventml.backends.base import Subscription
    from eventml.backends.kafka import KafkaBackend
    from eventml.records import Delivery

ROOT: Final = Path(__file__).parents[2]
QUICK: Final = {
    "session_timeout": 6.0,  # the least that a broker allows by default
    "heartbeat_interval": 0.25,
    "rebalance_timeout": 8.0,
    "drain": 3.0,
    "commit_interval": 0.05,
}

StartWorker = Callable[..., "WorkerProcess"]


@asynccontextmanager
async def connected(cluster: KafkaCluster, **settings: Any) -> AsyncIterator[KafkaBackend]:
    async with kafka.open(cluster.url, kafka.Settings(**{**QUICK, **settings})) as backend:
        yield backend


async def new_topic(
    cluster: KafkaCluster, partitions: int = 4, *, name: str | None = None, **choices: Any
) -> str:
    """Create a topic of its own for a test."""
    name = name or f"topic-{token_hex(6)}"
    async with connected(cluster) as backend:
        await backend.create_topics([NewTopic(name=name, partitions=partitions, **choices)])
    return name


async def grow(cluster: KafkaCluster, topic: str, partitions: int) -> None:
    """Give a topic more partitions, and wait until the brokers know of them."""

    def create() -> None:
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
        [done] = admin.create_partitions([NewPartitions(topic, partitions)]).values()
        done.result(timeout=20)

    await anyio.to_thread.run_sync(create)
    async with connected(cluster) as backend, asyncio.timeout(20):
        while (await backend._admin.partition_counts([topic]))[topic] != partitions:
            await asyncio.sleep(0.05)


async def everything(backend: KafkaBackend, topic: str, expected: int) -> list[Delivery]:
    """The committed records of a topic: as many ids as expected, or those of 60 s, and what comes after."""
    found: dict[str, list[Delivery]] = {}
    end = time.monotonic() + 60
    async with backend.subscribe([topic], group=None, start="earliest") as reader:
        while True:
            try:
                async with asyncio.timeout(1 if len(found) >= expected else end - time.monotonic()):
                    for delivery in await reader.receive(1_000):
                        found.setdefault(delivery.record.id, []).append(delivery)
            except TimeoutError:
                return [delivery for same_id in found.values() for delivery in same_id]


async def lag(backend: KafkaBackend, topic: str, group: str) -> int:
    """How many records a group has not completed: infinitely many while there is no such group."""
    found = await backend.lag(topic, group=group)
    return sys.maxsize if found is None else sum(found.values())


async def until_finished(backend: KafkaBackend, topic: str, group: str, *, within: float = 90.0) -> None:
    async with asyncio.timeout(within):
        while await lag(backend, topic, group):
            await asyncio.sleep(0.25)


def records(topic: str, ids: range, keys: int = 40) -> list[Record]:
    return [Record(topic, b"%d" % n, b"%d" % (n % keys), f"id-{n}") for n in ids]


async def receive(subscription: Subscription, count: int, limit: int = 100) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            found += await subscription.receive(min(limit, count - len(found)))
    return found


def outputs(deliveries: list[Delivery], to: str) -> list[Completion]:
    return [
        Completion(d, (Record(to, d.record.value, d.record.key, f"{d.record.id}/made"),)) for d in deliveries
    ]


async def complete(subscription: Subscription, done: list[Completion]) -> None:
    while True:
        try:
            await subscription.complete(done)
        except UnavailableError:
            await asyncio.sleep(0.1)
        else:
            return


async def work(
    subscription: Subscription, to: str, on_received: Callable[[Delivery], None] = lambda _: None
) -> None:
    while True:
        try:
            taken = list(await subscription.receive(50))
        except UnavailableError:
            await asyncio.sleep(0.1)
            continue
        for delivery in taken:
            on_received(delivery)
        await asyncio.sleep(0.01)
        await complete(subscription, outputs(taken, to))


@asynccontextmanager
async def working(
    backend: KafkaBackend,
    topic: str,
    to: str,
    group: str,
    on_received: Callable[[Delivery], None] = lambda _: None,
) -> AsyncIterator[asyncio.Task[None]]:
    """A member that works for the group until this is left."""
    async with backend.subscribe([topic], group=group, start="earliest") as subscription:
        task = asyncio.create_task(work(subscription, to, on_received))
        yield task
        task.cancel()
        await asyncio.wait([task])


async def until_available(act: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await act()
            except UnavailableError:
                await asyncio.sleep(0.2)
            else:
                return


class WorkerProcess:
    """A process that works for a group: see worker.py."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def wait(self, seconds: float) -> int:
        return self.process.wait(seconds)


@pytest.fixture(scope="session")
def _own_broker() -> Iterator[KafkaCluster]:
    settings = {"auto.create.topics.enable": "true", "group.min.session.timeout.ms": "500"}
    try:
        with KafkaCluster(quick=True, settings=settings) as cluster:
            yield cluster
    except NotInstalledError as exc:
        without_broker(str(exc))


@pytest.fixture
def own_broker(_own_broker: KafkaCluster) -> KafkaCluster:
    """One Kafka node of this folder's tests, which may stop, kill and restart it. It runs when a test begins.

    It would create topics on demand, and allows short sessions.
    """
    [node] = _own_broker.nodes
    if node.running:
        node.process.send(signal.SIGCONT)
    _own_broker.start()
    return _own_broker


@pytest.fixture
def start_worker() -> Iterator[StartWorker]:
    """Start processes that work for a group; they are ended with the test."""
    started: list[WorkerProcess] = []

    def start(
        cluster: KafkaCluster, *, settings: dict[str, Any] | None = None, **choices: Any
    ) -> WorkerProcess:
        arguments = json.dumps({"url": cluster.url, "settings": {**QUICK, **(settings or {})}, **choices})
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        argv = [sys.executable, str(Path(__file__).with_name("worker.py")), arguments]
        worker = WorkerProcess(subprocess.Popen(argv, env=environ))  # noqa: S603 - a script of ours
        started.append(worker)
        return worker

    yield start
    for worker in started:
        if worker.process.poll() is None:
            worker.kill()
