"""The set-up of one case: topics, groups, and members that join, leave and die."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import anyio

from eventml.backends.base import Completion, CreatesTopics, NewTopic
from eventml.records import Record
from eventml.testing.contract import expect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import TaskGroup, TaskStatus

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


class OpenContext(Generic[T]):
    """A context manager that stays entered until `release`, in a task of its own.

    So contexts may be left in any order.

    Attributes:
        value: The value that entering returned.
        broken: Whether the case broke it on purpose; errors of leaving it are ignored then.
    """

    def __init__(self, value: T) -> None:
        self.value = value
        self.broken = False
        self._release = anyio.Event()
        self._released = anyio.Event()

    async def release(self) -> None:
        """Leave the context, and wait until it is left."""
        self._release.set()
        await self._released.wait()

    async def until_released(self) -> None:
        """Wait for `release` to be called."""
        await self._release.wait()

    def mark_left(self) -> None:
        """Report that the context has been left."""
        self._released.set()


async def open_in_task(tasks: TaskGroup, context: AbstractAsyncContextManager[T]) -> OpenContext[T]:
    """Enter a context in a new task of the group. Raises what entering raises."""
    opened_context: OpenContext[T] = await tasks.start(_open_in_task, context)
    return opened_context


async def _open_in_task(
    context: AbstractAsyncContextManager[T], *, task_status: TaskStatus[OpenContext[T]]
) -> None:
    opened_context: OpenContext[T] | None = None
    try:
        async with context as value:
            opened_context = OpenContext(value)
            task_status.started(opened_context)
            await opened_context.until_released()
    except Exception:
        if opened_context is None or not opened_context.broken:
            raise
    finally:
        if opened_context is not None:
            opened_context.mark_left()


_PARTITIONS = 4
MANY = 1_000  # default limit of a receive


class Member:
    """A subscription on a connection of its own that can leave or be killed at any time.

    Each call fails after the harness's patience. Each receive is checked against its limit.
    """

    def __init__(self, opened_context: OpenContext[tuple[Backend, Subscription]], harness: Harness) -> None:
        self.backend, self.subscription = opened_context.value
        self._context = opened_context
        self._harness = harness

    async def receive(self, limit: int = MANY) -> Sequence[Delivery]:
        """One receive, without a time limit."""
        deliveries = await self.subscription.receive(limit)
        expect.true(1 <= len(deliveries) <= limit, f"receive({limit}) returned {len(deliveries)} deliveries")
        return deliveries

    async def take(self, wanted: int, limit: int = MANY) -> list[Delivery]:
        """Receive exactly this many deliveries."""
        taken: list[Delivery] = []

        async def fill() -> list[Delivery]:
            while len(taken) < wanted:
                taken.extend(await self.receive(min(limit, wanted - len(taken))))
            return taken

        return await self._bounded(lambda: f"{len(taken)} of {wanted} deliveries were received", fill())

    async def take_all(self, wanted: Iterable[str]) -> list[Delivery]:
        """Receive until all of these ids were delivered."""
        taken: list[Delivery] = []
        missing = set(wanted)

        async def fill() -> list[Delivery]:
            while missing:
                taken.extend(await self.receive(1))
                missing.discard(taken[-1].record.id)
            return taken

        return await self._bounded(lambda: f"{len(missing)} deliveries were not received", fill())

    async def take_silence(self, why: str) -> None:
        """Fail if anything is delivered within the harness's quiet time."""
        came: Sequence[Delivery] = ()
        with anyio.move_on_after(self._harness.quiet):
            came = await self.receive()
        expect.true(not came, f"{why}, but these were delivered: {', '.join(expect.ids(came))}")

    async def complete(self, done: Sequence[Completion]) -> None:
        """Call `complete` within the time limit."""
        await self._bounded(
            lambda: f"complete() of {len(done)} did not return", self.subscription.complete(done)
        )

    async def finish(
        self, deliveries: Iterable[Delivery], outputs: Sequence[Record] = (), *, dedupe: Dedupe = "off"
    ) -> None:
        """Complete deliveries, each with these outputs."""
        await self.complete([Completion(delivery, outputs, dedupe) for delivery in deliveries])

    async def completed_before(self, deliveries: Sequence[Delivery]) -> list[str]:
        """The ids of the deliveries that the group has recorded as completed."""
        expect.true(
            hasattr(self.subscription, "completed_before"),
            "subscribe_deduplicated() lacks completed_before()",
        )
        asked = cast("DedupeSubscription", self.subscription).completed_before(deliveries)
        found = await self._bounded(lambda: "completed_before() did not return", asked)
        return expect.ids(deliveries[position] for position in sorted(found))

    async def lag(self) -> int | None:
        """The subscription's lag."""
        return await self._bounded(lambda: "lag() did not return", self.subscription.lag())

    async def leave(self) -> None:
        """Leave the group."""
        await self._bounded(lambda: "a member did not leave", self._context.release())

    async def die(self) -> None:
        """Be killed without leaving the group. For cases that need KILL."""
        if self._harness.kill is None:
            raise RuntimeError("the case must declare the need KILL")
        self._context.broken = True
        await self._bounded(lambda: "a member was not killed", self._harness.kill(self.backend))

    async def _bounded(self, what: Callable[[], str], work: Awaitable[T]) -> T:
        return await expect.within(self._harness.patience, what, work)


class Trial:
    """The broker connection, topics and members of one case. Made by `opened`."""

    def __init__(self, harness: Harness, tasks: TaskGroup, connection: OpenContext[Backend]) -> None:
        self.harness = harness
        self.tasks = tasks
        self._connection = connection
        self._members: list[OpenContext[tuple[Backend, Subscription]]] = []
        self._prefix = f"contract-{secrets.token_hex(4)}"
        self._names = count(1)

    @property
    def backend(self) -> Backend:
        """A connection that belongs to no member."""
        return self._connection.value

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the connected backend."""
        return self.backend.capabilities

    def name(self, what: str) -> str:
        """A new, unique name."""
        return f"{self._prefix}-{what}{next(self._names)}"

    async def topic(self) -> str:
        """A new topic, created if the backend requires it."""
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
        """New records with unique ids and keys in rotation."""
        ids = [self.name("record") for _ in range(size)]
        return [
            Record(topic, f"{position}".encode(), b"key-%d" % (position % keys), id_)
            for position, id_ in enumerate(ids)
        ]

    def output(self, topic: str, source: Delivery | Record, by: str = "made") -> Record:
        """An output record derived from a delivery, as a predictor would publish."""
        record = source if isinstance(source, Record) else source.record
        return Record(topic, b"of " + record.value, record.key, f"{record.id}/{by}")

    async def publish(self, records: Sequence[Record]) -> None:
        """Publish within the time limit."""
        await self.bounded(
            lambda: f"publish() of {len(records)} did not return", self.backend.publish(records)
        )

    async def published(self, size: int, *, topic: str | None = None, keys: int = 5) -> list[Record]:
        """Publish new records, on a new topic if none is given, and return them."""
        records = self.records(topic or await self.topic(), size, keys=keys)
        await self.publish(records)
        return records

    async def join(
        self, *topics: str, group: str | None, start: Start = "earliest", window: int = 0
    ) -> Member:
        """A new member of a group, or a reader if `group` is None; deduplicates if `window` is not 0."""
        context = _subscribed(self.harness, topics, group=group, start=start, window=window)
        opened_context = await self.bounded(
            lambda: "a member did not join", open_in_task(self.tasks, context)
        )
        self._members.append(opened_context)
        return Member(opened_context, self.harness)

    async def first_to_receive(self, members: Sequence[Member]) -> tuple[Member, Delivery]:
        """Receive one delivery with whichever member gets it first. The others receive nothing."""
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
        """The records of a topic; fail unless it holds exactly this many."""
        reader = await self.join(topic, group=None)
        try:
            deliveries = await reader.take(wanted) if wanted else []
            await reader.take_silence(f"{topic} should hold {wanted} records")
        finally:
            await reader.leave()
        return deliveries

    async def lag(self, topic: str, group: str) -> Mapping[int, int] | None:
        """The group's lag by partition."""
        return await self.bounded(lambda: "lag() did not return", self.backend.lag(topic, group=group))

    async def reconnect(self) -> None:
        """Replace the connection that belongs to no member."""
        await self.bounded(lambda: "a connection was not closed", self._connection.release())
        self._connection = await self.bounded(
            lambda: "connect() did not return", open_in_task(self.tasks, self.harness.connect())
        )

    async def close(self) -> None:
        """Close all members and the connection, the last opened first."""
        open_still: list[OpenContext[Any]] = [*reversed(self._members), self._connection]
        for opened_context in open_still:
            with anyio.move_on_after(self.harness.patience):
                await opened_context.release()
        self.tasks.cancel_scope.cancel()

    async def bounded(self, what: Callable[[], str], work: Awaitable[T]) -> T:
        """The result of `work`; fail with `what()` after the harness's patience."""
        return await expect.within(self.harness.patience, what, work)


@asynccontextmanager
async def opened(harness: Harness) -> AsyncIterator[Trial]:
    """A connected trial. Leaving it closes all of its members."""
    async with anyio.create_task_group() as tasks:
        trial = Trial(harness, tasks, await open_in_task(tasks, harness.connect()))
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
        "it declares `deduplicates` but lacks subscribe_deduplicated()",
    )
    return cast("Deduplicates", backend).subscribe_deduplicated(
        topics, group=group, start=start, window=window
    )
