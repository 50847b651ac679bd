"""What the tests of Kafka share: a topic in and one out, workers that come and go, and the count."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio

from eventml import Record, config
from eventml.backends.base import CreatesTopics, NewTopic
from tests.kafka.answering import make_bus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from eventml.backends.base import Backend
    from eventml.records import Delivery


class Scene:
    """Topics of this test's own, and what became of what was published to them.

    Args:
        url: The brokers, with any settings.
        partitions: Of each topic.
    """

    def __init__(self, url: str, partitions: int = 8) -> None:
        self.url = url
        self.name = f"t{secrets.token_hex(4)}"
        self.topic, self.to = f"{self.name}.in", f"{self.name}.out"
        self._partitions = partitions
        self.answers: Counter[str] = Counter()
        self.deliveries: list[Delivery] = []

    @asynccontextmanager
    async def connect(self, url: str | None = None) -> AsyncIterator[Backend]:
        backend = config.load(environ={}, overrides={"backend": url or self.url}).backend
        module = config.find_backend(urlsplit(backend.url).scheme)
        async with module.open(backend.url, backend.options) as connected:
            yield connected

    async def create(self) -> None:
        letters = f"{self.topic}.{self.name}.echo.dlq"
        async with self.connect() as backend:
            assert isinstance(backend, CreatesTopics)
            names = (self.topic, self.to, letters)
            await backend.create_topics([NewTopic(name=n, partitions=self._partitions) for n in names])

    def records(self, numbers: Sequence[int], keys: int = 20) -> list[Record]:
        return [Record(self.topic, b"%d" % n, b"key-%d" % (n % keys), str(n)) for n in numbers]

    @asynccontextmanager
    async def working(self, url: str | None = None, pause: float = 0.0) -> AsyncIterator[None]:
        """A worker in this process, from here to the end; it drains."""
        bus = make_bus(url or self.url, self.name, pause)
        async with bus, bus.worker() as worker, anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await worker.ready.wait()
            try:
                yield
            finally:
                worker.stop()

    @contextmanager
    def process(self, pause: float = 0.0) -> Iterator[subprocess.Popen[str]]:
        """A worker in a process of its own, which has joined; killed in the end."""
        script = str(Path(__file__).with_name("answering.py"))
        command = [sys.executable, script, self.url, self.name, str(pause)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:  # noqa: S603 - ours
            assert worker.stdout is not None
            try:
                assert worker.stdout.readline() == "ready\n"
                yield worker
            finally:
                worker.send_signal(signal.SIGCONT)
                worker.kill()

    async def collect(self, wanted: set[int], seconds: float = 60, url: str | None = None) -> None:
        """Read answers from the beginning until all of these are there, and what comes just after."""
        self.answers.clear()
        self.deliveries.clear()
        missing = {str(number) for number in wanted}
        async with (
            self.connect(url) as backend,
            backend.subscribe([self.to], group=None, start="earliest") as reader,
        ):
            with anyio.fail_after(seconds):
                while missing:
                    missing -= self._note(await reader.receive(1000))
            with anyio.move_on_after(1):
                while True:
                    self._note(await reader.receive(1000))

    def _note(self, deliveries: Sequence[Delivery]) -> set[str]:
        inputs = [delivery.record.id.split("/")[0] for delivery in deliveries]
        self.answers.update(inputs)
        self.deliveries += deliveries
        return set(inputs)

    def in_order(self) -> bool:
        """Whether the first answers to the events of each key came in the order of the events."""
        first: dict[bytes | None, list[int]] = {}
        seen: set[str] = set()
        for delivery in sorted(self.deliveries, key=lambda d: (d.partition, int(d.offset))):
            number = delivery.record.id.split("/")[0]
            if number not in seen:
                seen.add(number)
                first.setdefault(delivery.record.key, []).append(int(number))
        return all(numbers == sorted(numbers) for numbers in first.values())
