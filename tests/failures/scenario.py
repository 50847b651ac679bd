"""A bus on any backend, fed with good and bad events; what came of them is read back by a bystander."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import msgspec

from eventml import Bus, Record, config
from eventml.backends.base import CreatesTopics, NewTopic
from eventml.runtime.deadletters import dead_letter_topic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from eventml.backends.base import Backend
    from eventml.runtime.stats import Stats


class Ride(msgspec.Struct):
    ride_id: int
    miles: float


class Duration(msgspec.Struct):
    ride_id: int
    minutes: float


class Scenario:
    """One bus, one topic in and one out, with names that no other test uses.

    Attributes:
        outputs: What the handler published, by input id.
        letters: The dead letters, by input id.
        stats: The handler's counters after the run.
    """

    def __init__(self, url: str) -> None:
        self._settings = config.load(environ={}, overrides={"backend": url})
        self.bus = Bus(f"t{secrets.token_hex(4)}")
        self.bus.configure(self._settings)
        self.topic = f"{self.bus.name}.started"
        self.to = f"{self.bus.name}.duration"
        self.outputs: dict[str, list[Record]] = {}
        self.letters: dict[str, list[Record]] = {}
        self.stats: Stats

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Backend]:
        backend = self._settings.backend
        module = config.find_backend(urlsplit(backend.url).scheme)
        async with module.open(backend.url, backend.options) as connected:
            yield connected

    async def run(self, values: Sequence[Any], *, keys: Sequence[bytes | None] | None = None) -> None:
        """Publish values (bytes as they are, objects as JSON), handle them all, collect the outcome."""
        records = [
            Record(self.topic, v if isinstance(v, bytes) else msgspec.json.encode(v), key, str(number))
            for number, (v, key) in enumerate(zip(values, keys or [None] * len(values), strict=True))
        ]
        [handler] = self.bus.handlers.values()
        async with self.connect() as backend:
            letters = dead_letter_topic(self.topic, handler.options.group)
            await create_topics(backend, [self.topic, self.to, letters])
            with anyio.fail_after(60):
                await self._handle(backend, handler.name, records)
                expected = self.stats.published + self.stats.dead_letters
                await self._collect(backend, [self.to, letters], expected)

    async def _handle(self, backend: Backend, handler: str, records: Sequence[Record]) -> None:
        async with (
            self.bus.open(backend),
            self.bus.worker() as worker,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(worker.run)
            await worker.ready.wait()
            await backend.publish(records)
            self.stats = worker.stats[handler]
            while self.stats.completed < len(records):
                await anyio.sleep(0.01)
            worker.stop()

    async def _collect(self, backend: Backend, topics: Sequence[str], expected: int) -> None:
        found = 0
        async with backend.subscribe(topics, group=None, start="earliest") as reader:
            while found < expected:
                found += self._note(await reader.receive(1000))
            with anyio.move_on_after(0.2):  # one too many would show here
                self._note(await reader.receive(1000))

    def _note(self, deliveries: Sequence[Any]) -> int:
        for delivery in deliveries:
            record = delivery.record
            if record.topic == self.to:
                self.outputs.setdefault(record.id.split("/")[0], []).append(record)
            else:
                self.letters.setdefault(record.id, []).append(record)
        return len(deliveries)

    def check(self, *, answered: set[int], set_aside: set[int]) -> None:
        """Each of these answered once, each of those set aside once, and nothing else anywhere."""
        assert {int(number) for number in self.letters} == set_aside
        assert {int(number) for number in self.outputs} == answered
        assert all(len(records) == 1 for records in (*self.outputs.values(), *self.letters.values()))

    def reason(self, number: int) -> str:
        [letter] = self.letters[str(number)]
        return letter.headers["eventml-dlq-message"]


async def create_topics(backend: Backend, names: Sequence[str]) -> None:
    """Create topics on a backend where that is needed."""
    if isinstance(backend, CreatesTopics):
        await backend.create_topics([NewTopic(name=name) for name in names])
