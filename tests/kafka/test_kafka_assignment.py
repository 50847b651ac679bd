"""An assignment through rebalances: nothing is lost, skipped, or handed out twice."""

from __future__ import annotations

import anyio
import pytest
from aiokafka import TopicPartition
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from eventml.backends.kafka.assignment import Assignment, Chunk
from eventml.backends.kafka.progress import Place, Progress
from eventml.records import Delivery, Record

ZERO, ONE = TopicPartition("t", 0), TopicPartition("t", 1)


def delivery(partition: TopicPartition, offset: int) -> Delivery:
    return Delivery(Record(partition.topic, b"%d" % offset), partition.partition, offset, 0.0)


def fetch(assignment: Assignment, partition: TopicPartition, count: int) -> None:
    start = assignment.fetched[partition]
    some = [delivery(partition, offset) for offset in range(start, start + count)]
    assignment.put(Chunk(partition, some, start + count))


class Rebalances(RuleBasedStateMachine):
    """A member at random, against what it should know: what was finished, and what it has in hand."""

    @initialize()
    def begin(self) -> None:
        self.assignment = Assignment()
        self.broker = {ZERO: Place(0), ONE: Place(0)}
        self.finished: dict[TopicPartition, set[int]] = {ZERO: set(), ONE: set()}
        self.in_flight: list[Delivery] = []
        self.assignment.resume(self.broker, {})

    @rule(partition=st.sampled_from([ZERO, ONE]), count=st.integers(1, 5))
    def fetch(self, partition: TopicPartition, count: int) -> None:
        if partition in self.assignment.partitions and self.assignment.active:
            fetch(self.assignment, partition, count)

    @rule(limit=st.integers(1, 7))
    def take(self, limit: int) -> None:
        taken = self.assignment.take(limit)
        assert len(taken) <= limit
        known = {(d.partition, d.offset) for d in self.in_flight}
        for got in taken:
            assert (got.partition, got.offset) not in known, "handed out while it is in hand"
            assert int(got.offset) not in self.finished[TopicPartition("t", got.partition)]
        self.in_flight += taken

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        if self.in_flight:
            some = data.draw(st.lists(st.sampled_from(self.in_flight), unique_by=id))
            held = [some[position] for position in self.assignment.held(some)]
            self.assignment.finish(some)
            for done in held:
                self.finished[TopicPartition("t", done.partition)].add(int(done.offset))
            self.in_flight = [d for d in self.in_flight if d not in some]

    @rule()
    def commit(self) -> None:
        places = self.assignment.to_commit()
        self.broker |= places
        self.assignment.committed(places)

    @rule(kept=st.sampled_from([(ZERO, ONE), (ZERO,), (ONE,), ()]))
    def rebalance(self, kept: tuple[TopicPartition, ...]) -> None:
        self.assignment.suspend()
        assert not self.assignment.take(10)
        self.commit()
        self.assignment.resume({partition: self.broker[partition] for partition in kept}, {})
        self.in_flight = [d for d in self.in_flight if TopicPartition("t", d.partition) in kept]
        assert self.assignment.in_flight == len(self.in_flight), "what comes straight back stays in hand"

    @rule(partition=st.sampled_from([ZERO, ONE]))
    def another_was_there(self, partition: TopicPartition) -> None:
        """Somebody else has moved the place of a partition."""
        self.commit()
        other, offset = Progress(self.broker[partition]), self.broker[partition].offset
        other.deliver([offset], offset + 1)
        other.finish([offset])
        moved = other.place()
        self.finished[partition].add(offset)
        self.broker[partition] = moved
        self.assignment.restart(partition, moved)
        if partition in self.assignment.partitions:
            self.in_flight = [d for d in self.in_flight if d.partition != partition.partition]

    @invariant()
    def nothing_unfinished_is_passed(self) -> None:
        for partition, place in (self.broker | self.assignment.to_commit()).items():
            done = {n for start, stop in place.finished for n in range(start, stop)}
            done |= set(range(place.offset))
            assert done <= self.finished[partition]


TestRebalances = Rebalances.TestCase


def test_what_was_finished_out_of_order_is_not_handed_out_again() -> None:
    assignment = Assignment()
    assignment.resume({ZERO: Place(2, ((4, 6),))}, {})
    fetch(assignment, ZERO, 6)
    assert [d.offset for d in assignment.take(10)] == [2, 3, 6, 7]


def test_a_partition_that_moved_away_forgets_what_was_in_hand() -> None:
    assignment = Assignment()
    assignment.resume({ZERO: Place(0)}, {})
    fetch(assignment, ZERO, 3)
    taken = assignment.take(3)
    assignment.suspend()
    assignment.resume({ONE: Place(0)}, {})
    assignment.finish(taken)
    assert not assignment.held(taken)
    assert assignment.to_commit() == {ONE: Place(0, at_work=True)}


def test_a_fetch_from_before_a_rebalance_shows_by_the_version() -> None:
    assignment = Assignment()
    assignment.resume({ZERO: Place(0)}, {})
    for change in (assignment.suspend, lambda: assignment.resume({ZERO: Place(0)}, {}), assignment.end):
        version = assignment.version
        change()
        assert assignment.version != version


def test_marks_of_transactions_are_passed_over_once_nothing_waits() -> None:
    assignment = Assignment()
    assignment.resume({ZERO: Place(0)}, {})
    fetch(assignment, ZERO, 2)
    assignment.finish(assignment.take(2))
    assignment.put(Chunk(ZERO, (), 3))
    assert assignment.to_commit() == {ZERO: Place(3, at_work=True)}


@pytest.mark.anyio
async def test_it_waits_until_nothing_is_in_hand() -> None:
    assignment = Assignment()
    assignment.resume({ZERO: Place(0)}, {})
    fetch(assignment, ZERO, 2)
    taken = assignment.take(2)
    assignment.suspend()
    assert not await assignment.until_idle(0.01)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep, 0)
        tasks.start_soon(_finish, assignment, taken)
        assert await assignment.until_idle(10)


async def _finish(assignment: Assignment, taken: list[Delivery]) -> None:
    assignment.finish(taken)
