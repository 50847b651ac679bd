"""One in-memory topic with two groups, against a model that remembers everything.

Publishing, joining, leaving, taking and finishing come in any order. Nothing is lost, nothing has two
holders, finished is finished, and of each key one member at a time has what is next.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from eventml.backends.base import Completion
from eventml.backends.memory.group import Group
from eventml.backends.memory.topic import Room, TopicState
from eventml.records import Delivery, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

RETENTION, LARGEST = 30, 8  # records: the bound, and one write
MOST = 4  # members: more of them would leave each with nothing to do

# b"a" and b"d" go to different partitions.
keys = st.lists(st.sampled_from([b"a", b"a", b"d", None]), min_size=3, max_size=LARGEST)
groups = st.sampled_from(["early", "early", "early", "late"])


class Member:
    """A member, and what it has in hand."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.in_flight: list[Delivery] = []


class TopicMachine(RuleBasedStateMachine):
    """The model: what was published, and for each group what it has still to finish."""

    def __init__(self) -> None:
        super().__init__()
        self.topic = TopicState("t", 2, RETENTION)
        self.groups: dict[str, Group] = {}
        self.published = 0
        self.left: dict[str, dict[str, bytes | None]] = {}  # by group: the key of each unfinished id
        self.holder: dict[tuple[str, str], Member] = {}
        self.attempts: dict[tuple[str, str], int] = {}
        self.present: list[Member] = []
        self.departed: list[Member] = []

    @initialize(keys=keys)
    def begin(self, keys: list[bytes | None]) -> None:
        self.join("early")
        self.publish(keys)

    @rule(keys=keys)
    def publish(self, keys: list[bytes | None]) -> None:
        if self.topic.has_room():
            records = [Record("t", b"", key, f"{n}") for n, key in enumerate(keys, self.published)]
            self.published += len(records)
            self.topic.append(records)
            for left in self.left.values():
                left.update((record.id, record.key) for record in records)

    @precondition(lambda self: len(self.present) < MOST)
    @rule(group=groups)
    def join(self, group: str) -> None:
        early = group == "early"
        if group not in self.left:
            there = [d.record for p in self.topic.partitions for d in p.log] if early else []
            self.left[group] = {r.id: r.key for r in sorted(there, key=lambda record: int(record.id))}
        self.present.append(Member(group))
        if group not in self.groups:
            self.groups[group] = Group(self.topic, group, "earliest" if early else "latest")
        self.groups[group].join(self.present[-1])

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(self.present))
        self.groups[member.group].leave(member)
        self.present.remove(member)
        self.departed.append(member)
        for delivery in member.in_flight:
            del self.holder[member.group, delivery.record.id]

    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        """Everybody takes some, and finishes some of what it has and of what it has not."""
        for member in self.present:
            self._take(member, data.draw(st.integers(1, 3)))
        for member in self.present:
            keep = data.draw(st.integers(0, 2))
            others = [d for other in self.present for d in other.in_flight if not self._has(member, d)]
            self._finish(member, data.draw(st.permutations(member.in_flight))[keep:], others[:2])

    @rule()
    def finish_late(self) -> None:
        """Those who have left still try to finish what they had."""
        for member in self.departed:
            done = [Completion(delivery) for delivery in member.in_flight]
            assert self.groups[member.group].finish(done, member) == []

    def _take(self, member: Member, limit: int) -> None:
        taken = self.groups[member.group].take(member, Room(limit, math.inf))
        assert len(taken) <= limit
        for delivery in taken:
            self._is_right(member, delivery)
            place = (member.group, delivery.record.id)
            self.holder[place] = member
            # A redelivered record counts again only once a handler is called with it.
            self.attempts[place] = min(self.attempts.get(place, 0) + 1, 2)
            assert delivery.attempt == self.attempts[place]
            member.in_flight.append(delivery)

    def _is_right(self, member: Member, delivery: Delivery) -> None:
        left, id_, key = self.left[member.group], delivery.record.id, delivery.record.key
        assert id_ in left, "it is published and not finished"
        assert (member.group, id_) not in self.holder, "nobody has it"
        if key is not None:
            before = [other for other, its in left.items() if its == key and int(other) < int(id_)]
            assert all(self.holder.get((member.group, other)) is member for other in before), (
                "nor the ones before"
            )

    def _finish(self, member: Member, mine: list[Delivery], theirs: Sequence[Delivery] = ()) -> None:
        group = self.groups[member.group]
        held = group.finish([Completion(delivery) for delivery in (*mine, *theirs, *mine)], member)
        assert [completion.delivery for completion in held] == mine, "each of its own once, and no other"
        group.hand_over()
        for delivery in mine:
            member.in_flight.remove(delivery)
            del self.left[member.group][delivery.record.id]
            del self.holder[member.group, delivery.record.id]

    def _has(self, member: Member, delivery: Delivery) -> bool:
        return self.holder.get((member.group, delivery.record.id)) is member

    @invariant()
    def lag_is_exact(self) -> None:
        for name, group in self.groups.items():
            assert sum(group.lag().values()) == len(self.left[name])

    @invariant()
    def memory_is_bounded(self) -> None:
        assert sum(len(p.log) for p in self.topic.partitions) < RETENTION + LARGEST

    def teardown(self) -> None:
        """Whoever is there gets all that is left, and where nobody is, whoever comes."""
        for name in self.groups:
            if not any(member.group == name for member in self.present):
                self.join(name)
            mine = [member for member in self.present if member.group == name]
            while left := len(self.left[name]):
                for member in mine:
                    self._take(member, LARGEST)
                    self._finish(member, list(member.in_flight))
                assert len(self.left[name]) < left, "what is left does not come"


TopicMachine.TestCase.settings = settings(max_examples=3 * settings().max_examples, stateful_step_count=30)
TestTopic: Any = TopicMachine.TestCase
