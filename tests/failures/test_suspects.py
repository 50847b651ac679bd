"""Crash loops, simulated: what kills its worker is found, and nothing else is taken for it."""

from __future__ import annotations

from math import isqrt
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.records import Delivery, Record
from eventml.runtime.items import Item
from eventml.runtime.suspects import ALONE, Step, Suspects, crash_loop

sizes = st.integers(1, 80)


def item(number: int, attempt: int = 1, key: bytes | None = None) -> Item:
    return Item(Delivery(Record("t", b"", key, str(number)), 0, number, 0.0, attempt), None)


def number(it: Item) -> int:
    return int(it.delivery.record.id)


class Group:
    """A topic and a group, whose workers die of some events."""

    def __init__(self, size: int, killers: set[int], max_batch: int, max_deliveries: int) -> None:
        self.left = dict.fromkeys(range(size), 0)  # how often each unfinished one was delivered
        self.killers = killers
        self.max_batch = max_batch
        self.max_deliveries = max_deliveries
        self.answered: list[int] = []
        self.condemned: list[int] = []
        self.deaths = 0

    def live(self, batches: int) -> None:
        """One worker's life: it takes batches in order, the next ones ahead, until it dies or all is done."""
        suspects = Suspects(self.max_deliveries)
        while self.left:
            fetched = list(self.left)[: batches * self.max_batch]
            for n in fetched:
                self.left[n] += 1
            items = [item(n, self.left[n]) for n in fetched]
            for start in range(0, len(items), self.max_batch):
                for step in suspects.steps(items[start : start + self.max_batch]):
                    if not self.take(step):
                        self.deaths += 1
                        return

    def take(self, step: Step) -> bool:
        numbers = [number(one) for one in step.items]
        if step.condemned:
            assert len(numbers) == 1, "nobody is condemned along with another"
            self.condemned += numbers
        elif self.killers & set(numbers):
            return False  # and what had been completed of the step before is completed
        else:
            self.answered += numbers
        for n in numbers:
            del self.left[n]
        return True


@given(st.data(), sizes, st.integers(1, 20), st.integers(1, 3), st.integers(ALONE, 7))
def test_killers_are_set_aside_and_all_others_answered(
    data: st.DataObject, size: int, max_batch: int, batches: int, max_deliveries: int
) -> None:
    killers = data.draw(st.sets(st.integers(0, size - 1), max_size=5))
    group = Group(size, killers, max_batch, max_deliveries)
    while group.left:
        group.live(batches)
        assert group.deaths <= (max_deliveries + 1) * len(killers)
    assert sorted(group.condemned) == sorted(killers)
    assert sorted(group.answered) == [n for n in range(size) if n not in killers]


@given(sizes, st.integers(1, 100))
def test_what_was_never_delivered_before_is_called_all_at_once(size: int, max_deliveries: int) -> None:
    items = [item(n) for n in range(size)]
    assert Suspects(max_deliveries).steps(items) == [Step(items)]


KEYS = st.sampled_from([None, b"a", b"b"])


@given(st.lists(st.tuples(st.integers(1, 9), KEYS), min_size=1, max_size=60), st.integers(ALONE, 8))
def test_every_event_has_its_turn_once_and_those_of_a_key_in_order(
    seen: list[tuple[int, bytes | None]], max_deliveries: int
) -> None:
    items = [item(n, attempt, key) for n, (attempt, key) in enumerate(seen)]
    steps = Suspects(max_deliveries).steps(items)
    called = [one for step in steps for one in step.items]
    assert sorted(called, key=number) == items
    for key in (b"a", b"b"):
        same = [number(one) for one in called if one.delivery.record.key == key]
        assert same == sorted(same)
    for step in steps:
        oldest = max(one.delivery.attempt for one in step.items)
        if oldest == ALONE - 1:
            assert len(step.items) <= isqrt(len(items))
        if oldest >= ALONE:
            assert len(step.items) == 1
        assert step.settle or oldest == 1 or len(steps) == 1, "completed before the next is called"
    assert sum(step.condemned for step in steps) <= 1


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
@pytest.mark.parametrize("max_deliveries", [5, 6])
def test_workers_that_share_what_a_dead_one_had_condemn_the_culprit_alone(
    workers: int, max_deliveries: int
) -> None:
    for seed in range(60):
        random = Random(seed)
        crew = Crew(random, workers, size=64, killer=random.randrange(64), max_deliveries=max_deliveries)
        crew.work()
        assert crew.condemned == [crew.killer]
        assert crew.deaths <= 2 * max_deliveries


class Crew:
    """A group whose members take what is there, whoever had it before, and take turns at random."""

    def __init__(self, random: Random, workers: int, *, size: int, killer: int, max_deliveries: int) -> None:
        self.random = random
        self.killer = killer
        self.left = dict.fromkeys(range(size), 0)  # how often each unfinished one was delivered
        self.condemned: list[int] = []
        self.deaths = 0
        self.max_deliveries = max_deliveries
        self.members = [Member(max_deliveries) for _ in range(workers)]

    def work(self) -> None:
        while self.left:
            member = self.random.choice(self.members)
            if not member.steps:
                self.receive(member)
            elif not self.take(member.steps.pop(0)):
                self.deaths += 1
                self.members[self.members.index(member)] = Member(self.max_deliveries)

    def receive(self, member: Member) -> None:
        held = {number(one) for other in self.members for step in other.steps for one in step.items}
        taken = [n for n in self.left if n not in held][: self.random.randint(1, 32)]
        for n in taken:
            self.left[n] += 1
        items = [item(n, self.left[n]) for n in taken]
        for start in range(0, len(items), 16):
            member.steps += member.suspects.steps(items[start : start + 16])

    def take(self, step: Step) -> bool:
        numbers = [number(one) for one in step.items]
        if step.condemned:
            self.condemned += numbers
        elif self.killer in numbers:
            return False
        for n in numbers:
            del self.left[n]
        return True


class Member:
    def __init__(self, max_deliveries: int) -> None:
        self.suspects = Suspects(max_deliveries)
        self.steps: list[Step] = []


def test_the_reason_says_how_often() -> None:
    assert "delivered 5 times and never finished" in str(crash_loop(item(1, 6)))
