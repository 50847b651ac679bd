"""Crash loops, simulated: the event that kills its worker is found, and no other is taken for it."""

from __future__ import annotations

from math import isqrt
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.records import Delivery, Record
from eventml.runtime.calling import Item
from eventml.runtime.poison import SINGLE_FROM, Part, PoisonDetector, crash_loop_error

sizes = st.integers(1, 80)


def item(number: int, attempt: int = 1, key: bytes | None = None) -> Item:
    return Item(Delivery(Record("t", b"", key, str(number)), 0, number, 0.0, attempt), None)


def number(it: Item) -> int:
    return int(it.delivery.record.id)


class Group:
    """A topic and a consumer group whose workers die of some events, one worker after the other."""

    def __init__(self, size: int, poison: set[int], max_batch: int, max_deliveries: int) -> None:
        self.deliveries = dict.fromkeys(range(size), 0)  # of each event that is not finished
        self.poison = poison
        self.max_batch = max_batch
        self.max_deliveries = max_deliveries
        self.answered: list[int] = []
        self.dead_letters: list[int] = []
        self.deaths = 0

    def run_worker(self, batches: int) -> None:
        """Run a worker, which receives this many batches ahead, until it dies or everything is finished."""
        detector = PoisonDetector(self.max_deliveries)
        while self.deliveries:
            received = list(self.deliveries)[: batches * self.max_batch]
            for n in received:
                self.deliveries[n] += 1
            items = [item(n, self.deliveries[n]) for n in received]
            for start in range(0, len(items), self.max_batch):
                for part in detector.split(items[start : start + self.max_batch]):
                    if not self.process(part):
                        self.deaths += 1
                        return

    def process(self, part: Part) -> bool:
        numbers = [number(one) for one in part.items]
        if part.poison:
            assert len(numbers) == 1, "a poison event is alone"
            self.dead_letters += numbers
        elif self.poison & set(numbers):
            return False  # the parts before it were completed
        else:
            self.answered += numbers
        for n in numbers:
            del self.deliveries[n]
        return True


@given(st.data(), sizes, st.integers(1, 20), st.integers(1, 3), st.integers(SINGLE_FROM, 7))
def test_poison_events_become_dead_letters_and_all_others_are_answered(
    data: st.DataObject, size: int, max_batch: int, batches: int, max_deliveries: int
) -> None:
    poison = data.draw(st.sets(st.integers(0, size - 1), max_size=5))
    group = Group(size, poison, max_batch, max_deliveries)
    while group.deliveries:
        group.run_worker(batches)
        assert group.deaths <= (max_deliveries + 1) * len(poison)
    assert sorted(group.dead_letters) == sorted(poison)
    assert sorted(group.answered) == [n for n in range(size) if n not in poison]


@given(sizes, st.integers(1, 100))
def test_events_that_were_never_delivered_before_are_called_at_once(size: int, max_deliveries: int) -> None:
    items = [item(n) for n in range(size)]
    assert PoisonDetector(max_deliveries).split(items) == [Part(items)]


KEYS = st.sampled_from([None, b"a", b"b"])


@given(st.lists(st.tuples(st.integers(1, 9), KEYS), min_size=1, max_size=60), st.integers(SINGLE_FROM, 8))
def test_each_event_is_in_one_part_and_those_of_a_key_are_in_order(
    attempts: list[tuple[int, bytes | None]], max_deliveries: int
) -> None:
    items = [item(n, attempt, key) for n, (attempt, key) in enumerate(attempts)]
    parts = PoisonDetector(max_deliveries).split(items)
    called = [one for part in parts for one in part.items]
    assert sorted(called, key=number) == items
    for key in (b"a", b"b"):
        same_key = [number(one) for one in called if one.delivery.record.key == key]
        assert same_key == sorted(same_key)
    for part in parts:
        attempt = max(one.delivery.attempt for one in part.items)
        if attempt == SINGLE_FROM - 1:
            assert len(part.items) <= isqrt(len(items))
        if attempt >= SINGLE_FROM:
            assert len(part.items) == 1
        assert part.complete_first or attempt == 1 or len(parts) == 1
    assert sum(part.poison for part in parts) <= 1


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
@pytest.mark.parametrize("max_deliveries", [5, 6])
def test_of_several_workers_that_share_events_only_the_poison_event_becomes_a_dead_letter(
    workers: int, max_deliveries: int
) -> None:
    for seed in range(60):
        random = Random(seed)
        group = SharedGroup(
            random, workers, size=64, poison=random.randrange(64), max_deliveries=max_deliveries
        )
        group.run()
        assert group.dead_letters == [group.poison]
        assert group.deaths <= 2 * max_deliveries


class SharedGroup:
    """A group whose members receive any events that are there and take turns at random."""

    def __init__(self, random: Random, workers: int, *, size: int, poison: int, max_deliveries: int) -> None:
        self.random = random
        self.poison = poison
        self.deliveries = dict.fromkeys(range(size), 0)  # of each event that is not finished
        self.dead_letters: list[int] = []
        self.deaths = 0
        self.max_deliveries = max_deliveries
        self.members = [Member(max_deliveries) for _ in range(workers)]

    def run(self) -> None:
        while self.deliveries:
            member = self.random.choice(self.members)
            if not member.parts:
                self.receive(member)
            elif not self.process(member.parts.pop(0)):
                self.deaths += 1
                self.members[self.members.index(member)] = Member(self.max_deliveries)

    def receive(self, member: Member) -> None:
        in_flight = {number(one) for other in self.members for part in other.parts for one in part.items}
        received = [n for n in self.deliveries if n not in in_flight][: self.random.randint(1, 32)]
        for n in received:
            self.deliveries[n] += 1
        items = [item(n, self.deliveries[n]) for n in received]
        for start in range(0, len(items), 16):
            member.parts += member.detector.split(items[start : start + 16])

    def process(self, part: Part) -> bool:
        numbers = [number(one) for one in part.items]
        if part.poison:
            self.dead_letters += numbers
        elif self.poison in numbers:
            return False
        for n in numbers:
            del self.deliveries[n]
        return True


class Member:
    def __init__(self, max_deliveries: int) -> None:
        self.detector = PoisonDetector(max_deliveries)
        self.parts: list[Part] = []


def test_the_reason_names_the_number_of_deliveries() -> None:
    assert "delivered 5 times and never finished" in str(crash_loop_error(item(1, 6)))
