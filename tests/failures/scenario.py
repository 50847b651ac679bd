"""A bus on any backend that handles good and bad events; the outcome is read back from the topics."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import msgspec

from eventml import Bus, Record, config
from eventml.backends.base import CreatesTopics, NewTopic
from eventml.runtime.failures.dead_letters import dead_letter_queues, dead_letter_topic
from eventml.runtime.failures.replay import DeadLetterFilter, replay_or_drop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from eventml.backends.base import Backend
    from eventml.records import Delivery
    from eventml.runtime.failures.replay import DeadLetterAction, ReplayReport
    from eventml.runtime.stats import Stats
    from eventml.runtime.worker import Worker

PATIENCE = 90.0  # seconds that a step may take; only a failing test waits so long


class Ride(msgspec.Struct):
    ride_id: int
    miles: float


class Duration(msgspec.Struct):
    ride_id: int
    minutes: float


class Scenario:
    """One bus with an input and an output topic, with names that no other test uses.

    Attributes:
        outputs: What the handlers published, by input id.
        dead_letters: The dead letters, by input id.
        stats: The first handler's counters after `run`.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._settings = config.load(environ={}, overrides={"backend": url})
        self.bus = Bus(f"t{secrets.token_hex(4)}")
        self.bus.configure(self._settings)
        self.topic = f"{self.bus.name}.started"
        self.to = f"{self.bus.name}.duration"
        self.outputs: dict[str, list[Record]] = {}
        self.dead_letters: dict[str, list[Record]] = {}
        self.stats: Stats

    # Steps

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Backend]:
        """A connection to the backend, with all topics created."""
        backend = self._settings.backend
        module = config.find_backend(urlsplit(backend.url).scheme)
        async with module.open(backend.url, backend.options) as connected:
            await create_topics(connected, [self.topic, self.to, *self.dead_letter_topics])
            yield connected

    @property
    def dead_letter_topics(self) -> list[str]:
        return [dead_letter_topic(self.topic, h.options.group) for h in self.bus.handlers.values()]

    def records(self, values: Iterable[Any], *, keys: Sequence[bytes | None] | None = None) -> list[Record]:
        """Records of values (bytes as they are, objects as JSON), with ids that count from 0."""
        encoded = [v if isinstance(v, bytes) else msgspec.json.encode(v) for v in values]
        return [
            Record(self.topic, value, key, str(number))
            for number, (value, key) in enumerate(zip(encoded, keys or [None] * len(encoded), strict=True))
        ]

    @asynccontextmanager
    async def working(self, backend: Backend, *only: str) -> AsyncIterator[Worker]:
        """Run the bus's handlers; at the end finish the events in flight."""
        async with (
            self.bus.open(backend),
            self.bus.worker(only) as worker,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(worker.run)
            await worker.ready.wait()
            yield worker
            worker.stop()

    async def replay(
        self,
        backend: Backend,
        *,
        name: str | None = None,
        action: DeadLetterAction = "replay",
        **choices: Any,
    ) -> ReplayReport:
        """As `eventml dlq replay` and `drop`, for one handler."""
        handlers = self.bus.handlers
        [queue] = dead_letter_queues([handlers[name] if name else next(iter(handlers.values()))])
        limit = choices.pop("limit", None)
        topic, group = queue.dead_letter_topic, queue.replay_group
        async with backend.subscribe([topic], group=group, start="earliest") as subscription:
            acks_singly = backend.capabilities.redelivery == "lease"
            return await replay_or_drop(
                subscription, queue, DeadLetterFilter(**choices), action, limit=limit, acks_singly=acks_singly
            )

    async def collect(self, backend: Backend, expected: int) -> None:
        """Read all outputs and dead letters, as many as expected; one too many would be read too."""
        found = 0
        async with backend.subscribe(
            [self.to, *self.dead_letter_topics], group=None, start="earliest"
        ) as reader:
            with anyio.fail_after(PATIENCE):
                while found < expected:
                    found += self._add(await reader.receive(1000))
            # A replay may have moved dead letters to the end of their topic, so there can be more.
            silence = False
            while not silence:
                with anyio.move_on_after(0.2) as waiting:
                    self._add(await reader.receive(1000))
                silence = waiting.cancelled_caught

    def _add(self, deliveries: Sequence[Delivery]) -> int:
        for delivery in deliveries:
            record = delivery.record
            if record.topic == self.to:
                self.outputs.setdefault(record.id.split("/")[0], []).append(record)
            else:
                self.dead_letters.setdefault(record.id, []).append(record)
        return len(deliveries)

    # All steps in a row

    async def run(
        self,
        values: Sequence[Any],
        *,
        keys: Sequence[bytes | None] | None = None,
        wrap: Callable[[Backend], Backend] | None = None,
    ) -> None:
        """Publish values, handle them all, collect the outcome.

        Args:
            values: As for `records`.
            keys: As for `records`.
            wrap: Makes the backend that the bus runs on out of the connected one.
        """
        records = self.records(values, keys=keys)
        [name] = self.bus.handlers
        with anyio.fail_after(60):
            async with self.connect() as backend:
                async with self.working(wrap(backend) if wrap else backend) as worker:
                    await publish(backend, records)
                    self.stats = worker.stats[name]
                    await until(lambda: self.stats.completed >= len(records))
                await self.collect(backend, self.stats.published + self.stats.dead_letters)

    def check(self, *, answered: set[int], dead_letters: set[int]) -> None:
        """Each event has one output, or one dead letter, as expected; and there are no others."""
        assert {int(number) for number in self.dead_letters} == dead_letters
        assert {int(number) for number in self.outputs} == answered
        assert all(len(records) == 1 for records in (*self.outputs.values(), *self.dead_letters.values()))

    def reason(self, number: int) -> str:
        [letter] = self.dead_letters[str(number)]
        return letter.headers["eventml-dlq-message"]


async def publish(backend: Backend, records: Sequence[Record], size: int = 1000) -> None:
    """Publish many records, in calls of a size that every backend accepts."""
    for start in range(0, len(records), size):
        await backend.publish(records[start : start + size])


async def until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE):
        while not holds():
            await anyio.sleep(0.01)


async def create_topics(backend: Backend, names: Sequence[str]) -> None:
    """Create topics, on a backend that needs it."""
    if isinstance(backend, CreatesTopics):
        await backend.create_topics([NewTopic(name=name) for name in names])
