"""The state of one consumer group at one in-memory topic. Nothing here waits or locks: the hub does both."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, TypeVar

import msgspec

from eventml.backends.memory.partition import Partition, Window

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from eventml.backends.base import Completion, Start
    from eventml.records import Delivery

M = TypeVar("M")


class Group:
    """One consumer group at one topic: which member owns which partition, and the deliveries in flight."""

    def __init__(self, partitions: Sequence[Partition], start: Start) -> None:
        self._partitions = partitions
        self._windows: list[Window[Hashable]] = [
            Window(p.base if start == "earliest" else p.end) for p in partitions
        ]
        self._members: list[Hashable] = []
        self._owners: dict[int, Hashable] = {}
        self._next_owners: dict[int, Hashable] = {}
        self._deliveries: list[Counter[int | str]] = [Counter() for _ in partitions]
        self._turn = 0
        self.completed_ids = LastIds()

    @property
    def members(self) -> int:
        """The number of members."""
        return len(self._members)

    def join(self, member: Hashable) -> None:
        """Add a member and reassign partitions."""
        self._members.append(member)
        self._reassign()

    def leave(self, member: Hashable) -> None:
        """Remove a member. Its deliveries in flight go to the next owners of its partitions."""
        self._members.remove(member)
        for window, attempts in zip(self._windows, self._deliveries, strict=True):
            attempts.update(window.give_back(member))
        self._reassign()

    def take(self, member: Hashable, limit: int) -> list[Delivery]:
        """Up to `limit` deliveries for a member, from its partitions in rotation."""
        taken: list[Delivery] = []
        count = len(self._partitions)
        self._turn = (self._turn + 1) % count
        for step in range(count):
            index = (self._turn + step) % count
            if self._owners.get(index) is member and index not in self._next_owners:
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
        """Finish completions of deliveries that are in flight with the member; return those completions.

        The others are no longer the member's.
        """
        windows = self._windows
        accepted = []
        for completion in done:
            delivery = completion.delivery
            if windows[delivery.partition].finish(delivery.offset, member):
                accepted.append(completion)
                if delivery.attempt > 1:
                    del self._deliveries[delivery.partition][delivery.offset]
        return accepted

    def deduplicate(self, accepted: Iterable[Completion], window: int) -> list[Completion]:
        """Record ids as `Completion.dedupe` says; return the completions whose outputs are published."""
        first = []
        for completion in accepted:
            id_ = completion.delivery.record.id
            if completion.dedupe != "drop" or id_ not in self.completed_ids:
                first.append(completion)
            if completion.dedupe != "off":
                self.completed_ids.add(id_, window)
        return first

    def safe(self, index: int) -> int:
        """The safe offset of a partition: all below it are finished."""
        return self._windows[index].safe

    def lag(self) -> dict[int, int]:
        """The number of unfinished records by partition."""
        return {
            p.index: window.unfinished(p.end)
            for p, window in zip(self._partitions, self._windows, strict=True)
        }

    def _reassign(self) -> None:
        wanted = assign(len(self._partitions), self._members, self._owners)
        self._next_owners = {p: who for p, who in wanted.items() if self._owners.get(p, who) is not who}
        self._owners.update((p, who) for p, who in wanted.items() if p not in self._next_owners)
        if not wanted:
            self._owners.clear()
        self.hand_over()

    def hand_over(self) -> bool:
        """Move partitions to their next owners once none of their records is in flight, to keep order."""
        ready = [p for p in self._next_owners if not self._windows[p].in_flight]
        for index in ready:
            self._owners[index] = self._next_owners.pop(index)
        return bool(ready)


def assign(partitions: int, members: Sequence[M], current: Mapping[int, M]) -> dict[int, M]:
    """Assign partitions 0..n-1 to members evenly, moving as few as possible.

    Every partition has one owner (none if there are no members), the members' shares differ by at most
    one, and a partition moves only if its owner has left or has more than its share.
    """
    if not members:
        return {}
    held: dict[M, list[int]] = {member: [] for member in members}
    for partition in range(partitions):
        owner = current.get(partition)
        if owner is not None and owner in held:
            held[owner].append(partition)
    share, extra = divmod(partitions, len(members))
    # The members with the most partitions keep the larger shares: this moves the fewest.
    ranked = sorted(members, key=lambda member: -len(held[member]))
    quota = {member: share + (rank < extra) for rank, member in enumerate(ranked)}
    kept = {p: member for member in members for p in held[member][: quota[member]]}
    free = [p for p in range(partitions) if p not in kept]
    for member in members:
        missing = quota[member] - min(len(held[member]), quota[member])
        kept.update((free.pop(0), member) for _ in range(missing))
    return kept


class LastIds:
    """The ids that a group completed last, up to a window. Each operation takes constant time."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, id_: str) -> bool:
        return id_ in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, id_: str, window: int) -> None:
        """Record an id as the latest, and forget all but the last `window` ids."""
        self._ids[id_] = None
        self._ids.move_to_end(id_)
        while len(self._ids) > window:
            self._ids.popitem(last=False)
