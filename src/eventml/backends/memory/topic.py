"""The state of one in-memory topic. Nothing here waits or locks: the hub does both."""

from __future__ import annotations

import time
from collections import defaultdict
from operator import attrgetter
from typing import TYPE_CHECKING
from zlib import crc32

from eventml.backends.memory.group import Group
from eventml.backends.memory.partition import Partition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.backends.base import Start
    from eventml.records import Record

_KEY_OF = attrgetter("key")


class Topic:
    """A topic: its partitions, and the groups that read it."""

    def __init__(self, name: str, partitions: int, retention: int) -> None:
        self.name = name
        self._retention = retention
        self.partitions = [Partition(index) for index in range(partitions)]
        self.groups: dict[str, Group] = {}
        self._turn = 0

    def group(self, name: str, start: Start) -> Group:
        """The group of that name, created if it does not exist."""
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = Group(self.partitions, start)
        return group

    def append(self, records: Sequence[Record]) -> None:
        """Append records, each to the partition of its key."""
        # The records of a call that have no key go to one partition, those of the next call to the next.
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
        for index, part in parts.items():
            self.partitions[index].extend(part, now)

    def has_room(self) -> bool:
        """Whether records may be appended. Drops finished records if the topic is full.

        A write is accepted whole while the topic is below its bound, so the bound is exceeded by one write
        at most; otherwise a batch larger than the bound could never be written.
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
        """The name of the group with the largest lag."""
        return max(self.groups, key=lambda name: sum(self.groups[name].lag().values()), default="")
