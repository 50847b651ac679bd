"""A backend that promises everything and keeps it: memory in a shell that can also lose, kill and refuse.

The broken backends are this one with one thing done otherwise.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

import anyio

from eventml.backends import memory
from eventml.backends.base import Capabilities, Subscription
from eventml.backends.memory.hub import _Member, _Reader
from eventml.errors import PublishError, TopicNotFoundError
from eventml.records import Record
from eventml.testing import contract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from eventml.backends.base import Backend, Completion, NewTopic, Start
    from eventml.backends.memory.group import Group
    from eventml.backends.memory.topic import Window
    from eventml.records import Delivery


Inner = Subscription
"""What a shell is around."""


def leave(inner: Inner) -> None:
    """Leave the groups of a member; a reader has none."""
    getattr(inner, "leave", lambda: None)()


LEASE = 0.05  # seconds
LARGEST = 1_000_000  # bytes of a value
MAX_BYTES = 100_000

EVERYTHING = Capabilities(
    ordering="per_key",
    redelivery="lease",
    atomic_completion=True,
    durable=True,
    counts_attempts=True,
    shared=True,
    deduplicates=True,
    max_bytes=MAX_BYTES,
    start_at_time=True,
)


class Broker:
    """What all connections share."""

    def __init__(self) -> None:
        self.hub = memory.Hub(memory.Settings(max_bytes=MAX_BYTES))
        self.topics: set[str] = set()
        self.connections = 0
        self.only: Connection | None = None


class Member:
    """A member of a group, or a reader, in a shell."""

    def __init__(self, connection: Connection, inner: Inner) -> None:
        self.connection = connection
        self.broker = connection.broker
        self.inner = inner

    async def receive(self, limit: int) -> Sequence[Delivery]:
        return await self.inner.receive(limit)

    async def complete(self, done: Sequence[Completion]) -> None:
        refused = {
            position: "too large"
            for position, completion in enumerate(done)
            if any(len(record.value) > LARGEST for record in completion.outputs)
        }
        await self.inner.complete([c for position, c in enumerate(done) if position not in refused])
        if refused:
            raise PublishError("some outputs are too large", refused)

    async def stop_at(self, end: Start) -> None:
        if not isinstance(self.inner, _Reader):
            raise NotImplementedError("a group has no end")
        await self.inner.stop_at(end)

    async def begin(self, deliveries: Sequence[Delivery]) -> None:
        if not isinstance(self.inner, _Member):
            raise NotImplementedError("nobody counts for a reader")
        await self.inner.begin(deliveries)

    def lost_deliveries(self, deliveries: Iterable[Delivery]) -> Collection[int]:
        if not isinstance(self.inner, _Member):
            raise NotImplementedError("a reader loses nothing")
        groups, lost = self.inner._groups, list[int]()
        for position, delivery in enumerate(deliveries):
            window = groups[delivery.record.topic].windows[delivery.partition]
            if window.owner is not self.inner or delivery.offset not in window.in_flight:
                lost.append(position)
        return lost

    async def completed_before(self, deliveries: Sequence[Delivery]) -> Collection[int]:
        if not isinstance(self.inner, _Member):
            raise NotImplementedError("nobody asks a reader")
        return await self.inner.completed_before(deliveries)

    async def lag(self) -> int | None:
        return await self.inner.lag()

    def groups(self) -> list[Group]:
        """Its groups, one a topic, for those who mean to meddle with them."""
        return list(self.inner._groups.values()) if isinstance(self.inner, _Member) else []

    def windows(self) -> list[Window]:
        """What its groups have in flight and given back."""
        return [window for group in self.groups() for window in group.windows]

    def leave(self) -> None:
        self.expire()

    def expire(self) -> None:
        """The broker's part of leaving, unknown to the member."""
        leave(self.inner)

    def rejoin(self) -> None:
        if isinstance(self.inner, _Member):
            with self.broker.hub.lock:
                for group in self.inner._groups.values():
                    group.join(self.inner)


class Connection:
    """A connection to a broker."""

    member: type[Member] = Member
    capabilities = EVERYTHING

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.members: list[Member] = []

    @classmethod
    def to(cls, broker: Broker) -> Self:
        return cls(broker)

    def close(self) -> None:
        """What is published stays."""

    def name_members(self, name: str) -> None:
        """What a killed member had in flight waits for nothing."""

    async def publish(self, records: Sequence[Record]) -> None:
        refused = {p: "too large" for p, record in enumerate(records) if len(record.value) > LARGEST}
        await self.broker.hub.publish([r for p, r in enumerate(records) if p not in refused])
        if refused:
            raise PublishError("some records are too large", refused)

    def subscribe(
        self, topics: Sequence[str], *, group: str | None, start: Start
    ) -> AbstractAsyncContextManager[Member]:
        return self.joined(topics, group, start, 0)

    def subscribe_deduplicated(
        self, topics: Sequence[str], *, group: str, start: Start, window: int
    ) -> AbstractAsyncContextManager[Member]:
        return self.joined(topics, group, start, window)

    @asynccontextmanager
    async def joined(
        self, topics: Sequence[str], group: str | None, start: Start, window: int
    ) -> AsyncIterator[Member]:
        if missing := set(topics) - self.broker.topics:
            raise TopicNotFoundError(f"there are no topics {missing}")
        inner = self.join(topics, group, start)
        if isinstance(inner, _Member):
            inner._window = window
        member = self.member(self, inner)
        self.members.append(member)
        try:
            yield member
        finally:
            if member in self.members:  # and has not been killed
                self.members.remove(member)
                member.leave()

    def join(self, topics: Sequence[str], group: str | None, start: Start) -> Inner:
        hub = self.broker.hub
        return _Reader(hub, topics, start) if group is None else _Member(hub, topics, group, start, 0)

    async def lag(self, topic: str, *, group: str) -> Mapping[int, int] | None:
        return await self.broker.hub.lag(topic, group=group)

    async def create_topics(self, topics: Sequence[NewTopic]) -> Sequence[str]:
        missing = await self.missing_topics([topic.name for topic in topics])
        self.broker.topics.update(missing)
        return missing

    async def missing_topics(self, names: Sequence[str]) -> Sequence[str]:
        return [name for name in names if name not in self.broker.topics]

    def kill(self) -> None:
        for member in self.members:
            member.leave()
        self.members.clear()

    async def expire(self) -> None:
        await anyio.sleep(LEASE)
        for member in self.members:
            member.expire()


def harness(connection: type[Connection] = Connection, *, patience: float = 10.0) -> contract.Harness:
    """A broker of its own, and all that the suite can ask for."""
    broker = Broker()

    @asynccontextmanager
    async def connect() -> AsyncIterator[Backend]:
        opened = connection.to(broker)
        broker.connections += 1
        try:
            yield opened
        finally:
            broker.connections -= 1
            opened.close()

    async def kill(backend: Connection) -> None:
        backend.kill()

    @asynccontextmanager
    async def freeze(backend: Connection) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(backend.expire)
            yield
            tasks.cancel_scope.cancel()
        for member in backend.members:
            member.rejoin()

    return contract.Harness(
        connect=connect,
        declared=EVERYTHING,
        kill=kill,
        freeze=freeze,
        lease=LEASE,
        refused=lambda topic: Record(topic, bytes(LARGEST + 1), b"key", "too large"),
        patience=patience,
        quiet=0.05,
    )
