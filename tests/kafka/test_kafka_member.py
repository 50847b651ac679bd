"""Commits of a member: few, in the background, and of everything that was completed at the end."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, RequestTimedOutError

from eventml.backends.kafka.assignment import Assignment, Chunk
from eventml.backends.kafka.commits import Committer
from eventml.backends.kafka.completion import AtLeastOnce
from eventml.backends.kafka.member import Member
from eventml.backends.kafka.partitions import CommittedOffset
from eventml.backends.kafka.publishing import Publisher
from eventml.backends.kafka.settings import Settings
from eventml.backends.kafka.subscription import GroupSubscription
from eventml.errors import UnavailableError
from eventml.records import Delivery, Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventml.backends.kafka.admin import AdminClient
    from eventml.backends.kafka.connection import ClientFactory

pytestmark = pytest.mark.anyio

ZERO = TopicPartition("t", 0)


class Broker:
    """A consumer that commits while `open` is set; the next commit raises `error`."""

    def __init__(self) -> None:
        self.commits: list[int] = []
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None

    async def commit(self, offsets: Mapping[TopicPartition, tuple[int, str]]) -> None:
        await self.open.wait()
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        self.commits.append(offsets[ZERO][0])


def assignment_of(count: int) -> tuple[Assignment, list[Delivery]]:
    assignment = Assignment()
    assignment.resume({ZERO: CommittedOffset(0)}, {})
    some = [Delivery(Record("t", b""), 0, offset, 0.0) for offset in range(count)]
    assignment.put(Chunk(ZERO, some, count))
    return assignment, assignment.take(count)


def committer_of(broker: Broker, assignment: Assignment) -> Committer:
    committer = Committer(broker, assignment, AtLeastOnce(cast("Publisher", None)), 0)
    committer.start()
    return committer


def member_of(broker: Broker) -> tuple[Member, list[Delivery]]:
    """A member in a rebalance, and the five records it has in flight, which were delivered before."""
    clients = SimpleNamespace(consumer=lambda *_: broker)
    completer = AtLeastOnce(cast("Publisher", None))
    member = Member(
        cast("ClientFactory", clients),
        {"t": 1},
        group="g",
        start="earliest",
        admin=cast("AdminClient", None),
        completer=completer,
        settings=Settings(),
    )
    member.assignment.resume({ZERO: CommittedOffset(0, attempts=((5, 1),))}, {ZERO: 5})
    member.assignment.put(Chunk(ZERO, assignment_of(5)[1], 5))
    taken = member.assignment.take(5)
    member.assignment.suspend()
    member.assignment.give_back()
    return member, taken


async def until(broker: Broker, offset: int) -> None:
    async with asyncio.timeout(5):
        while offset not in broker.commits:
            await asyncio.sleep(0.001)


async def test_what_is_completed_during_a_commit_is_in_the_next_one() -> None:
    broker = Broker()
    assignment, taken = assignment_of(100)
    commits = committer_of(broker, assignment)
    broker.open.clear()
    for delivery in taken:
        assignment.complete([delivery])
        commits.wake()
        await asyncio.sleep(0)
    broker.open.set()
    await until(broker, 100)
    await commits.stop(1)
    assert len(broker.commits) <= 2


async def test_without_changes_nothing_is_committed() -> None:
    broker = Broker()
    assignment, taken = assignment_of(3)
    commits = committer_of(broker, assignment)
    assignment.complete(taken)
    for _ in range(5):
        commits.wake()
        assert await commits.now(1)
        await asyncio.sleep(0.01)
    await commits.stop(1)
    assert broker.commits == [3]


@pytest.mark.parametrize("error", [CommitFailedError(), RequestTimedOutError()])
async def test_a_commit_that_failed_is_repeated(error: Exception) -> None:
    broker = Broker()
    assignment, taken = assignment_of(5)
    commits = committer_of(broker, assignment)
    broker.error = error
    assignment.complete(taken[:2])
    commits.wake()
    await asyncio.sleep(0.01)
    assert broker.commits == []
    assignment.complete(taken[2:])
    commits.wake()
    await until(broker, 5)
    await commits.stop(1)


async def test_a_commit_tells_whether_the_group_has_gone_on() -> None:
    broker = Broker()
    assignment, taken = assignment_of(5)
    commits = committer_of(broker, assignment)
    assignment.complete(taken)
    broker.error = CommitFailedError()
    assert not await commits.now(1)
    broker.open.clear()
    assert not await commits.now(0.01), "no answer"
    broker.open.set()
    assert await commits.now(1)
    await commits.stop(1)
    assert broker.commits == [5]


async def test_stopping_does_not_wait_for_a_broker_that_is_away() -> None:
    broker = Broker()
    assignment, taken = assignment_of(5)
    commits = committer_of(broker, assignment)
    broker.open.clear()
    assignment.complete(taken)
    commits.wake()
    await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        await commits.stop(0.01)
    assert broker.commits == []


async def test_an_attempt_that_begins_in_a_rebalance_is_counted_when_it_has_ended() -> None:
    broker = Broker()
    member, taken = member_of(broker)
    beginning = asyncio.create_task(member.begin(taken[:1]))
    await asyncio.sleep(0.01)
    assert not beginning.done()
    member.assignment.resume({ZERO: member.assignment.committed[ZERO]}, {ZERO: 5})
    async with asyncio.timeout(5):
        await beginning
    assert member.assignment.positions_lost(taken) == []
    assert member.assignment.committed[ZERO].attempts == ((1, 2), (5, 1))


async def test_a_member_that_failed_in_a_rebalance_begins_nothing() -> None:
    """Its successor could not receive, as long as this waited. It delivers them again; none is called."""
    member, taken = member_of(Broker())
    admin = cast("AdminClient", None)
    subscription = GroupSubscription(
        lambda _: member, topics="t", group="g", admin=admin, settings=Settings()
    )
    subscription._member = member
    assert subscription.lost_deliveries(taken) == ()
    member.fail(UnavailableError("no brokers"))
    async with asyncio.timeout(5):
        await subscription.begin(taken[:1])
    assert list(subscription.lost_deliveries(taken)) == [0, 1, 2, 3, 4]
