"""Topics, connections and processes for the tests of the Kafka backend."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

import pytest

from eventml.backends import kafka
from eventml.backends.base import NewTopic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from backends.kafka.cluster import KafkaCluster
    from eventml.backends.kafka.backend import KafkaBackend
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
    """A topic that nobody has used."""
    name = name or f"topic-{token_hex(6)}"
    async with connected(cluster) as backend:
        await backend.create_topics([NewTopic(name=name, partitions=partitions, **choices)])
    return name


async def everything(backend: KafkaBackend, topic: str, *, quiet: float = 1.0) -> list[Delivery]:
    """What a topic holds, as a reader of committed records sees it."""
    found: list[Delivery] = []
    async with backend.subscribe([topic], group=None, start="earliest") as reader:
        while True:
            try:
                async with asyncio.timeout(quiet):
                    found += await reader.receive(1_000)
            except TimeoutError:
                return found


async def lag(backend: KafkaBackend, topic: str, group: str) -> int:
    """What a group has left; everything, while there is no such group."""
    found = await backend.lag(topic, group=group)
    return sys.maxsize if found is None else sum(found.values())


async def until_finished(backend: KafkaBackend, topic: str, group: str, *, within: float = 90.0) -> None:
    async with asyncio.timeout(within):
        while await lag(backend, topic, group):
            await asyncio.sleep(0.25)


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


@pytest.fixture
def start_worker() -> Iterator[StartWorker]:
    """Start processes that work for a group; they are ended with the test."""
    started: list[WorkerProcess] = []

    def start(
        cluster: KafkaCluster, *, settings: dict[str, Any] | None = None, **choices: Any
    ) -> WorkerProcess:
        said = json.dumps({"url": cluster.url, "settings": {**QUICK, **(settings or {})}, **choices})
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        argv = [sys.executable, str(Path(__file__).with_name("worker.py")), said]
        worker = WorkerProcess(subprocess.Popen(argv, env=environ))  # noqa: S603 - a script of ours
        started.append(worker)
        return worker

    yield start
    for worker in started:
        if worker.process.poll() is None:
            worker.kill()
