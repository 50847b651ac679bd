"""The hub: the topics of one process, with their locking and waiting.

Publishers and members may live in different threads, each with an event loop of its own (a blocking
producer has one), so a lock guards the state and is never held across an await; waiting
tasks are woken through their own loops.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from operator import attrgetter
from typing import Annotated, Any, Final, TypeVar

import anyio
import msgspec
from anyio.lowlevel import checkpoint, current_token

from eventml.backends.base import MAX_BYTES, Capabilities, Completion, DedupeSubscription, Start, Subscription
from eventml.backends.memory.group import Group
from eventml.backends.memory.topic import Room, TopicState, by_topic
from eventml.errors import FullError
from eventml.records import Delivery, Record

T = TypeVar("T")

_TOPIC_OF: Final = attrgetter("topic")
_TIMESTAMP_OF: Final = attrgetter("timestamp")
_INPUT_TOPIC_OF: Final = attrgetter("delivery.record.topic")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of `memory://`.

    Attributes:
        partitions: Partitions of each topic; a group's members share them.
        retention: Records that a topic keeps. Publishers wait while a group has not finished them; without
            a group the oldest are dropped.
        retention_bytes: Bytes of values and keys that a topic keeps, likewise.
        max_bytes: Bytes of values and keys that one read returns at most; a larger record is read alone.
        publish_timeout: Seconds that a publisher waits for room before `FullError`.
    """

    partitions: Annotated[int, msgspec.Meta(ge=1)] = 8
    retention: Annotated[int, msgspec.Meta(ge=1)] = 100_000
    retention_bytes: Annotated[int, msgspec.Meta(ge=1)] = 1_000_000_000
    max_bytes: Annotated[int, msgspec.Meta(ge=1)] = MAX_BYTES
    publish_timeout: Annotated[float, msgspec.Meta(gt=0)] = 30.0


class Waiter:
    """An event that any thread may set."""

    def __init__(self) -> None:
        self.event = anyio.Event()
        self._loop: Any = current_token().native_token  # asyncio's loop or trio's token
        self._thread = threading.get_ident()

    def wake(self) -> None:
        """Set the event, from any thread."""
        if threading.get_ident() == self._thread:
            self.event.set()
            return
        soon = getattr(self._loop, "run_sync_soon", None) or self._loop.call_soon_threadsafe
        with suppress(RuntimeError):  # that loop has ended, and the waiting task with it
            soon(self.event.set)


def _wake(waiters: set[Waiter]) -> None:
    while waiters:
        waiters.pop().wake()


def capabilities(settings: Settings) -> Capabilities:
    """Guarantees of the backend with these settings."""
    return Capabilities(
        ordering="per_key",
        redelivery="leave",
        atomic_completion=True,
        durable=False,
        counts_attempts=True,
        shared=False,
        deduplicates=True,
        max_bytes=settings.max_bytes,
        start_at_time=True,
    )


class Hub:
    """A backend in this process. Every method may be called from any thread's event loop."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self.capabilities = capabilities(self._settings)
        self.lock = threading.Lock()
        self._topics: dict[str, TopicState] = {}
        self._groups: dict[tuple[str, str], Group] = {}
        self._receivers: defaultdict[str, set[Waiter]] = defaultdict(set)
        self.publishers: set[Waiter] = set()

    async def publish(self, records: Sequence[Record]) -> None:
        """Write records. Waits while a group's lag keeps a topic full, for `publish_timeout` at most.

        Raises:
            FullError: the topic is still full; nothing was written.
        """
        await self.when_there_is_room({record.topic for record in records}, lambda: self.append(records))

    @asynccontextmanager
    async def subscribe(
        self, topics: Sequence[str], *, group: str | None, start: Start
    ) -> AsyncIterator[Subscription]:
        """Join a group, or read without one. Leaving returns unfinished deliveries at once."""
        if group is None:
            yield _Reader(self, topics, start)
            return
        async with self.subscribe_deduplicated(topics, group=group, start=start, window=0) as member:
            yield member

    @asynccontextmanager
    async def subscribe_deduplicated(
        self, topics: Sequence[str], *, group: str, start: Start, window: int
    ) -> AsyncIterator[DedupeSubscription]:
        """As `subscribe`; the group records the last `window` ids that it completed at each topic."""
        member = _Member(self, topics, group, start, window)
        try:
            yield member
        finally:
            member.leave()

    async def lag(self, topic: str, *, group: str) -> Mapping[int, int] | None:
        """The group's unfinished records by partition; None if the group does not exist."""
        with self.lock:
            found = self._groups.get((topic, group))
            return None if found is None else found.lag()

    # The methods below serve the subscriptions, which hold the lock when they call those that are not async.

    def topic(self, name: str) -> TopicState:
        """The topic of that name, created if it does not exist."""
        if name not in self._topics:
            settings = self._settings
            self._topics[name] = TopicState(
                name, settings.partitions, settings.retention, settings.retention_bytes
            )
        return self._topics[name]

    def group(self, topic: str, name: str, start: Start) -> Group:
        """The group of that name at a topic, created if it does not exist."""
        if (topic, name) not in self._groups:
            self._groups[topic, name] = Group(self.topic(topic), name, start)
        return self._groups[topic, name]

    def append(self, records: Sequence[Record]) -> None:
        """Append records and wake the readers of their topics."""
        for name, part in by_topic(records, _TOPIC_OF):
            self.topic(name).append(part)
            self.wake_receivers(name)

    def wake_receivers(self, topic: str) -> None:
        """Wake the receives that wait for a topic: there are new records, or partitions have other owners."""
        _wake(self._receivers[topic])

    def room(self, topics: Iterable[str], limit: int) -> Room:
        """The room of one read of these topics."""
        max_bytes = self._settings.max_bytes
        counted = limit * max(self.topic(name).largest for name in topics) > max_bytes
        return Room(limit, max_bytes if counted else math.inf)

    async def when_there_are_any(self, topics: Iterable[str], take: Callable[[], Sequence[T]]) -> Sequence[T]:
        """Wait until `take` returns any of the topics' deliveries, and return what it returns."""
        with self.lock:
            waiting = [self._receivers[name] for name in topics]
        return await self._when(take, waiting, math.inf)

    async def when_there_is_room(self, topics: Iterable[str], act: Callable[[], None]) -> None:
        """Wait until none of the topics is full, and run `act` under the same lock.

        Raises:
            FullError: one was still full after `publish_timeout`; `act` was not run.
        """
        timeout = self._settings.publish_timeout
        deadline = anyio.current_time() + timeout

        def attempt() -> bool:
            full = next((topic for topic in map(self.topic, topics) if not topic.has_room()), None)
            if full is None:
                act()
                return True
            if anyio.current_time() < deadline:
                return False
            raise FullError(
                f"topic {full.name!r} is full: group {full.slowest()!r} left {self._settings.retention} "
                f"records, or {self._settings.retention_bytes} bytes, unfinished for {timeout:g} s. Run that "
                "group's handler, or raise backend.retention or backend.retention_bytes."
            )

        await self._when(attempt, [self.publishers], deadline)

    async def _when(self, attempt: Callable[[], T], waiting: Sequence[set[Waiter]], deadline: float) -> T:
        """Run `attempt` under the lock until its result is true; between two runs wait among `waiting`.

        A call that is cancelled while it waits has done nothing. After the deadline it makes a last attempt.
        """
        await checkpoint()  # before the first attempt, so that a cancelled call does nothing at all
        while True:
            with self.lock:
                if result := attempt():
                    return result
                # Under the same lock, so that nothing is missed between the attempt and the wait.
                waiter = Waiter()
                for waiters in waiting:
                    waiters.add(waiter)
            try:
                with anyio.move_on_at(deadline):
                    await waiter.event.wait()
            finally:
                with self.lock:
                    for waiters in waiting:
                        waiters.discard(waiter)


class _Member:
    """One member of a group, at one or more topics. With a window, the group records ids."""

    def __init__(self, hub: Hub, topics: Sequence[str], group: str, start: Start, window: int) -> None:
        self._hub = hub
        self._window = window
        with hub.lock:
            self._groups = {name: hub.group(name, group, start) for name in topics}
            for name, joined in self._groups.items():
                joined.join(self)
                hub.wake_receivers(name)  # of partitions that another member was to get

    async def receive(self, limit: int) -> Sequence[Delivery]:
        return await self._hub.when_there_are_any(self._groups, lambda: self._take(limit))

    def _take(self, limit: int) -> list[Delivery]:
        taken: list[Delivery] = []
        room = self._hub.room(self._groups, limit)
        for name, group in list(self._groups.items()):
            taken += group.take(self, room)
            if room.full:
                self._groups[name] = self._groups.pop(name)  # the other topics come first next time
                break
        return taken

    async def complete(self, done: Sequence[Completion]) -> None:
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
                self._hub.wake_receivers(name)
        _wake(self._hub.publishers)

    async def begin(self, deliveries: Sequence[Delivery]) -> None:
        await checkpoint()
        with self._hub.lock:
            for name, group in self._groups.items():
                group.begin([d for d in deliveries if d.record.topic == name], self)

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
        """Leave the groups, which gives back all that is in flight with this member."""
        with self._hub.lock:
            for name, group in self._groups.items():
                group.leave(self)
                self._hub.wake_receivers(name)


class _Reader:
    """A reader without a group: no acks, no effect on retention. It skips records that were dropped."""

    def __init__(self, hub: Hub, topics: Sequence[str], start: Start) -> None:
        self._hub = hub
        self._topics = topics
        with hub.lock:
            partitions = [partition for name in topics for partition in hub.topic(name).partitions]
            self._turn = 0
            self._positions = {partition: partition.offset_of(start) for partition in partitions}
            self._ends = dict.fromkeys(partitions, math.inf)

    async def stop_at(self, end: Start) -> None:
        await checkpoint()
        with self._hub.lock:
            self._ends = {partition: partition.offset_of(end) for partition in self._positions}

    async def receive(self, limit: int) -> Sequence[Delivery]:
        def take() -> list[Sequence[Delivery]]:
            taken = self._take(limit)
            ended = all(max(self._positions[p], p.base) >= end for p, end in self._ends.items())
            # In a list, as an empty result means "wait on": `[[]]` says that the reader has ended.
            return [taken] if taken or ended else []

        [taken] = await self._hub.when_there_are_any(self._topics, take)
        return taken

    def _take(self, limit: int) -> list[Delivery]:
        taken: list[Delivery] = []
        room = self._hub.room(self._topics, limit)
        self._turn = (self._turn + 1) % len(self._positions)
        partitions = list(self._positions)
        for partition in (*partitions[self._turn :], *partitions[: self._turn]):
            position = max(self._positions[partition], partition.base)
            read = partition.read(position, room, self._ends[partition])
            self._positions[partition] = position + len(read)
            taken += read
            if room.full:
                break
        return sorted(taken, key=_TIMESTAMP_OF)  # between partitions there is no order but by time

    async def complete(self, done: Sequence[Completion]) -> None:
        await self._hub.publish([record for completion in done for record in completion.outputs])

    async def lag(self) -> int | None:
        return None
