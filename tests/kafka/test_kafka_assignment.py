"""An assignment through rebalances: no record is lost, skipped, or delivered while it is in flight."""

from __future__ import annotations

import anyio
import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from eventml.backends.kafka.assignment import Assignment, Chunk
from eventml.backends.kafka.partitions import CommittedOffset, PartitionState
from eventml.records import Delivery, Record, count_bytes

ZERO, ONE = TopicPartition("t", 0), TopicPartition("t", 1)


def delivery(partition: TopicPartition, offset: int) -> Delivery:
    return Delivery(Record(partition.topic, b"%d" % offset), partition.partition, offset, 0.0)


def fetch(assignment: Assignment, partition: TopicPartition, count: int) -> None:
    start = assignment.fetched[partition]
    some = [delivery(partition, offset) for offset in range(start, start + count)]
    assignment.put(Chunk(partition, some, start + count))


class Rebalances(RuleBasedStateMachine):
    """Random steps of a member, against a model: what was completed, and what is in flight."""

    @initialize()
    def begin(self) -> None:
        self.assignment = Assignment()
        self.broker = {ZERO: CommittedOffset(0), ONE: CommittedOffset(0)}
        self.finished: dict[TopicPartition, set[int]] = {ZERO: set(), ONE: set()}
        self.in_flight: list[Delivery] = []
        self.dropped: list[Delivery] = []  # in flight when their partition was taken away, or read again
        self.assignment.resume(self.broker, {})

    @rule(partition=st.sampled_from([ZERO, ONE]), count=st.integers(1, 5))
    def fetch(self, partition: TopicPartition, count: int) -> None:
        if partition in self.assignment.states and self.assignment.active:
            fetch(self.assignment, partition, count)

    @rule(limit=st.integers(1, 7))
    def take(self, limit: int) -> None:
        taken = self.assignment.take(limit)
        assert len(taken) <= limit
        known = {(d.partition, d.offset) for d in self.in_flight}
        for got in taken:
            assert (got.partition, got.offset) not in known, "delivered while it is in flight"
            assert int(got.offset) not in self.finished[TopicPartition("t", got.partition)]
        self.in_flight += taken

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        if self.in_flight:
            some = data.draw(st.lists(st.sampled_from(self.in_flight), unique_by=id))
            held = [some[position] for position in self.assignment.positions_in_flight(some)]
            self.assignment.complete(some)
            for done in held:
                self.finished[TopicPartition("t", done.partition)].add(int(done.offset))
            self.in_flight = [d for d in self.in_flight if all(d is not done for done in some)]

    @rule()
    def finish_dropped(self) -> None:
        """A handler ends with what is in flight no more, or again as another delivery."""
        before = self.assignment.in_flight
        self.assignment.begin(self.dropped)
        self.assignment.complete(self.dropped)
        assert not self.assignment.positions_in_flight(self.dropped)
        lost = [*self.dropped, *self.in_flight]
        assert self.assignment.positions_lost(lost) == list(range(len(self.dropped)))
        assert self.assignment.forgot == bool(self.dropped)
        assert self.assignment.in_flight == before
        assert not any(state.called for state in self.assignment.states.values())

    @rule()
    def commit(self) -> None:
        offsets = self.assignment.to_commit()
        self.broker |= offsets
        self.assignment.record_commit(offsets)

    @rule(kept=st.sampled_from([(ZERO, ONE), (ZERO,), (ONE,), ()]), answered=st.booleans())
    def rebalance(self, kept: tuple[TopicPartition, ...], answered: bool) -> None:
        """The member commits, and may not hear that it has; it is assigned these partitions."""
        self.assignment.suspend()
        assert not self.assignment.take(10)
        offsets = self.assignment.to_commit()
        self.broker |= offsets
        if answered:
            self.assignment.record_commit(offsets)
        self.assignment.resume({partition: self.broker[partition] for partition in kept}, {})
        self.drop({ZERO, ONE}.difference(kept) if answered else {*{ZERO, ONE}.difference(kept), *offsets})
        assert self.assignment.in_flight == len(self.in_flight), "what is assigned again stays in flight"

    def drop(self, partitions: set[TopicPartition]) -> None:
        gone = {partition.partition for partition in partitions}
        self.dropped += [d for d in self.in_flight if d.partition in gone]
        self.in_flight = [d for d in self.in_flight if d.partition not in gone]

    @rule(partition=st.sampled_from([ZERO, ONE]))
    def another_member_commits(self, partition: TopicPartition) -> None:
        """Another member has committed for a partition."""
        self.commit()
        other, offset = PartitionState(self.broker[partition]), self.broker[partition].offset
        other.deliver({offset: None}, offset + 1)
        other.complete([offset])
        moved = other.to_commit()
        self.finished[partition].add(offset)
        self.broker[partition] = moved
        self.assignment.restart(partition, moved)
        if partition in self.assignment.states:
            self.drop({partition})

    @invariant()
    def no_commit_passes_an_unfinished_record(self) -> None:
        for partition, at in (self.broker | self.assignment.to_commit()).items():
            done = {n for start, stop in at.completed for n in range(start, stop)}
            done |= set(range(at.offset))
            assert done <= self.finished[partition]


TestRebalances = Rebalances.TestCase


def test_a_record_completed_out_of_order_is_not_delivered_again() -> None:
    assignment = Assignment()
    assignment.resume({ZERO: CommittedOffset(2, ((4, 6),))}, {})
    fetch(assignment, ZERO, 6)
    assert [d.offset for d in assignment.take(10)] == [2, 3, 6, 7]


def test_what_is_in_flight_of_a_partition_that_moves_is_forgotten() -> None:
    assignment = Assignment()
    assignment.resume({ZERO: CommittedOffset(0)}, {})
    fetch(assignment, ZERO, 3)
    taken = assignment.take(3)
    assignment.suspend()
    assignment.resume({ONE: CommittedOffset(0)}, {})
    assignment.complete(taken)
    assert not assignment.positions_in_flight(taken)
    assert assignment.to_commit() == {ONE: CommittedOffset(0, active=True)}


def test_a_late_completion_does_not_complete_what_was_delivered_again() -> None:
    """A commit whose answer was lost makes a member begin again with a partition that it keeps."""
    assignment = Assignment()
    assignment.resume({ZERO: CommittedOffset(0)}, {})
    fetch(assignment, ZERO, 3)
    former = assignment.take(3)
    assignment.suspend()
    assignment.resume({ZERO: CommittedOffset(0, active=True)}, {})
    fetch(assignment, ZERO, 3)
    again = assignment.take(3)
    assert not assignment.positions_in_flight(former)
    assignment.complete(former[1:])  # else the second output would come before the first
    assert assignment.positions_in_flight(again) == [0, 1, 2]


def test_a_rebalance_changes_the_version() -> None:
    assignment = Assignment()
    assignment.resume({ZERO: CommittedOffset(0)}, {})
    for change in (
        assignment.suspend,
        lambda: assignment.resume({ZERO: CommittedOffset(0)}, {}),
        assignment.end,
    ):
        version = assignment.version
        change()
        assert assignment.version != version


def test_markers_of_transactions_are_skipped_once_nothing_is_buffered() -> None:
    assignment = Assignment()
    assignment.resume({ZERO: CommittedOffset(0)}, {})
    fetch(assignment, ZERO, 2)
    assignment.complete(assignment.take(2))
    assignment.put(Chunk(ZERO, (), 3))
    assert assignment.to_commit() == {ZERO: CommittedOffset(3, active=True)}


@pytest.mark.anyio
async def test_it_waits_until_nothing_is_in_flight() -> None:
    assignment = Assignment()
    assignment.resume({ZERO: CommittedOffset(0)}, {})
    fetch(assignment, ZERO, 2)
    taken = assignment.take(2)
    assignment.suspend()
    assert not await assignment.until_idle(0.01)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep, 0)
        tasks.start_soon(_finish, assignment, taken)
        assert await assignment.until_idle(10)


async def _finish(assignment: Assignment, taken: list[Delivery]) -> None:
    assignment.complete(taken)


@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=40),
    chunk=st.integers(1, 10),
    limit=st.integers(1, 10),
)
def test_what_is_taken_is_bounded_in_bytes(sizes: list[int], chunk: int, limit: int) -> None:
    """A record larger than the bound is taken alone; it is full when as much is buffered."""
    most = 50
    assignment = Assignment(most)
    partition = TopicPartition("t", 0)
    assignment.resume({partition: CommittedOffset(0)}, {})
    records = [Delivery(Record("t", bytes(size)), 0, n, 0.0) for n, size in enumerate(sizes)]
    taken: list[Delivery] = []
    while len(taken) < len(records):
        start = assignment.fetched[partition]
        while start < len(records) and not assignment.full(limit):
            start = min(start + chunk, len(records))
            assignment.put(Chunk(partition, records[assignment.fetched[partition] : start], start))
        some = assignment.take(limit)
        assert 1 <= len(some) <= limit
        assert len(some) == 1 or count_bytes(some) <= most
        taken += some
    assert taken == records
    assert not assignment.full(limit)
