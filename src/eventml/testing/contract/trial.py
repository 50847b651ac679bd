"""One case at work: its topics, its groups, and members that come and go."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio

from eventml.backends.base import Completion, CreatesTopics, NewTopic
from eventml.records import Record
from eventml.testing.contract import expect
from eventml.testing.contract.held import Held, hold

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import TaskGroup

    from eventml.backends.base import (
        Backend,
        Capabilities,
        Dedupe,
        DedupeSubscription,
        Deduplicates,
        Start,
        Subscription,
    )
    from eventml.records import Delivery
    from eventml.testing.contract.harness import Harness

T = TypeVar("T")

_PARTITIONS = 4
MANY = 1_000  # a limit for those who do not care


class Member:
    """A subscription, on a connection of its own, that may leave at any time.

    Nothing that it does lasts longer than the harness's patience, and what every receive returns is
    checked against its limit.
    """

    def __init__(self, held: Held[tuple[Backend, Subscription]], harness: Harness) -> None:
        self.backend, self.subscription = held.value
        self._held = held
        self._harness = harness

    async def receive(self, limit: int = MANY) -> Sequence[Delivery]:
        """One receive, however long it waits."""
        deliveries = await self.subscription.receive(limit)
        expect.true(1 <= len(deliveries) <= limit, f"receive({limit}) returned {len(deliveries)} deliveries")
        return deliveries

    async def take(self, wanted: int, limit: int = MANY) -> list[Delivery]:
        """Receive until so many have come, and not one more."""
        taken: list[Delivery] = []

        async def fill() -> list[Delivery]:
            while len(taken) < wanted:
                taken.extend(await self.receive(min(limit, wanted - len(taken))))
            return taken

        return await self._bounded(lambda: f"{len(taken)} of {wanted} deliveries came", fill())

    async def take_all(self, wanted: Iterable[str]) -> list[Delivery]:
        """Receive until all of these ids have come."""
        taken: list[Delivery] = []
        missing = set(wanted)

        async def fill() -> list[Delivery]:
            while missing:
                taken.extend(await self.receive(1))
                missing.discard(taken[-1].record.id)
            return taken

        return await self._bounded(lambda: f"{len(missing)} deliveries have not come", fill())

    async def take_silence(self, why: str) -> None:
        """Fail if anything comes within the harness's quiet time."""
        came: Sequence[Delivery] = ()
        with anyio.move_on_after(self._harness.quiet):
            came = await self.receive()
        expect.true(not came, f"{why}, but these came: {', '.join(expect.ids(came))}")

    async def complete(self, done: Sequence[Completion]) -> None:
        await self._bounded(
            lambda: f"complete() of {len(done)} did not return", self.subscription.complete(done)
        )

    async def finish(
        self, deliveries: Iterable[Delivery], outputs: Sequence[Record] = (), *, dedupe: Dedupe = "off"
    ) -> None:
        """Complete deliveries, each with these outputs."""
        await self.complete([Completion(delivery, outputs, dedupe) for delivery in deliveries])

    async def completed_before(self, deliveries: Sequence[Delivery]) -> list[str]:
        """The ids of those that the group remembers."""
        expect.true(
            hasattr(self.subscription, "completed_before"),
            "subscribe_deduplicated() lacks completed_before()",
        )
        asked = cast("DedupeSubscription", self.subscription).completed_before(deliveries)
        found = await self._bounded(lambda: "completed_before() did not return", asked)
        return expect.ids(deliveries[position] for position in sorted(found))

    async def lag(self) -> int | None:
        return await self._bounded(lambda: "lag() did not return", self.subscription.lag())

    async def leave(self) -> None:
        """Leave the group in good order."""
        await self._bounded(lambda: "a member did not leave", self._held.release())

    async def die(self) -> None:
        """Go without a word. For cases that need KILL."""
        if self._harness.kill is None:
            raise RuntimeError("this case has to need KILL")
        self._held.broken = True
        await self._bounded(lambda: "a member was not killed", self._harness.kill(self.backend))

    async def _bounded(self, what: Callable[[], str], work: Awaitable[T]) -> T:
        return await expect.within(self._harness.patience, what, work)


class Trial:
    """What a case has in its hands. Made by `opened`."""

    def __init__(self, harness: Harness, tasks: TaskGroup, connection: Held[Backend]) -> None:
        self.harness = harness
        self.tasks = tasks
        self._connection = connection
        self._members: list[Held[tuple[Backend, Subscription]]] = []
        self._prefix = f"contract-{secrets.token_hex(4)}"
        self._names = count(1)

    @property
    def backend(self) -> Backend:
        """A connection that belongs to no member."""
        return self._connection.value

    @property
    def capabilities(self) -> Capabilities:
        return self.backend.capabilities

    def name(self, what: str) -> str:
        """A name that nobody has used."""
        return f"{self._prefix}-{what}{next(self._names)}"

    async def topic(self) -> str:
        """A new topic, created where it has to be."""
        [name] = await self.topics(1)
        return name

    async def topics(self, size: int) -> list[str]:
        """New topics, created at once."""
        names = [self.name("topic") for _ in range(size)]
        await self.bounded(lambda: f"{size} topics were not created", self._create(names))
        return names

    async def _create(self, names: Sequence[str]) -> None:
        if self.harness.create_topic is not None:
            async with anyio.create_task_group() as tasks:
                for name in names:
                    tasks.start_soon(self.harness.create_topic, name)
        elif isinstance(self.backend, CreatesTopics):
            await self.backend.create_topics([NewTopic(name=name, partitions=_PARTITIONS) for name in names])

    def records(self, topic: str, size: int, *, keys: int = 5) -> list[Record]:
        """New records, each with an id of its own, their keys taking turns."""
        ids = [self.name("record") for _ in range(size)]
        return [
            Record(topic, f"{position}".encode(), b"key-%d" % (position % keys), id_)
            for position, id_ in enumerate(ids)
        ]

    def output(self, topic: str, source: Delivery | Record, by: str = "made") -> Record:
        """What a predictor would make of a delivery."""
        record = source if isinstance(source, Record) else source.record
        return Record(topic, b"of " + record.value, record.key, f"{record.id}/{by}")

    async def publish(self, records: Sequence[Record]) -> None:
        await self.bounded(
            lambda: f"publish() of {len(records)} did not return", self.backend.publish(records)
        )

    async def published(self, size: int, *, topic: str | None = None, keys: int = 5) -> list[Record]:
        """New records, published, on a new topic if none is given."""
        records = self.records(topic or await self.topic(), size, keys=keys)
        await self.publish(records)
        return records

    async def join(
        self, *topics: str, group: str | None, start: Start = "earliest", window: int = 0
    ) -> Member:
        """A member of a group, that remembers so many ids, or with None a reader."""
        context = _subscribed(self.harness, topics, group=group, start=start, window=window)
        held = await self.bounded(lambda: "a member did not join", hold(self.tasks, context))
        self._members.append(held)
        return Member(held, self.harness)

    async def first_to_receive(self, members: Sequence[Member]) -> tuple[Member, Delivery]:
        """A delivery, and to which of the members it came. The others receive nothing by this."""
        found: list[tuple[Member, Delivery]] = []

        async def receive(member: Member, tasks: TaskGroup) -> None:
            [delivery] = await member.receive(1)
            found.append((member, delivery))
            tasks.cancel_scope.cancel()

        async def race() -> None:
            async with anyio.create_task_group() as tasks:
                for member in members:
                    tasks.start_soon(receive, member, tasks)

        await self.bounded(lambda: "no member received anything", race())
        return found[0]

    async def read(self, topic: str, wanted: int) -> list[Delivery]:
        """The first so many records of a topic, and fail if there are more."""
        reader = await self.join(topic, group=None)
        try:
            deliveries = await reader.take(wanted) if wanted else []
            await reader.take_silence(f"{topic} has to hold {wanted} records")
        finally:
            await reader.leave()
        return deliveries

    async def lag(self, topic: str, group: str) -> Mapping[int, int] | None:
        return await self.bounded(lambda: "lag() did not return", self.backend.lag(topic, group=group))

    async def reconnect(self) -> None:
        """Close the connection that belongs to no member, and open another."""
        await self.bounded(lambda: "a connection was not closed", self._connection.release())
        self._connection = await self.bounded(
            lambda: "nobody answered", hold(self.tasks, self.harness.connect())
        )

    async def close(self) -> None:
        """Close whatever is open still, the last first."""
        open_still: list[Held[Any]] = [*reversed(self._members), self._connection]
        for held in open_still:
            with anyio.move_on_after(self.harness.patience):
                await held.release()
        self.tasks.cancel_scope.cancel()

    async def bounded(self, what: Callable[[], str], work: Awaitable[T]) -> T:
        return await expect.within(self.harness.patience, what, work)


@asynccontextmanager
async def opened(harness: Harness) -> AsyncIterator[Trial]:
    """A trial, connected."""
    async with anyio.create_task_group() as tasks:
        trial = Trial(harness, tasks, await hold(tasks, harness.connect()))
        yield trial
        await trial.close()


@asynccontextmanager
async def _subscribed(
    harness: Harness, topics: Sequence[str], *, group: str | None, start: Start, window: int
) -> AsyncIterator[tuple[Backend, Subscription]]:
    async with harness.connect() as backend, _joining(backend, topics, group, start, window) as subscription:
        yield backend, subscription


def _joining(
    backend: Backend, topics: Sequence[str], group: str | None, start: Start, window: int
) -> AbstractAsyncContextManager[Subscription]:
    if not window or group is None:
        return backend.subscribe(topics, group=group, start=start)
    expect.true(
        hasattr(backend, "subscribe_deduplicated"),
        "it declares `deduplicates`, and has no subscribe_deduplicated()",
    )
    return cast("Deduplicates", backend).subscribe_deduplicated(
        topics, group=group, start=start, window=window
    )
