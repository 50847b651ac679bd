"""One consumer group at one in-memory topic: its members, and which partitions each of them owns.

Nothing here waits or locks: the hub does both.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from eventml.backends.base import Completion, Start
from eventml.backends.memory.topic import Room, TopicState
from eventml.records import Delivery

M = TypeVar("M")


class Group:
    """A consumer group at a topic. What it has in flight is in the windows of the topic's partitions."""

    def __init__(self, topic: TopicState, name: str, start: Start) -> None:
        self.windows = [partition.window(name, start) for partition in topic.partitions]
        self.completed_ids: OrderedDict[str, None] = OrderedDict()  # the last one is the latest
        self._members: list[object] = []
        self._turn = 0

    def join(self, member: object) -> None:
        """Add a member and reassign partitions."""
        self._members.append(member)
        self._reassign()

    def leave(self, member: object) -> None:
        """Remove a member. Its deliveries in flight go to the next owners of its partitions."""
        self._members.remove(member)
        for window in self.windows:
            if window.owner is member:
                window.owner = None
                window.give_back()
        self._reassign()

    def take(self, member: object, room: Room) -> list[Delivery]:
        """Deliveries for a member, as there is room, from its partitions in rotation."""
        taken: list[Delivery] = []
        self._turn = (self._turn + 1) % len(self.windows)
        for window in (*self.windows[self._turn :], *self.windows[: self._turn]):
            if window.owner is member and window.next_owner is None:
                taken += window.take(room)
                if room.full:
                    break
        return taken

    def finish(self, done: Iterable[Completion], member: object) -> list[Completion]:
        """Finish completions of deliveries that are in flight with the member; return those completions.

        The others are no longer the member's.
        """
        windows = self.windows
        return [c for c in done if windows[(d := c.delivery).partition].finish(d.offset, member)]

    def begin(self, deliveries: Iterable[Delivery], member: object) -> None:
        """Count the attempts of the member's deliveries among these, and of no others of its own."""
        for index, window in enumerate(self.windows):
            if window.owner is member:
                window.called = {d.offset for d in deliveries if d.partition == index}

    def deduplicate(self, accepted: Iterable[Completion], window: int) -> list[Completion]:
        """Record ids as `Completion.dedupe` says, and forget all but the last `window` ones.

        Returns the completions whose outputs are published.
        """
        first = []
        for completion in accepted:
            id_ = completion.delivery.record.id
            if completion.dedupe != "drop" or id_ not in self.completed_ids:
                first.append(completion)
            if completion.dedupe != "off":
                self.completed_ids[id_] = None
                self.completed_ids.move_to_end(id_)
                while len(self.completed_ids) > window:
                    self.completed_ids.popitem(last=False)
        return first

    def lag(self) -> dict[int, int]:
        """The number of unfinished records by partition."""
        return {window.partition.index: window.lag for window in self.windows}

    def hand_over(self) -> bool:
        """Move partitions to their next owners once none of their records is in flight, to keep order."""
        ready = [w for w in self.windows if w.next_owner is not None and not w.in_flight]
        for window in ready:
            window.owner, window.next_owner = window.next_owner, None
        return bool(ready)

    def _reassign(self) -> None:
        current = {index: w.owner for index, w in enumerate(self.windows) if w.owner is not None}
        wanted = assign(len(self.windows), self._members, current)
        for index, window in enumerate(self.windows):
            owner = wanted.get(index)
            window.next_owner = None if owner is window.owner else owner
        self.hand_over()


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
