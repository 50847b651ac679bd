"""Parking, against a model: nothing is lost, and a key keeps its order."""

from __future__ import annotations

from collections import defaultdict, deque

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from eventml.records import Delivery, Record
from eventml.runtime.calls.caller import Item
from eventml.runtime.failures.retry_queue import FailedItem, RetryQueue

KEYS = st.sampled_from([None, b"", b"a", b"b", b"c"])


class ParkingMachine(RuleBasedStateMachine):
    """Events arrive, are called or wait, fail or finish, and are tried again when their time has come.

    The model: for each event where it is, and for each key the order in which its events came.
    """

    ordered = True

    def __init__(self) -> None:
        super().__init__()
        self.parking = RetryQueue(ordered=self.ordered)
        self.now = 0.0
        self.count = 0
        self.keys: dict[int, bytes | None] = {}
        self.parked: dict[int, float] = {}  # until when
        self.waiting: set[int] = set()
        self.tried: list[FailedItem] = []  # taken, and not settled
        self.to_call: deque[Item] = deque()  # admitted
        self.arrived: defaultdict[bytes, list[int]] = defaultdict(list)
        self.finished: defaultdict[bytes, list[int]] = defaultdict(list)

    @rule(keys=st.lists(KEYS, max_size=6))
    @precondition(lambda self: not self.to_call and not self.tried)
    def arrive(self, keys: list[bytes | None]) -> None:
        items = []
        for key in keys:
            self.count += 1
            items.append(Item(Delivery(Record("t", b"", key, str(self.count)), 0, self.count, 0.0), None))
            self.keys[self.count] = key
            self.arrived[key or b""].append(self.count)
        self.admit(items)

    @rule(seconds=st.floats(0, 5))
    @precondition(lambda self: self.to_call)
    def fail(self, seconds: float) -> None:
        """It is put off, and of the rest at hand those of its key wait behind it."""
        item = self.to_call.popleft()
        self.park(FailedItem(item, 1, 0.0), seconds)
        rest, self.to_call = list(self.to_call), deque()
        self.admit(rest)

    @rule()
    @precondition(lambda self: self.to_call)
    def finish(self) -> None:
        self.note(self.to_call.popleft())

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    @precondition(lambda self: not self.to_call and not self.tried)
    def take(self) -> None:
        due = min(self.parked.values(), default=None)
        assert self.parking.next_due == due
        parked = self.parking.take_due(self.now)
        if due is None or due > self.now:
            assert parked is None
            return
        assert parked is not None
        assert self.parked.pop(number(parked.item)) == due, "the one that has waited longest past its time"
        self.tried.append(parked)

    @rule(seconds=st.floats(0, 5))
    @precondition(lambda self: self.tried)
    def fail_again(self, seconds: float) -> None:
        self.park(self.tried.pop(), seconds)

    @rule()
    @precondition(lambda self: self.tried)
    def settle(self) -> None:
        item = self.tried.pop().item
        self.note(item)
        released = self.parking.release(item)
        assert {number(item) for item in released} <= self.waiting
        self.waiting -= {number(item) for item in released}
        self.to_call.extend(released)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.parking) == len(self.parked) + len(self.waiting)
        places = [*self.parked, *self.waiting, *map(number, self.to_call)]
        places += [number(parked.item) for parked in self.tried]
        places += [n for numbers in self.finished.values() for n in numbers]
        assert sorted(places) == list(range(1, self.count + 1)), "each in one place"

    @invariant()
    def keys_keep_their_order(self) -> None:
        for key, numbers in self.finished.items():
            if key and self.ordered:
                assert numbers == self.arrived[key][: len(numbers)]

    @invariant()
    def only_keys_wait(self) -> None:
        assert self.ordered or not self.waiting

    def park(self, parked: FailedItem, seconds: float) -> None:
        self.parking.put(parked, self.now + seconds)
        self.parked[number(parked.item)] = self.now + seconds

    def admit(self, items: list[Item]) -> None:
        """Those may be called of whose key none is between two tries."""
        held = {self.keys[n] for n in self.parked} if self.ordered else set()
        held -= {None, b""}
        free = [item for item in items if self.keys[number(item)] not in held]
        assert [self.parking.holds_back(item) for item in items] == [item not in free for item in items]
        assert self.parking.admit(items) == free
        self.waiting |= {number(item) for item in items if item not in free}
        self.to_call.extend(free)

    def note(self, item: Item) -> None:
        self.finished[self.keys[number(item)] or b""].append(number(item))


class UnorderedParkingMachine(ParkingMachine):
    ordered = False


def number(item: Item) -> int:
    return int(item.delivery.record.id)


TestParking = ParkingMachine.TestCase
TestUnorderedParking = UnorderedParkingMachine.TestCase
