"""Commits: few, in the background, and never of less than was finished at the end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, RequestTimedOutError

from eventml.backends.kafka.assignment import Assignment, Chunk
from eventml.backends.kafka.commits import Commits
from eventml.backends.kafka.progress import Place
from eventml.records import Delivery, Record

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.anyio

ZERO = TopicPartition("t", 0)


class Broker:
    """Takes commits when it is let."""

    def __init__(self) -> None:
        self.commits: list[int] = []
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None

    async def commit(self, places: Mapping[TopicPartition, Place]) -> None:
        await self.open.wait()
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        self.commits.append(places[ZERO].offset)


def assignment_of(count: int) -> tuple[Assignment, list[Delivery]]:
    assignment = Assignment()
    assignment.resume({ZERO: Place(0)}, {})
    some = [Delivery(Record("t", b""), 0, offset, 0.0) for offset in range(count)]
    assignment.put(Chunk(ZERO, some, count))
    return assignment, assignment.take(count)


async def until(broker: Broker, offset: int) -> None:
    async with asyncio.timeout(5):
        while offset not in broker.commits:
            await asyncio.sleep(0.001)


async def test_what_is_finished_during_a_commit_goes_into_one_more() -> None:
    broker = Broker()
    assignment, taken = assignment_of(100)
    commits = Commits(broker.commit, assignment, 0)
    broker.open.clear()
    for delivery in taken:
        assignment.finish([delivery])
        commits.wake()
        await asyncio.sleep(0)
    broker.open.set()
    await until(broker, 100)
    await commits.close(1)
    assert len(broker.commits) <= 2


async def test_nothing_new_is_nothing_to_commit() -> None:
    broker = Broker()
    assignment, taken = assignment_of(3)
    commits = Commits(broker.commit, assignment, 0)
    assignment.finish(taken)
    for _ in range(5):
        commits.wake()
        assert await commits.now(1)
        await asyncio.sleep(0.01)
    await commits.close(1)
    assert broker.commits == [3]


@pytest.mark.parametrize("error", [CommitFailedError(), RequestTimedOutError()])
async def test_a_commit_that_failed_is_made_up_for(error: Exception) -> None:
    broker = Broker()
    assignment, taken = assignment_of(5)
    commits = Commits(broker.commit, assignment, 0)
    broker.error = error
    assignment.finish(taken[:2])
    commits.wake()
    await asyncio.sleep(0.01)
    assert broker.commits == []
    assignment.finish(taken[2:])
    commits.wake()
    await until(broker, 5)
    await commits.close(1)


async def test_the_last_commit_says_whether_the_group_still_knows_us() -> None:
    broker = Broker()
    assignment, taken = assignment_of(5)
    commits = Commits(broker.commit, assignment, 0)
    assignment.finish(taken)
    broker.error = CommitFailedError()
    assert not await commits.now(1)
    broker.open.clear()
    assert not await commits.now(0.01), "nobody answered"
    broker.open.set()
    assert await commits.now(1)
    await commits.close(1)
    assert broker.commits == [5]


async def test_closing_does_not_wait_for_a_broker_that_is_gone() -> None:
    broker = Broker()
    assignment, taken = assignment_of(5)
    commits = Commits(broker.commit, assignment, 0)
    broker.open.clear()
    assignment.finish(taken)
    commits.wake()
    await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        await commits.close(0.01)
    assert broker.commits == []
