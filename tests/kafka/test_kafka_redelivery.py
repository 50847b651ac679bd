"""Counting deliveries over the deaths and departures of members, so that only a poison event is removed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from aiokafka import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from eventml.backends.kafka.assignment import Assignment, Chunk, GivenBack
from eventml.backends.kafka.commit_metadata import decode_metadata, encode_metadata
from eventml.backends.kafka.partitions import CommittedOffset
from eventml.records import Delivery, Record
from eventml.runtime.calls.caller import Item
from eventml.runtime.failures.poison import Part, split

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

PARTITIONS = [TopicPartition("t", number) for number in range(3)]
LENGTH, LIMIT, MOST = 40, 8, 4


class Group:
    """A broker's commits and logs, and the members that read them."""

    def __init__(self) -> None:
        self.committed = dict.fromkeys(PARTITIONS, CommittedOffset(0))

    def join(self, *partitions: TopicPartition) -> Assignment:
        assignment = Assignment()
        self.resume(assignment, partitions)
        return assignment

    def resume(
        self, assignment: Assignment, partitions: Sequence[TopicPartition], former: GivenBack | None = None
    ) -> None:
        committed = {p: self.committed[p] for p in partitions}
        ends = {p: LENGTH for p, at in committed.items() if at.attempts or at.active}
        assignment.resume(committed, ends, former)
        self.commit(assignment)

    def commit(self, assignment: Assignment) -> None:
        offsets = assignment.to_commit()
        self.committed |= {p: decode_metadata(at.offset, encode_metadata(at)[0]) for p, at in offsets.items()}
        assignment.record_commit(offsets)

    def receive(self, assignment: Assignment, order: Sequence[TopicPartition] = PARTITIONS) -> list[Delivery]:
        assignment.start(2 * LIMIT)
        for partition in [p for p in order if p in assignment.states]:
            if assignment.buffered < LIMIT:
                start, stop = (
                    assignment.fetched[partition],
                    min(assignment.fetched[partition] + LIMIT, LENGTH),
                )
                some = [Delivery(Record("t", b""), partition.partition, n, 0.0) for n in range(start, stop)]
                assignment.put(Chunk(partition, some, stop))
        return assignment.take(LIMIT)

    def revoke(self, assignment: Assignment) -> None:
        assignment.suspend()
        self.commit(assignment)
        assignment.give_back()
        self.commit(assignment)

    def leave(self, assignment: Assignment) -> None:
        assignment.leave()
        self.commit(assignment)
        assignment.end()


class Rebalances(RuleBasedStateMachine):
    """Two members that share partitions, give them back, and sometimes die or leave."""

    @initialize()
    def begin(self) -> None:
        self.group = Group()
        self.members = [self.group.join(*PARTITIONS), self.group.join()]
        self.in_flight: list[list[Delivery]] = [[], []]
        self.called: list[list[Delivery]] = [[], []]
        self.least: Counter[tuple[int, int | str]] = Counter()  # attempts that are certainly counted
        self.most: Counter[tuple[int, int | str]] = Counter()  # and those that are counted perhaps

    @rule(who=st.integers(0, 1))
    def receive(self, who: int) -> None:
        taken = self.group.receive(self.members[who])
        for delivery in taken:
            place = delivery.partition, delivery.offset
            assert self.least[place] < delivery.attempt <= self.most[place] + 1
            self.least[place] = self.most[place] = delivery.attempt - 1
        self.in_flight[who] += taken

    @rule(who=st.integers(0, 1), data=st.data())
    def call(self, who: int, data: st.DataObject) -> None:
        again = [d for d in self.in_flight[who] if d.attempt > 1]
        self.called[who] = data.draw(st.lists(st.sampled_from(again), unique_by=id)) if again else []
        self.members[who].begin(self.called[who])
        self.group.commit(self.members[who])
        assert self.members[who].attempts_committed

    @rule(who=st.integers(0, 1), data=st.data())
    def finish(self, who: int, data: st.DataObject) -> None:
        if self.in_flight[who]:
            some = data.draw(st.lists(st.sampled_from(self.in_flight[who]), unique_by=id))
            cautious = self.members[who].redelivering
            self.members[who].complete(some)
            self.in_flight[who] = [d for d in self.in_flight[who] if d not in some]
            if cautious:
                self.group.commit(self.members[who])

    @rule(who=st.integers(0, 1))
    def commit(self, who: int) -> None:
        self.group.commit(self.members[who])

    @rule(parts=st.permutations(PARTITIONS), share=st.integers(0, 3))
    def rebalance(self, parts: list[TopicPartition], share: int) -> None:
        for member in self.members:
            self.group.revoke(member)
        self._share(parts, share)

    @rule(who=st.integers(0, 1), parts=st.permutations(PARTITIONS), share=st.integers(0, 3))
    def leave(self, who: int, parts: list[TopicPartition], share: int) -> None:
        for d in self.in_flight[who]:
            place = d.partition, d.offset
            self.least[place] = self.most[place] = d.attempt - (d.attempt > 1 and d not in self.called[who])
        self.group.leave(self.members[who])
        self._replace(who, parts, share)

    @rule(
        who=st.integers(0, 1),
        reachable=st.booleans(),
        parts=st.permutations(PARTITIONS),
        share=st.integers(0, 3),
    )
    def fail(self, who: int, reachable: bool, parts: list[TopicPartition], share: int) -> None:
        """Its fetches failed, and another member of its process takes its place: that is no death.

        If it could not commit any more, a member of another process would presume one.
        """
        failed = self.members[who]
        failed.give_back()
        failed.leave()
        if reachable:
            self.group.commit(failed)
        else:
            share = 0 if who else 3
        given_back = failed.unfinished()
        failed.end()
        self._replace(who, parts, share, given_back)

    @rule(who=st.integers(0, 1), parts=st.permutations(PARTITIONS), share=st.integers(0, 3))
    def die(self, who: int, parts: list[TopicPartition], share: int) -> None:
        for partition in self.members[who].states:
            for offset in range(LENGTH):
                place = partition.partition, offset
                self.most[place] = max(self.most[place], 1)
        for d in self.called[who]:
            if d in self.in_flight[who]:
                self.least[d.partition, d.offset] = self.most[d.partition, d.offset] = d.attempt
        self._replace(who, parts, share)

    def _replace(
        self,
        who: int,
        parts: list[TopicPartition],
        share: int,
        former: GivenBack | None = None,
    ) -> None:
        self.in_flight[who], self.called[who] = [], []
        self.members[who] = Assignment()
        self.group.revoke(self.members[1 - who])
        self._share(parts, share, {who: former})

    def _share(
        self, parts: list[TopicPartition], share: int, former: dict[int, GivenBack | None] | None = None
    ) -> None:
        for who, some in enumerate([parts[:share], parts[share:]]):
            self.group.resume(self.members[who], some, (former or {}).get(who))
            mine = {p.partition for p in some}
            self.in_flight[who] = [d for d in self.in_flight[who] if d.partition in mine]
            self.called[who] = [d for d in self.called[who] if d.partition in mine]
            assert self.members[who].in_flight == len(self.in_flight[who])

    @invariant()
    def without_a_death_no_delivery_counts_as_repeated(self) -> None:
        if not self.most.total():
            for deliveries in self.in_flight:
                assert all(delivery.attempt == 1 for delivery in deliveries)


TestRebalances = Rebalances.TestCase


poisons = st.sets(st.tuples(st.sampled_from(PARTITIONS), st.integers(0, LENGTH - 1)), min_size=1, max_size=4)


class Worker:
    """A worker that some events kill, started again each time: it receives ahead, and is rebalanced."""

    def __init__(self, deadly: set[tuple[int, int]], chance: Random) -> None:
        self.finished: set[tuple[int, int]] = set()
        self.condemned: list[tuple[int, int]] = []
        self._deadly = deadly
        self._chance = chance
        self._group = Group()

    def run(self) -> bool:
        """Work until an event kills it. True if it came to the end of the log."""
        assignment = self._group.join(*PARTITIONS)
        ahead: list[list[Delivery]] = []
        while True:
            if self._chance.random() < 0.05:
                self._group.revoke(assignment)
                self._group.resume(assignment, PARTITIONS)
            self._receive(assignment, ahead)
            if not ahead:
                self._group.leave(assignment)
                return True
            for step in split([Item(delivery, None) for delivery in ahead.pop(0)], MOST):
                if not self._call(assignment, step):
                    return False

    def _receive(self, assignment: Assignment, ahead: list[list[Delivery]]) -> None:
        while len(ahead) < self._chance.choice([1, 2]):
            batch = self._group.receive(assignment, self._chance.sample(PARTITIONS, 3))
            if not batch:
                return
            ahead.append(batch)

    def _call(self, assignment: Assignment, step: Part) -> bool:
        deliveries = [item.delivery for item in step.items]
        places = {(d.partition, int(d.offset)) for d in deliveries}
        if step.complete_first:
            assignment.begin(deliveries)
            self._group.commit(assignment)
            assert assignment.attempts_committed
        if step.poison:
            self.condemned.extend(places)
        elif places & self._deadly:
            return False
        cautious = assignment.redelivering
        assignment.complete(deliveries)
        self.finished |= places
        if cautious or self._chance.random() < 0.3:
            self._group.commit(assignment)
        return True


@settings(max_examples=200)
@given(poisons, st.randoms(use_true_random=False))
def test_only_poison_events_are_condemned(poison: set[tuple[TopicPartition, int]], chance: Random) -> None:
    deadly = {(p.partition, offset) for p, offset in poison}
    worker, deaths = Worker(deadly, chance), 0
    while not worker.run():
        deaths += 1
        assert deaths <= (MOST + 1) * len(deadly)
    assert set(worker.condemned) == deadly
    assert worker.finished == {(p.partition, n) for p in PARTITIONS for n in range(LENGTH)}


@pytest.mark.parametrize("redelivered", [True, False])
def test_a_death_counts_at_a_member_that_still_had_the_records_in_flight(redelivered: bool) -> None:
    """It took too long to complete them: the group gave them to another one, and then back to it."""
    group, [partition, *_] = Group(), PARTITIONS
    if redelivered:
        first = group.join(partition)
        group.receive(first)
        group.leave(first)
    slow = group.join(partition)
    group.receive(slow)
    group.revoke(slow)
    dying = group.join(partition)
    if redelivered:
        dying.begin(group.receive(dying)[:1])
        group.commit(dying)
    group.resume(slow, [partition])
    assert [d.attempt for d in group.receive(slow)] == [3 if redelivered else 2, *[2] * (LIMIT - 1)]


def test_no_attempt_is_counted_until_a_rebalance_ends() -> None:
    group, [partition, *_] = Group(), PARTITIONS
    first = group.join(partition)
    group.receive(first)
    group.leave(first)
    member = group.join(partition)
    taken = group.receive(member)
    group.revoke(member)
    member.begin(taken[:1])
    group.commit(member)
    assert not member.attempts_committed
    group.resume(member, [partition])
    assert member.attempts_committed
    assert [d.attempt for d in group.receive(group.join(partition))] == [3, *[2] * (LIMIT - 1)]


@pytest.mark.parametrize("reachable", [True, False])
def test_a_member_that_fails_while_its_worker_lives_counts_as_no_delivery(reachable: bool) -> None:
    """However often its fetches fail: by default, the fifth death would make a dead letter."""
    group = Rebalances()
    group.begin()
    for _ in range(8):
        group.receive(0)
        group.fail(0, reachable, PARTITIONS, 3)
    assert {delivery.attempt for delivery in group.group.receive(group.members[0])} == {1}
