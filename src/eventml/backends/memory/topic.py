"""The state of one in-memory topic. Nothing here waits or locks: its hub does both."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from operator import attrgetter
from typing import TYPE_CHECKING
from zlib import crc32

import msgspec

from eventml.backends.assignment import assign
from eventml.backends.last_ids import LastIds
from eventml.backends.window import Window
from eventml.records import Delivery, Record, foreign_id

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from eventml.backends.base import Completion, Start


_KEY_OF, _ID_OF = attrgetter("key"), attrgetter("id")


class Partition:
    """An append-only log that forgets from the front. It holds deliveries, so that all groups share them."""

    __slots__ = ("base", "index", "log")

    def __init__(self, index: int) -> None:
        self.index = index
        self.base = 0
        self.log: list[Delivery] = []

    @property
    def end(self) -> int:
        return self.base + len(self.log)

    def read(self, position: int, limit: int) -> list[Delivery]:
        start = max(position - self.base, 0)
        return self.log[start : start + limit]

    def extend(self, records: Sequence[Record], now: float) -> None:
        index, end = self.index, self.end
        deliveries = [Delivery(record, index, offset, now) for offset, record in enumerate(records, end)]
        if "" in set(map(_ID_OF, records)):
            deliveries = [d if d.record.id else _named(d) for d in deliveries]
        self.log += deliveries

    def drop(self, count: int) -> None:
        del self.log[:count]
        self.base += count


def _named(delivery: Delivery) -> Delivery:
    """A delivery whose record, a foreign one, gets the id that its place gives it."""
    record = delivery.record
    named = foreign_id(record.topic, delivery.partition, delivery.offset)
    return msgspec.structs.replace(delivery, record=msgspec.structs.replace(record, id=named))


class Group:
    """One consumer group at one topic: who owns which partition, and what each has in hand."""

    def __init__(self, partitions: Sequence[Partition], start: Start) -> None:
        self._partitions = partitions
        self._windows: list[Window[Hashable]] = [
            Window(p.base if start == "earliest" else p.end) for p in partitions
        ]
        self._members: list[Hashable] = []
        self._owners: dict[int, Hashable] = {}
        self._heirs: dict[int, Hashable] = {}
        self._deliveries: list[Counter[int | str]] = [Counter() for _ in partitions]
        self._turn = 0
        self.finished_ids = LastIds()

    @property
    def members(self) -> int:
        return len(self._members)

    def join(self, member: Hashable) -> None:
        self._members.append(member)
        self._share_out()

    def leave(self, member: Hashable) -> None:
        """Take the member out. What it had in hand is delivered again, to whoever owns the partition next."""
        self._members.remove(member)
        for window, attempts in zip(self._windows, self._deliveries, strict=True):
            attempts.update(window.give_back(member))
        self._share_out()

    def take(self, member: Hashable, limit: int) -> list[Delivery]:
        """What is there for this member, up to `limit`, its partitions in turn."""
        taken: list[Delivery] = []
        count = len(self._partitions)
        self._turn = (self._turn + 1) % count
        for step in range(count):
            index = (self._turn + step) % count
            if self._owners.get(index) is member and index not in self._heirs:
                taken += self._take_from(index, member, limit - len(taken))
                if len(taken) >= limit:
                    break
        return taken

    def _take_from(self, index: int, member: Hashable, limit: int) -> list[Delivery]:
        partition, window = self._partitions[index], self._windows[index]
        taken: list[Delivery] = []
        for offset in window.take_returned(limit, member):
            delivery = partition.log[offset - partition.base]
            attempt = self._deliveries[index][offset] + 1
            taken.append(msgspec.structs.replace(delivery, attempt=attempt))
        fresh = partition.read(window.position, limit - len(taken))
        if fresh:
            position = window.position + len(fresh)
            window.deliver(range(window.position, position), member, position)
        return taken + fresh if taken else fresh

    def finish(self, done: Iterable[Completion], member: Hashable) -> list[Completion]:
        """Take as finished what the member has in hand, and return that: the rest is not its own any more."""
        windows = self._windows
        held = []
        for completion in done:
            delivery = completion.delivery
            if windows[delivery.partition].finish(delivery.offset, member):
                held.append(completion)
                if delivery.attempt > 1:
                    del self._deliveries[delivery.partition][delivery.offset]
        return held

    def remember(self, held: Iterable[Completion], window: int) -> list[Completion]:
        """Remember the ids of those that ask for it, and return those whose outputs are published."""
        first = []
        for completion in held:
            id_ = completion.delivery.record.id
            if completion.dedupe != "drop" or id_ not in self.finished_ids:
                first.append(completion)
            if completion.dedupe != "off":
                self.finished_ids.add(id_, window)
        return first

    def safe(self, index: int) -> int:
        return self._windows[index].safe

    def lag(self) -> dict[int, int]:
        return {
            p.index: window.unfinished(p.end)
            for p, window in zip(self._partitions, self._windows, strict=True)
        }

    def _share_out(self) -> None:
        wanted = assign(len(self._partitions), self._members, self._owners)
        self._heirs = {p: who for p, who in wanted.items() if self._owners.get(p, who) is not who}
        self._owners.update((p, who) for p, who in wanted.items() if p not in self._heirs)
        if not wanted:
            self._owners.clear()
        self.hand_over()

    def hand_over(self) -> bool:
        """Pass partitions on to their heirs once nothing of them is in hand: order per key survives."""
        ready = [p for p in self._heirs if not self._windows[p].in_flight]
        for index in ready:
            self._owners[index] = self._heirs.pop(index)
        return bool(ready)


class Topic:
    """A topic: its partitions, and the groups that read it."""

    def __init__(self, name: str, partitions: int, retention: int) -> None:
        self.name = name
        self._retention = retention
        self.partitions = [Partition(index) for index in range(partitions)]
        self.groups: dict[str, Group] = {}
        self._turn = 0

    def group(self, name: str, start: Start) -> Group:
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = Group(self.partitions, start)
        return group

    def append(self, records: Sequence[Record]) -> None:
        # Records without a key go to one partition a call: the next call takes the next.
        self._turn = (self._turn + 1) % len(self.partitions)
        now = time.time()
        if set(map(_KEY_OF, records)) == {None}:
            self.partitions[self._turn].extend(records, now)
            return
        parts: defaultdict[int, list[Record]] = defaultdict(list)
        for record in records:
            parts[self._turn if record.key is None else crc32(record.key) % len(self.partitions)].append(
                record
            )
        for index, theirs in parts.items():
            self.partitions[index].extend(theirs, now)

    def has_room(self) -> bool:
        """Whether a write may go ahead; makes room where it can.

        A write is let in whole as long as the topic is below its bound, so the bound is exceeded by
        one write at most: a batch larger than the bound could never go in otherwise.
        """
        size = sum(len(p.log) for p in self.partitions)
        if size < self._retention:
            return True
        # A quarter at a time, because dropping from the front of a list costs its whole length.
        to_drop = size - self._retention * 3 // 4
        for index, partition in enumerate(self.partitions):
            finished = min((g.safe(index) for g in self.groups.values()), default=partition.end)
            count = min(finished - partition.base, to_drop)
            if count > 0:
                partition.drop(count)
                to_drop -= count
        return sum(len(p.log) for p in self.partitions) < self._retention

    def slowest(self) -> str:
        """The group that holds most back."""
        return max(self.groups, key=lambda name: sum(self.groups[name].lag().values()), default="")
