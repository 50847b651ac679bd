"""The run of one case: its connection and topics, and members that join, leave and die."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from itertools import count
from typing import Any, TypeVar, cast
from unittest import SkipTest

import anyio
from anyio.abc import TaskGroup, TaskStatus

from eventml.backends.base import (
    Backend,
    Completion,
    CreatesTopics,
    Dedupe,
    DedupeSubscription,
    Deduplicates,
    LosesDeliveries,
    NamesMembers,
    NewTopic,
    Start,
    Subscription,
)
from eventml.records import Delivery, Record, count_bytes
from eventml.runtime import leaves
from eventml.testing.contract.case import (
    Case,
    Harness,
    expect,
    expect_each_once,
    expect_lag,
    expect_same,
    ids,
    within,
)

Subscribe = Callable[[Backend], AbstractAsyncContextManager[Subscription]]

T = TypeVar("T")

_PARTITIONS = 4
_MANY = 1_000  # default limit of a receive
_PATIENCES = 8  # limit of a whole case, in multiples of the harness's patience


def output_of(topic: str, source: Delivery | Record, by: str = "made") -> Record:
    """An output record of a delivery, as a predictor would publish it."""
    record = source.record if isinstance(source, Delivery) else source
    return Record(topic, b"of " + record.value, record.key, f"{record.id}/{by}")


class Member:
    """A subscription on a connection of its own that can leave or be killed at any time.

    Each call fails after the harness's patience. Each receive is checked against its limits.
    """

    backend: Backend

    def __init__(self, harness: Harness) -> None:
        self._harness = harness
        self._patience = harness.patience
        self._subscription: Subscription
        self._leaving, self._left = anyio.Event(), anyio.Event()
        self._killed = False

    async def hold(self, subscribe: Subscribe, *, task_status: TaskStatus[None]) -> None:
        """Be subscribed until `leave` is called: in a task of its own, so that members leave in any order."""
        try:
            async with self._harness.connect() as self.backend, subscribe(self.backend) as self._subscription:
                task_status.started()
                await self._leaving.wait()
        except Exception:
            if not self._killed:
                raise
        finally:
            self._left.set()

    async def receive(self, limit: int = _MANY) -> Sequence[Delivery]:
        """One receive, without a time limit."""
        deliveries = await self._subscription.receive(limit)
        expect(1 <= len(deliveries) <= limit, f"receive({limit}) returned {len(deliveries)} deliveries")
        most, size = self.backend.capabilities.max_bytes, count_bytes(deliveries)
        if most is not None and len(deliveries) > 1:
            expect(size <= most, f"receive() returned {len(deliveries)} deliveries of {size} bytes")
        return deliveries

    async def take(self, wanted: int, limit: int = _MANY) -> list[Delivery]:
        """Receive exactly this many deliveries."""
        taken: list[Delivery] = []
        with anyio.move_on_after(self._patience):
            while len(taken) < wanted:
                taken += await self.receive(min(limit, wanted - len(taken)))
        expect(len(taken) == wanted, f"{len(taken)} of {wanted} deliveries came within {self._patience:g} s")
        return taken

    async def take_all(self, wanted: Iterable[str]) -> list[Delivery]:
        """Receive until all of these ids were delivered."""
        taken: list[Delivery] = []
        missing = set(wanted)
        with anyio.move_on_after(self._patience):
            while missing:
                taken += await self.receive(1)
                missing.discard(taken[-1].record.id)
        expect(not missing, f"{len(missing)} deliveries did not come within {self._patience:g} s")
        return taken

    async def stop_at(self, end: Start) -> None:
        """Set the end of a reader, which is `Bounded`."""
        await within(self._patience, "stop_at() did not return", cast("Any", self._subscription).stop_at(end))

    async def expect_end(self, why: str) -> None:
        """Fail unless a reader says that it has ended."""
        came = await within(self._patience, f"{why}, but receive() waits", self._subscription.receive(_MANY))
        expect(not came, f"{why}, but these were delivered: {', '.join(ids(came))}")

    async def expect_nothing(self, why: str) -> None:
        """Fail if anything is delivered within the harness's quiet time."""
        came: Sequence[Delivery] = ()
        with anyio.move_on_after(self._harness.quiet):
            came = await self.receive()
        expect(not came, f"{why}, but these were delivered: {', '.join(ids(came))}")

    async def complete(self, done: Sequence[Completion]) -> None:
        """Call `complete` within the time limit."""
        work = self._subscription.complete(done)
        await within(self._patience, f"complete() of {len(done)} did not return", work)

    async def finish(
        self,
        deliveries: Iterable[Delivery],
        to: str | None = None,
        *,
        by: str = "made",
        dedupe: Dedupe = "off",
    ) -> None:
        """Complete deliveries, each with an output to a topic, or without outputs."""
        await self.complete(
            [Completion(d, [output_of(to, d, by)] if to is not None else (), dedupe) for d in deliveries]
        )

    async def begin(self, deliveries: Sequence[Delivery]) -> None:
        """Count the attempts of deliveries, as before the call of a handler."""
        work = cast("Any", self._subscription).begin(deliveries)  # `CountsAttempts`
        await within(self._patience, "begin() did not return", work)

    def knows_lost(self, deliveries: Sequence[Delivery]) -> list[str] | None:
        """The ids of those that the subscription knows to be another's; None if it loses none."""
        subscription = self._subscription
        if not isinstance(subscription, LosesDeliveries):
            return None
        return ids(deliveries[position] for position in sorted(subscription.lost_deliveries(deliveries)))

    async def completed_before(self, deliveries: Sequence[Delivery]) -> list[str]:
        """The ids of the deliveries that the group has recorded as completed."""
        asked = cast("DedupeSubscription", self._subscription).completed_before(deliveries)
        found = await within(self._patience, "completed_before() did not return", asked)
        return ids(deliveries[position] for position in sorted(found))

    async def expect_lag(self, when: str, wanted: int) -> None:
        """Fail unless the subscription's lag is this, or unknown."""
        lag = await within(self._patience, "lag() did not return", self._subscription.lag())
        expect_lag(when, lag, wanted)

    async def leave(self) -> None:
        """Leave the group, by the end of the context."""
        self._leaving.set()
        await within(self._patience, "a member did not leave", self._left.wait())

    async def die(self, kill: Callable[[Backend], Awaitable[None]]) -> None:
        """Be killed without leaving the group."""
        self._killed = True
        await within(self._patience, "a member was not killed", kill(self.backend))


class Trial:
    """The run of one case.

    Attributes:
        backend: A connection that belongs to no member.
    """

    topic: str
    backend: Backend

    def __init__(self, harness: Harness, tasks: TaskGroup, connection: AsyncExitStack) -> None:
        self.harness = harness
        self.tasks = tasks
        self._connection = connection
        self._prefix = f"contract-{secrets.token_hex(4)}"
        self._names = count(1)
        self.members: list[Member] = []
        self.group = self.name("group")

    async def connect(self) -> None:
        """Open the connection that belongs to no member; an earlier one is closed first."""
        await self._connection.aclose()
        self.backend = await self._connection.enter_async_context(self.harness.connect())

    def name(self, what: str) -> str:
        """A new, unique name."""
        return f"{self._prefix}-{what}{next(self._names)}"

    async def topics(self, size: int) -> list[str]:
        """New topics, created at once if the backend requires it."""
        names = [self.name("topic") for _ in range(size)]
        if isinstance(self.backend, CreatesTopics):
            topics = [NewTopic(name=name, partitions=_PARTITIONS) for name in names]
            await self.within("create_topics() did not return", self.backend.create_topics(topics))
        return names

    def records(self, size: int, *, topic: str | None = None, keys: int = 5) -> list[Record]:
        """New records with unique ids and keys in rotation, for the case's topic if no other is given."""
        return [
            Record(topic or self.topic, b"%d" % position, b"key-%d" % (position % keys), self.name("record"))
            for position in range(size)
        ]

    def given(self, name: str) -> Any:
        """An attribute of the harness; the case is skipped if it is None."""
        if (value := getattr(self.harness, name)) is None:
            raise SkipTest(f"the harness has no {name}")
        return value

    async def publish(self, records: Sequence[Record]) -> None:
        """Publish within the time limit."""
        await self.within(f"publish() of {len(records)} did not return", self.backend.publish(records))

    async def published(self, size: int, *, topic: str | None = None, keys: int = 5) -> list[Record]:
        """Publish new records, to the case's topic if no other is given, and return them."""
        records = self.records(size, topic=topic, keys=keys)
        await self.publish(records)
        return records

    async def join(
        self,
        *topics: str,
        group: str | None = None,
        start: Start = "earliest",
        window: int = 0,
        named: str | None = None,
    ) -> Member:
        """A new member, of the case's group and topic if no others are given.

        It deduplicates if there is a `window`, and has the name of `NamesMembers` if one is given.
        """

        def subscribe(backend: Backend) -> AbstractAsyncContextManager[Subscription]:
            joined, name = topics or (self.topic,), group or self.group
            if named is not None:
                cast("NamesMembers", backend).name_members(named)
            if not window:
                return backend.subscribe(joined, group=name, start=start)
            deduplicates = cast("Deduplicates", backend)
            return deduplicates.subscribe_deduplicated(joined, group=name, start=start, window=window)

        return await self._subscribed(subscribe)

    async def reader(self, topic: str | None = None, *, start: Start = "earliest") -> Member:
        """A new reader without a group, of the case's topic if no other is given."""
        read = [topic or self.topic]
        return await self._subscribed(lambda backend: backend.subscribe(read, group=None, start=start))

    async def _subscribed(self, subscribe: Subscribe) -> Member:
        member = Member(self.harness)
        await self.within("subscribe() was not entered", self.tasks.start(member.hold, subscribe))
        self.members.append(member)
        return member

    async def first_to_receive(self, members: Sequence[Member]) -> tuple[Member, Member, Delivery]:
        """Receive one delivery with either of two members: the one that gets it, the other, the delivery."""
        found: list[tuple[Member, Member, Delivery]] = []
        with anyio.move_on_after(self.harness.patience):
            async with anyio.create_task_group() as tasks:

                async def receive(member: Member, other: Member) -> None:
                    found.append((member, other, (await member.receive(1))[0]))
                    tasks.cancel_scope.cancel()

                for member, other in (members, members[::-1]):
                    tasks.start_soon(receive, member, other)
        expect(found, f"no member received anything within {self.harness.patience:g} s")
        return found[0]

    async def expect_topic(self, topic: str, records: Sequence[Record]) -> list[Delivery]:
        """The deliveries of a topic's records; fail unless it holds exactly these."""
        reader = await self.reader(topic)
        deliveries = await reader.take(len(records)) if records else []
        await reader.expect_nothing(f"{topic} should hold {len(records)} records")
        await reader.leave()
        expect_each_once(deliveries, records, "published")
        wanted = {record.id: record for record in records}
        for delivery in deliveries:
            expect_same(delivery.record, wanted[delivery.record.id])
        return deliveries

    async def expect_outputs(self, to: str, sources: Iterable[Record], by: str = "made") -> list[Delivery]:
        """The deliveries of an output topic; fail unless it holds exactly one output of each source."""
        return await self.expect_topic(to, [output_of(to, source, by) for source in sources])

    async def expect_finished(self) -> None:
        """Fail if a new member of the case's group is delivered anything."""
        await (await self.join()).expect_nothing("all was finished")

    async def lag(self) -> Mapping[int, int] | None:
        """The lag of the case's group at the case's topic, by partition."""
        return await self.within("lag() did not return", self.backend.lag(self.topic, group=self.group))

    async def within(self, what: str, work: Awaitable[T]) -> T:
        """The result of `work`; fail after the harness's patience, with `what` did not happen."""
        return await within(self.harness.patience, what, work)


async def check(case: Case, harness: Harness) -> None:
    """Run one case against a backend.

    Raises:
        AssertionError: the promise is broken; a note on the exception states the promise.
        unittest.SkipTest: a precondition is not met. pytest reports it as a skip, with the reason.
    """
    try:
        await within(_PATIENCES * harness.patience, "the case did not end", _run(case, harness))
    except (AssertionError, ExceptionGroup) as exc:
        found = leaves(exc)
        cause = next((one for one in found if isinstance(one, AssertionError)), found[0])
        if isinstance(cause, SkipTest):
            raise SkipTest(f"{case.name}: {cause}") from None
        cause.add_note(f"contract: {case.name}: {case.promise}")
        raise cause from None


async def _run(case: Case, harness: Harness) -> None:
    async with anyio.create_task_group() as tasks, AsyncExitStack() as connection:
        trial = Trial(harness, tasks, connection)
        await trial.connect()
        for name, wanted in case.needs.items():
            value = getattr(trial.backend.capabilities, name)
            if value not in (wanted if isinstance(wanted, tuple) else (wanted,)):
                raise SkipTest(f"{name} is {value!r}, this needs {wanted!r}")
        [trial.topic] = await trial.topics(1)
        await case.run(trial)
        for member in trial.members:
            await member.leave()
        tasks.cancel_scope.cancel()  # of the tasks that the case has started
