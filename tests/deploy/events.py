"""What goes in and what comes out, by an oracle that knows every id."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from eventml import Record, config
from eventml.backends.base import CreatesTopics, NewTopic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from eventml.backends.base import Backend

PARTITIONS = 8


class Oracle:
    """Publishes numbers and collects the answers.

    Args:
        url: The backend's.
        name: The app's: its topics are `<name>.numbers` and `<name>.answers`.

    Attributes:
        published: How many numbers; they are 0, 1, 2 ... and each one's id is the number.
        answers: Every answer that came, by input id.
        answered: When the first of them was published, in seconds since the epoch.
    """

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self.topic, self.to = f"{name}.numbers", f"{name}.answers"
        self.published = 0
        self._lock = threading.Lock()
        self.answers: dict[str, list[Record]] = {}
        self.answered: dict[str, float] = {}

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Backend]:
        settings = config.load(environ={}, overrides={"backend": self._url}).backend
        async with config.find_backend(settings.scheme).open(settings.url, settings.options) as backend:
            yield backend

    def publish(self, count: int, **said: Any) -> None:
        """Publish the next so many numbers."""
        anyio.run(self._publish, count, said)

    async def _publish(self, count: int, said: dict[str, Any]) -> None:
        async with self.connect() as backend:
            await self.create_topics(backend)
            await backend.publish(self.next(count, **said))

    async def create_topics(self, backend: Backend) -> None:
        if isinstance(backend, CreatesTopics):
            topics = [f"{self.topic}.{self.topic.removesuffix('.numbers')}.answer.dlq", self.topic, self.to]
            await backend.create_topics([NewTopic(name=name, partitions=PARTITIONS) for name in topics])

    def next(self, count: int, **said: Any) -> list[Record]:
        """The records of the next so many numbers."""
        with self._lock:
            first, self.published = self.published, self.published + count
        return [
            Record(self.topic, msgspec.json.encode({"number": n, **said}), str(n).encode(), str(n))
            for n in range(first, first + count)
        ]

    def collect(self, expected: int | None = None, *, within: float = 30.0, rest: float = 0.3) -> None:
        """Read the answers from the beginning until there is one for so many inputs, and a little longer."""
        anyio.run(self._collect, self.published if expected is None else expected, within, rest)

    async def _collect(self, expected: int, within: float, rest: float) -> None:
        self.answers, self.answered = {}, {}
        async with (
            self.connect() as backend,
            backend.subscribe([self.to], group=None, start="earliest") as reader,
        ):
            with anyio.move_on_after(within):
                while len(self.answers) < expected:
                    self._note(await reader.receive(1000))
            with anyio.move_on_after(rest):  # one too many would show here
                while True:
                    self._note(await reader.receive(1000))

    def _note(self, deliveries: Sequence[Any]) -> None:
        for delivery in deliveries:
            input_id = delivery.record.id.split("/")[0]
            self.answers.setdefault(input_id, []).append(delivery.record)
            self.answered.setdefault(input_id, delivery.timestamp)

    @property
    def lost(self) -> list[int]:
        return [n for n in range(self.published) if str(n) not in self.answers]

    @property
    def repeated(self) -> dict[str, int]:
        """How often too often an input was answered."""
        return {number: len(records) - 1 for number, records in self.answers.items() if len(records) > 1}

    @property
    def pids(self) -> Counter[int]:
        """The processes that answered."""
        return Counter(
            msgspec.json.decode(record.value)["pid"]
            for records in self.answers.values()
            for record in records
        )

    def check(self) -> None:
        """Every number answered exactly once."""
        assert (self.lost[:10], self.repeated) == ([], {}), f"lost {self.lost}, repeated {self.repeated}"
