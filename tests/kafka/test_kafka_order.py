"""The first calls for the events of a key are in order, while members are cut off and partitions move.

A model of one partition and two members, each with what its handler is to be called with next. A member that
has lost the partition does not know it before it notices; until then it goes on with what it had received.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

from aiokafka import TopicPartition
from hypothesis import example, given
from hypothesis import strategies as st

from eventml.backends.base import Completion
from eventml.backends.kafka.assignment import Assignment, Chunk
from eventml.backends.kafka.partitions import CommittedOffset
from eventml.records import Delivery, Record
from eventml.runtime.calls.caller import Item
from eventml.runtime.failures.poison import CountedCalls, split
from eventml.runtime.stats import Stats

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from eventml.backends.base import Subscription

PARTITION: Final = TopicPartition("t", 0)
RECORDS: Final = 60


class Group:
    """What the brokers know of a group, and which records handlers were called with."""

    def __init__(self) -> None:
        self.committed = CommittedOffset(0, active=True)  # a member before these has died
        self.called: list[int] = []
        self.members = [Member(self), Member(self)]
        self.owner = self.members[0]
        self.owner.begin_with_partition()

    def move(self) -> None:
        """Its owner is taken for dead, or gives the partition back: the other member gets it."""
        self.owner = self.members[self.owner is self.members[0]]
        if PARTITION in self.owner.assignment.states:
            self.owner.notice()
        self.owner.begin_with_partition()


class Member:
    """A member with its handler's step of counting attempts; `Subscription` as that needs it."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.assignment = Assignment()
        self.received: deque[Item] = deque()
        self.done: deque[Completion] = deque()
        self.calls = CountedCalls(self.call, cast("Subscription", self), "h", Stats())

    def begin_with_partition(self) -> None:
        self.assignment.resume({PARTITION: self.group.committed}, {PARTITION: RECORDS})
        self.assignment.start(8)

    def notice(self) -> None:
        if self.group.owner is not self or self.assignment.committed.get(PARTITION) != self.group.committed:
            self.assignment.resume({}, {})

    def commit(self) -> None:
        if self.group.owner is self:
            for partition, offset in self.assignment.to_commit().items():
                self.group.committed = offset
                self.assignment.record_commit({partition: offset})

    def receive(self, count: int) -> None:
        first = self.assignment.fetched.get(PARTITION, 0)
        offsets = range(first, min(first + count, RECORDS))
        some = [Delivery(Record("t", b"", b"k"), 0, offset, 0.0) for offset in offsets]
        if some:
            self.assignment.put(Chunk(PARTITION, some, first + len(some)))
        self.received.extend(Item(delivery, None) for delivery in self.assignment.take(count))

    async def handle(self) -> None:
        """All that was received, part by part."""
        while self.received:
            part = split(list(self.received), 100)[0].items
            for _ in part:
                self.received.popleft()
            self.done.extend(cast("Sequence[Completion]", await self.calls(part)))

    async def call(self, items: Sequence[Item]) -> list[Completion]:
        self.group.called += [int(item.delivery.offset) for item in items]
        return [Completion(item.delivery) for item in items]

    def complete(self) -> None:
        _, kept = self.calls.split_lost(list(self.done))
        self.assignment.complete(completion.delivery for completion in kept)
        self.done.clear()

    async def begin(self, deliveries: Sequence[Delivery]) -> None:
        if self.group.owner is not self:
            self.notice()  # its commit is refused until then
        self.assignment.begin(deliveries)
        self.commit()

    def lost_deliveries(self, deliveries: Iterable[Delivery]) -> Collection[int]:
        return self.assignment.positions_lost(deliveries) if self.assignment.forgot else ()


ACTIONS: Final = ["receive", "handle", "complete", "commit", "notice", "move"]
STEPS: Final = st.tuples(st.sampled_from(ACTIONS), st.integers(0, 1))


@example(steps=[("receive", 0), ("move", 0), ("handle", 0)])
@given(steps=st.lists(STEPS, max_size=60))
def test_the_first_calls_of_a_key_are_in_order(steps: list[tuple[str, int]]) -> None:
    async def run() -> Group:
        group = Group()
        for step, who in steps:
            member: Any = group.members[who]
            if step == "move":
                group.move()
            elif step == "receive":
                member.receive(12)
            elif step == "handle":
                await member.handle()
            else:
                getattr(member, step)()
        while group.committed.offset < RECORDS:
            group.owner.receive(12)
            await group.owner.handle()
            group.owner.complete()
            group.owner.commit()
        return group

    first = list(dict.fromkeys(asyncio.run(run()).called))
    assert first == list(range(RECORDS))
