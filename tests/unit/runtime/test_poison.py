"""Crash loops, simulated: the event that kills its worker is found, and no other is taken for it."""

from __future__ import annotations

from collections import Counter
from math import isqrt
from random import Random
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.backends.base import Completion
from eventml.errors import UnavailableError
from eventml.records import Delivery, Record
from eventml.runtime.calls.caller import Item
from eventml.runtime.failures.poison import SINGLE_FROM, CountedCalls, Part, crash_loop_error, split
from eventml.runtime.stats import Stats

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eventml.backends import base as backends

SIZE = 64
sizes = st.integers(1, 80)


def item(number: int, attempt: int = 1, key: bytes | None = None) -> Item:
    return Item(Delivery(Record("t", b"", key, str(number)), 0, number, 0.0, attempt), None)


def number(it: Item) -> int:
    return int(it.delivery.record.id)


class Group:
    """Workers of one group that share a topic, receive ahead, and take turns at random. Some events kill."""

    def __init__(self, random: Random, workers: int, *, poison: set[int], max_deliveries: int) -> None:
        self.random = random
        self.poison = poison
        self.max_deliveries = max_deliveries
        self.counts = dict.fromkeys(range(SIZE), 0)  # the attempts of each event that is not finished
        self.answered: list[int] = []
        self.dead_letters: list[int] = []
        self.deaths = 0
        self.deaths_in_call = Counter[int]()
        self.workers: list[list[Part]] = [[] for _ in range(workers)]

    def run(self, kills: int = 0) -> None:
        """Run until all is finished. Of the first calls, every third one or so is killed from outside."""
        while self.counts:
            who = self.random.randrange(len(self.workers))
            parts = self.workers[who]
            if not parts:
                self.receive(parts)
                continue
            part = parts.pop(0)
            self.begin(part)
            killed = kills > 0 and self.random.random() < 1 / 3
            kills -= killed
            if part.poison:
                killed = False
            if killed or not self.process(part):
                self.deaths_in_call.update(map(number, part.items))
                self.deaths += not killed
                self.workers[who] = []

    def receive(self, parts: list[Part]) -> None:
        in_flight = {number(it) for others in self.workers for part in others for it in part.items}
        free = [n for n in self.counts if n not in in_flight][: self.random.randint(1, 32)]
        items = [item(n, self.counts[n] + 1) for n in free]
        for n in free:  # a first delivery may be in a call when its worker dies
            self.counts[n] = max(self.counts[n], 1)
        for start in range(0, len(items), 16):
            parts += split(items[start : start + 16], self.max_deliveries)

    def begin(self, part: Part) -> None:
        for it in part.items if not part.poison else ():
            self.counts[number(it)] = it.delivery.attempt

    def process(self, part: Part) -> bool:
        numbers = [number(it) for it in part.items]
        if part.poison:
            self.dead_letters += numbers
        elif self.poison & set(numbers):
            return False  # the parts before it were completed
        else:
            self.answered += numbers
        for n in numbers:
            del self.counts[n]
        return True


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("max_deliveries", [3, 6])
def test_poison_events_become_dead_letters_and_no_others(workers: int, max_deliveries: int) -> None:
    """Each costs `max_deliveries` deaths, however many there are and workers that share the events."""
    for seed in range(60):
        random = Random(seed)
        poison = set(random.sample(range(SIZE), random.randint(1, 5)))
        group = Group(random, workers, poison=poison, max_deliveries=max_deliveries)
        group.run()
        assert set(group.dead_letters) == poison
        assert sorted(group.answered) == [n for n in range(SIZE) if n not in poison]
        assert group.deaths <= max_deliveries * len(poison)


def test_kills_from_outside_count_only_against_the_events_in_the_call() -> None:
    killed = 0
    for seed in range(60):
        group = Group(Random(seed), 2, poison=set(), max_deliveries=4)
        group.run(kills=40)
        killed += len(group.dead_letters)
        # Of a first delivery it is not known whether it was in a call.
        assert all(group.deaths_in_call[n] >= group.max_deliveries - 1 for n in group.dead_letters)
        assert all(group.deaths_in_call[n] <= group.max_deliveries for n in range(SIZE))
    assert killed, "the test kills often enough to condemn an event that is in the call each time"


@given(sizes, st.integers(1, 100))
def test_events_that_were_never_delivered_before_are_called_at_once(size: int, max_deliveries: int) -> None:
    items = [item(n) for n in range(size)]
    assert split(items, max_deliveries) == [Part(items)]


KEYS = st.sampled_from([None, b"a", b"b"])


@given(st.lists(st.tuples(st.integers(1, 9), KEYS), min_size=1, max_size=60), st.integers(SINGLE_FROM, 8))
def test_each_event_is_in_one_part_and_those_of_a_key_are_in_order(
    attempts: list[tuple[int, bytes | None]], max_deliveries: int
) -> None:
    items = [item(n, attempt, key) for n, (attempt, key) in enumerate(attempts)]
    parts = split(items, max_deliveries)
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
        assert part.poison == (attempt > max_deliveries)


def test_the_reason_names_the_number_of_deliveries() -> None:
    assert "delivered 5 times and never finished" in str(crash_loop_error(item(1, 6)))


class Subscription:
    """Counts as a backend does, durably; some deliveries are lost to another member."""

    def __init__(self, counted: dict[int, int], lost: set[int]) -> None:
        self.counted = counted
        self.lost = lost
        self.failures = 0

    async def begin(self, deliveries: Sequence[Delivery]) -> None:
        if self.failures:
            self.failures -= 1
            raise UnavailableError("away")
        self.counted.clear()
        self.counted.update({int(d.offset): d.attempt for d in deliveries if int(d.offset) not in self.lost})

    def lost_deliveries(self, deliveries: Iterable[Delivery]) -> list[int]:
        return [position for position, d in enumerate(deliveries) if int(d.offset) in self.lost]


class Calls:
    """The calls of a handler, each with what was counted when it began."""

    def __init__(self, lost: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        self.made: list[tuple[list[int], dict[int, int]]] = []
        self.counted: dict[int, int] = {}
        self.subscription = Subscription(self.counted, lost)
        self.stats = Stats()
        self.counted_calls = CountedCalls(
            self.call, cast("backends.Subscription", self.subscription), "h", self.stats
        )

    async def call(self, items: Sequence[Item]) -> list[Completion]:
        self.made.append(([number(it) for it in items], dict(self.counted)))
        return [Completion(it.delivery, [Record("to", b"")]) for it in items]


@pytest.mark.anyio
async def test_only_what_is_in_the_call_is_counted() -> None:
    calls = Calls()
    for items in ([item(1), item(2)], [item(3, 2), item(4, 2)], [item(5, 3)], [item(6)], [item(7)]):
        await calls.counted_calls(items)
    assert calls.made == [([1, 2], {}), ([3, 4], {3: 2, 4: 2}), ([5], {5: 3}), ([6], {}), ([7], {})]


@pytest.mark.anyio
async def test_first_deliveries_ask_the_broker_nothing() -> None:
    calls = Calls()
    calls.subscription.failures = 1
    await calls.counted_calls([item(1), item(2)])
    assert calls.subscription.failures == 1


@pytest.mark.anyio
async def test_events_that_another_member_has_are_neither_called_nor_completed() -> None:
    calls = Calls(lost={2, 4})
    items = [item(n, 2) for n in range(1, 5)]
    done = list(cast("list[Completion]", await calls.counted_calls(items)))
    assert calls.made == [([1, 3], {1: 2, 3: 2})]
    lost, kept = calls.counted_calls.split_lost(done)
    assert [c.delivery for c in lost] == [items[1].delivery, items[3].delivery]
    assert [(c.delivery, len(c.outputs)) for c in kept] == [(items[n].delivery, 1) for n in (0, 2)]
    assert calls.counted_calls.split_lost(kept) == ([], kept)
    alone = await calls.counted_calls([items[1]])
    assert calls.counted_calls.split_lost(list(cast("list[Completion]", alone)))[1] == []
    assert len(calls.made) == 1


@pytest.mark.anyio
async def test_first_deliveries_behind_those_that_another_member_has_are_not_called_either() -> None:
    """Or later events of a key would be handled here before the other member handles earlier ones."""
    calls = Calls(lost={1, 2, 3, 4})
    done: list[Completion] = []
    for items in ([item(1, 2), item(2, 2)], [item(3), item(4), item(5)], [item(6)]):
        done += cast("list[Completion]", await calls.counted_calls(items))
    assert [numbers for numbers, _ in calls.made] == [[5], [6]]
    lost, kept = calls.counted_calls.split_lost(done)
    assert [c.delivery.offset for c in lost] == [1, 2, 3, 4]
    assert [(c.delivery.offset, len(c.outputs)) for c in kept] == [(5, 1), (6, 1)]


@pytest.mark.anyio
async def test_while_the_broker_is_away_nothing_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[str] = []

    async def wait(seconds: float) -> None:
        waits.extend(calls.stats.failing)
        assert not calls.made

    monkeypatch.setattr("eventml.runtime.failures.outages.anyio.sleep", wait)
    calls = Calls()
    calls.subscription.failures = 3
    await calls.counted_calls([item(1, 2)])
    assert waits == ["counting attempts"] * 3
    assert calls.stats.failing == {}
    assert calls.made == [([1], {1: 2})]


@pytest.mark.anyio
async def test_what_has_returned_from_its_call_counts_no_more() -> None:
    calls = Calls()
    await calls.counted_calls([item(1, 2)])
    assert calls.counted == {1: 2}
    await calls.counted_calls.end()
    assert calls.counted == {}
    calls.subscription.failures = 1
    await calls.counted_calls.end()
    assert calls.subscription.failures == 1, "nothing is asked of the broker twice"
