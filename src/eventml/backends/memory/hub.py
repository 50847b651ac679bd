"""The hub: the topics of one process, with their locking and waiting.

Publishers and members may live in different threads, each with an event loop of its own (a blocking
producer has one), so a lock guards the state and is never held across an await; waiting
tasks are woken through their own loops.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from contextlib import asynccontextmanager, suppress
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
from anyio.lowlevel import checkpoint, current_token

from eventml.backends.base import Capabilities
from eventml.backends.memory.topic import Topic
from eventml.errors import FullError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence

    from eventml.backends.base import Completion, DedupeSubscription, Start, Subscription
    from eventml.records import Delivery, Record

CAPABILITIES: Final = Capabilities(
    ordering="per_key",
    redelivery="leave",
    atomic_completion=True,
    durable=False,
    counts_attempts=True,
    shared=False,
    deduplicates=True,
)


T = TypeVar("T")

_TOPIC_OF = attrgetter("topic")
_INPUT_TOPIC_OF = attrgetter("delivery.record.topic")


class Waiter:
    """An event that any thread may set."""

    __slots__ = ("_event", "_loop", "_thread")

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._loop: Any = current_token().native_token  # asyncio's loop or trio's token
        self._thread = threading.get_ident()

    def wake(self) -> None:
        """Set the event, from any thread."""
        if threading.get_ident() == self._thread:
            self._event.set()
            return
        soon = getattr(self._loop, "run_sync_soon", None) or self._loop.call_soon_threadsafe
        with suppress(RuntimeError):  # that loop has ended, and the waiting task with it
            soon(self._event.set)

    async def wait(self) -> None:
        """Wait until the event is set."""
        await self._event.wait()


class Hub:
    """A backend in this process. Every method may be called from any thread's event loop."""

    capabilities = CAPABILITIES

    def __init__(self, partitions: int, retention: int, publish_timeout: float) -> None:
        self._partitions = partitions
        self._retention = retention
        self._publish_timeout = publish_timeout
        self.lock = threading.Lock()
        self._topics: dict[str, Topic] = {}
        self._readers: defaultdict[str, set[Waiter]] = defaultdict(set)
        self._writers: set[Waiter] = set()

    async def publish(self, records: Sequence[Record]) -> None:
        """Write records. Waits while a group's lag keeps a topic full, for `publish_timeout` at most.

        Raises:
            FullError: the topic is still full; nothing was written.
        """
        await checkpoint()
        await self.when_there_is_room({record.topic for record in records}, lambda: self.append(records))

    @asynccontextmanager
    async def subscribe(
        self, topics: Sequence[str], *, group: str | None, start: Start
    ) -> AsyncIterator[Subscription]:
        """Join a group, or read without one. Leaving returns unfinished deliveries at once."""
        subscription = _Reader(self, topics, start) if group is None else _Member(self, topics, group, start)
        try:
            yield subscription
        finally:
            subscription.leave()

    @asynccontextmanager
    async def subscribe_deduplicated(
        self, topics: Sequence[str], *, group: str, start: Start, window: int
    ) -> AsyncIterator[DedupeSubscription]:
        """As `subscribe`; the group records the last `window` ids that it completed at each topic."""
        subscription = _Member(self, topics, group, start, window=window)
        try:
            yield subscription
        finally:
            subscription.leave()

    async def lag(self, topic: str, *, group: str) -> Mapping[int, int] | None:
        """The group's unfinished records by partition; None if the group does not exist."""
        with self.lock:
            found = self.topic(topic).groups.get(group)
            return None if found is None else found.lag()

    # The methods below serve the subscriptions, which hold the lock when they call them.

    def topic(self, name: str) -> Topic:
        """The topic of that name, created if it does not exist."""
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = Topic(name, self._partitions, self._retention)
        return topic

    def append(self, records: Sequence[Record]) -> None:
        """Append records and wake the readers of their topics."""
        for name, part in by_topic(records, _TOPIC_OF):
            self.topic(name).append(part)
            self.wake_readers(name)

    def add_waiter(self, topics: Iterable[str]) -> Waiter:
        """A waiter that is woken by the next append to any of the topics."""
        waiter = Waiter()
        for name in topics:
            self._readers[name].add(waiter)
        return waiter

    def remove_waiter(self, topics: Iterable[str], waiter: Waiter) -> None:
        """Remove the waiter of a receive that was cancelled, or woken by another of its topics."""
        with self.lock:
            for name in topics:
                if name in self._readers:
                    self._readers[name].discard(waiter)

    def wake_readers(self, topic: str) -> None:
        """Wake the receives that wait for a topic."""
        for waiter in self._readers.pop(topic, ()):
            waiter.wake()

    def wake_writers(self) -> None:
        """Wake the publishers that wait for room."""
        for waiter in self._writers:
            waiter.wake()
        self._writers.clear()

    async def when_there_is_room(self, topics: Iterable[str], act: Callable[[], None]) -> None:
        """Wait until none of the topics is full, and run `act` under the same lock."""
        deadline = 0.0
        while True:
            with self.lock:
                full = next((name for name in topics if not self.topic(name).has_room()), None)
                if full is None:
                    act()
                    return
                waiter = Waiter()
                self._writers.add(waiter)
            deadline = deadline or anyio.current_time() + self._publish_timeout
            try:
                with anyio.move_on_at(deadline):
                    await waiter.wait()
                    continue
            finally:
                with self.lock:
                    self._writers.discard(waiter)
            with self.lock:
                slowest = self.topic(full).slowest()
            raise FullError(
                f"topic {full!r} is full: group {slowest!r} left {self._retention} records unfinished for "
                f"{self._publish_timeout:g} s. Run that group's handler, or raise backend.retention."
            )


class _Member:
    """One member of a group, at one or more topics."""

    def __init__(self, hub: Hub, topics: Sequence[str], group: str, start: Start, *, window: int = 0) -> None:
        self._hub = hub
        self._window = window
        with hub.lock:
            self._groups = {name: hub.topic(name).group(group, start) for name in topics}
            for joined in self._groups.values():
                joined.join(self)

    async def receive(self, limit: int) -> Sequence[Delivery]:
        await checkpoint()  # before anything is taken, so that a cancelled receive takes nothing
        while True:
            with self._hub.lock:
                taken: list[Delivery] = []
                for group in self._groups.values():
                    taken += group.take(self, limit - len(taken))
                if taken:
                    return taken
                waiter = self._hub.add_waiter(self._groups)
            try:
                await waiter.wait()
            finally:
                self._hub.remove_waiter(self._groups, waiter)

    async def complete(self, done: Sequence[Completion]) -> None:
        await checkpoint()
        topics = {record.topic for completion in done for record in completion.outputs}
        await self._hub.when_there_is_room(topics, lambda: self._complete(done))

    def _complete(self, done: Sequence[Completion]) -> None:
        one = len(self._groups) == 1
        parts = zip(self._groups, [done], strict=True) if one else by_topic(done, _INPUT_TOPIC_OF)
        for name, completions in parts:
            group = self._groups[name]
            accepted = group.finish(completions, self)
            if self._window:
                accepted = group.deduplicate(accepted, self._window)
            self._hub.append([record for completion in accepted for record in completion.outputs])
            if group.hand_over():
                self._hub.wake_readers(name)
        self._hub.wake_writers()

    async def completed_before(self, deliveries: Sequence[Delivery]) -> Collection[int]:
        await checkpoint()
        with self._hub.lock:
            return [
                position
                for position, delivery in enumerate(deliveries)
                if delivery.record.id in self._groups[delivery.record.topic].completed_ids
            ]

    async def lag(self) -> int | None:
        with self._hub.lock:
            return sum(sum(group.lag().values()) for group in self._groups.values())

    def leave(self) -> None:
        with self._hub.lock:
            for name, group in self._groups.items():
                group.leave(self)
                self._hub.wake_readers(name)


class _Reader:
    """A reader without a group: no acks, no effect on retention. It skips records that were dropped."""

    def __init__(self, hub: Hub, topics: Sequence[str], start: Start) -> None:
        self._hub = hub
        with hub.lock:
            self._topics = {name: hub.topic(name) for name in topics}
            self._positions = {
                (name, p.index): p.base if start == "earliest" else p.end
                for name, topic in self._topics.items()
                for p in topic.partitions
            }

    async def receive(self, limit: int) -> Sequence[Delivery]:
        await checkpoint()
        while True:
            with self._hub.lock:
                taken: list[Delivery] = []
                for (name, index), position in self._positions.items():
                    partition = self._topics[name].partitions[index]
                    read = partition.read(position, limit - len(taken))
                    self._positions[name, index] = max(position, partition.base) + len(read)
                    taken += read
                if taken:
                    # Between partitions there is no order but by time.
                    return sorted(taken, key=lambda delivery: delivery.timestamp)
                waiter = self._hub.add_waiter(self._topics)
            try:
                await waiter.wait()
            finally:
                self._hub.remove_waiter(self._topics, waiter)

    async def complete(self, done: Sequence[Completion]) -> None:
        await self._hub.publish([record for completion in done for record in completion.outputs])

    async def lag(self) -> int | None:
        return None

    def leave(self) -> None:
        """Nothing to do: a reader has no state in the hub."""


def by_topic(items: Sequence[T], topic_of: Callable[[T], str]) -> Iterable[tuple[str, Sequence[T]]]:
    """Split by topic, in order. The usual case of one topic makes no copy."""
    topics = set(map(topic_of, items))
    if len(topics) == 1:
        return [(topics.pop(), items)]
    return [(topic, [item for item in items if topic_of(item) == topic]) for topic in sorted(topics)]
