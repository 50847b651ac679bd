"""An oracle that publishes numbered events, collects the answers, and knows which are lost or repeated."""

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
        url: URL of the backend.
        name: Name of the app: its topics are `<name>.numbers` and `<name>.answers`.
        handler: Name of the predictor.

    Attributes:
        published: How many numbers have been published; they are 0, 1, 2 ... and also their ids.
        answers: All answers, by the id of their input.
        answered: Time of the first answer, by the id of its input, in seconds since the epoch.
    """

    def __init__(self, url: str, name: str, handler: str = "answer") -> None:
        self._url = url
        self._handler = handler
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

    def publish(self, count: int, **fields: Any) -> None:
        """Publish the next `count` numbers, with these fields beside."""
        anyio.run(self._publish, count, fields)

    async def _publish(self, count: int, fields: dict[str, Any]) -> None:
        async with self.connect() as backend:
            await self.create_topics(backend)
            await backend.publish(self.next_records(count, **fields))

    async def create_topics(self, backend: Backend) -> None:
        """Create the topics, on backends that need it."""
        if isinstance(backend, CreatesTopics):
            name = self.topic.removesuffix(".numbers")
            topics = [f"{self.topic}.{name}.{self._handler}.dlq", self.topic, self.to]
            await backend.create_topics([NewTopic(name=name, partitions=PARTITIONS) for name in topics])

    def next_records(self, count: int, **fields: Any) -> list[Record]:
        """Make the records of the next `count` numbers."""
        with self._lock:
            first, self.published = self.published, self.published + count
        return [
            Record(self.topic, msgspec.json.encode({"number": n, **fields}), str(n).encode(), str(n))
            for n in range(first, first + count)
        ]

    def collect(self, expected: int | None = None, *, within: float = 30.0, extra: float = 0.3) -> None:
        """Read the answers from the beginning until `expected` inputs are answered, by default all.

        Args:
            expected: Number of inputs.
            within: Seconds after which to give up.
            extra: Seconds to go on reading, in which a repeated answer would show.
        """
        anyio.run(self._collect, self.published if expected is None else expected, within, extra)

    async def _collect(self, expected: int, within: float, extra: float) -> None:
        self.answers, self.answered = {}, {}
        async with (
            self.connect() as backend,
            backend.subscribe([self.to], group=None, start="earliest") as subscription,
        ):
            with anyio.move_on_after(within):
                while len(self.answers) < expected:
                    self._add(await subscription.receive(1000))
            with anyio.move_on_after(extra):
                while True:
                    self._add(await subscription.receive(1000))

    def _add(self, deliveries: Sequence[Any]) -> None:
        for delivery in deliveries:
            input_id = delivery.record.id.split("/")[0]
            self.answers.setdefault(input_id, []).append(delivery.record)
            self.answered.setdefault(input_id, delivery.timestamp)

    @property
    def lost(self) -> list[int]:
        """Numbers without an answer."""
        return [n for n in range(self.published) if str(n) not in self.answers]

    @property
    def repeated(self) -> dict[str, int]:
        """How many answers too many a number has, by number."""
        return {number: len(records) - 1 for number, records in self.answers.items() if len(records) > 1}

    @property
    def pids(self) -> Counter[int]:
        """Number of answers of each process."""
        return Counter(
            msgspec.json.decode(record.value)["pid"]
            for records in self.answers.values()
            for record in records
        )

    def check(self) -> None:
        """Check that every number has been answered exactly once."""
        assert (self.lost[:10], self.repeated) == ([], {}), f"lost {self.lost}, repeated {self.repeated}"
