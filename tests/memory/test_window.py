"""Ack bookkeeping, against a model that keeps a state for every offset."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from eventml.backends.memory.topic import Partition, Room
from eventml.records import Record

OWNER, OTHER = object(), object()


class WindowMachine(RuleBasedStateMachine):
    """Appends, takes, finishes and gives back, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.partition = Partition(0)
        self.append(10)
        self.partition.drop(4)
        self.window = self.partition.window("g", "earliest")
        self.window.owner = OWNER
        self.position = 4
        self.in_flight: dict[int, int] = {}  # by offset: the number of the attempt
        self.returned: dict[int, int] = {}
        self.called: set[int] = set()

    @rule(count=st.integers(0, 4))
    def append(self, count: int) -> None:
        self.partition.extend([Record("t", b"")] * count, 0.0)

    @rule(limit=st.integers(0, 5))
    def take(self, limit: int) -> None:
        again = sorted(self.returned)[:limit]
        end = min(self.position + limit - len(again), self.partition.end)
        expected = {offset: self.returned.pop(offset) + 1 for offset in again}
        expected |= dict.fromkeys(range(self.position, end), 1)
        taken = self.window.take(Room(limit, math.inf))
        assert [(d.offset, d.attempt) for d in taken] == list(expected.items()), "returned ones first, rising"
        self.in_flight |= expected
        self.position = end

    @rule(data=st.data(), member=st.sampled_from([OWNER, OWNER, OTHER]))
    def finish(self, data: st.DataObject, member: object) -> None:
        offset = data.draw(st.integers(3, self.position))
        held = member is OWNER and offset in self.in_flight
        assert self.window.finish(offset, member) is held
        if held:
            del self.in_flight[offset]

    @rule(data=st.data())
    def call(self, data: st.DataObject) -> None:
        again = [offset for offset, attempt in self.in_flight.items() if attempt > 1]
        self.called = data.draw(st.sets(st.sampled_from(again))) if again else set()
        self.window.called = set(self.called)

    @rule()
    def give_back(self) -> None:
        self.window.give_back()
        self.returned |= {
            offset: attempt - (attempt > 1 and offset not in self.called)
            for offset, attempt in self.in_flight.items()
        }
        self.in_flight.clear()
        self.called = set()  # they are in no call any more

    @invariant()
    def nothing_unfinished_lies_below_the_safe_offset(self) -> None:
        assert self.window.safe == min([*self.in_flight, *self.returned], default=self.position)

    @invariant()
    def counts_are_exact(self) -> None:
        assert self.window.position == self.position
        assert list(self.window.in_flight) == list(self.in_flight)
        unread = self.partition.end - self.position
        assert self.window.lag == unread + len(self.in_flight) + len(self.returned)


TestWindow: Any = WindowMachine.TestCase
