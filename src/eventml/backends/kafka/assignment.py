"""The partitions that a member has, and their deliveries from fetched to finished.

    fetched ──► put ──► take ──► in hand ──► finish ──► place to commit

It has no I/O. A rebalance takes all partitions away and gives some back: `suspend`, then `resume`. What
is in hand of a partition that comes straight back stays in hand; of the others it is forgotten, and a
late completion finds nothing.

What was handed out before and never finished may be what killed its worker. So partitions that begin
with such take their turns, in a fixed order: until they are through, nothing else is handed out.
"""

from __future__ import annotations

from collections import deque
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

import anyio
from msgspec.structs import replace

from eventml.backends.kafka.progress import Place, Progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from aiokafka import TopicPartition

    from eventml.backends.kafka.progress import Ranges
    from eventml.records import Delivery

_OFFSET = attrgetter("offset")
_PLACE = attrgetter("record.topic", "partition")


class Chunk(NamedTuple):
    """Deliveries of one partition that nobody has taken yet, and the offset to go on from after them."""

    partition: TopicPartition
    deliveries: Sequence[Delivery]
    position: int


class Assignment:
    """Partitions at work. It begins without any, suspended.

    Attributes:
        active: Deliveries are handed out.
        version: Changes when what was fetched before is not to be used any more.
        fetched: Where each partition's next fetch begins.
    """

    def __init__(self) -> None:
        self._progress: dict[TopicPartition, Progress] = {}
        self._committed: dict[TopicPartition, Place] = {}
        self._waiting: deque[Chunk] = deque()
        self._count = 0
        self._turns: deque[TopicPartition] = deque()
        self._idle = anyio.Event()
        self.active = False
        self.version = 0
        self.fetched: dict[TopicPartition, int] = {}

    # From one rebalance to the next

    def suspend(self) -> None:
        """Hand out nothing more."""
        self.active = False
        self._drop_waiting()

    async def until_idle(self, within: float) -> bool:
        """Wait until nothing is in hand. False if that takes too long."""
        if self.in_flight:
            self._idle = anyio.Event()
            with anyio.move_on_after(within):
                await self._idle.wait()
        return not self.in_flight

    def hurry(self) -> None:
        """Let nobody wait until nothing is in hand."""
        self._idle.set()

    def give_back(self) -> None:
        """What is not finished by the next commit goes to another, as if it had not been handed out."""
        for progress in self._progress.values():
            progress.give_back()

    def leave(self) -> None:
        """What is not finished by the next commit goes to another, and counts as handed out."""
        for progress in self._progress.values():
            progress.leave()

    def resume(
        self, places: Mapping[TopicPartition, Place], ends: Mapping[TopicPartition, int]
    ) -> frozenset[TopicPartition]:
        """Go on with these partitions, from these places.

        A partition that was ours, and whose place nobody has changed, keeps what is in hand: returns those.

        Args:
            places: What the group has finished.
            ends: Where the logs end of those of which something was handed out before.
        """
        kept = {
            partition: progress
            for partition, progress in self._progress.items()
            if partition in places and places[partition].same(self._committed[partition])
        }
        self._progress = {p: kept.get(p) or Progress(place, ends.get(p)) for p, place in places.items()}
        self._committed = dict(places)
        turns = sorted(
            p for p, progress in self._progress.items() if progress.position < progress.suspects_until
        )
        self._turns = deque(turns)
        for partition, progress in self._progress.items():
            if partition not in turns:
                progress.begin()
        self._drop_waiting()
        self.active = True
        self._notice()
        return frozenset(kept)

    def restart(self, partition: TopicPartition, place: Place) -> None:
        """Forget what is in hand of a partition: somebody else has moved its place."""
        if partition in self._progress:
            self._progress[partition] = Progress(place)
            self._progress[partition].begin()
            self._committed[partition] = place
            self.end_turn(partition)
            self._drop_waiting()
            self._notice()

    def end(self) -> None:
        """Forget everything."""
        self.active = False
        self._progress.clear()
        self._committed.clear()
        self._turns.clear()
        self._drop_waiting()
        self._notice()

    # Turns of those with something that was handed out before

    @property
    def turn(self) -> TopicPartition | None:
        """Which partition alone is to be fetched, and handed out; None if all."""
        while self._turns:
            progress = self._progress[self._turns[0]]
            if not progress.begun or progress.position < progress.suspects_until:
                return self._turns[0]
            self._turns.popleft()
        return None

    def begin(self, partition: TopicPartition, reach: int) -> None:
        """Begin a partition's turn. Nothing of it may be handed out before the next commit.

        Args:
            partition: Whose turn it is.
            reach: How many offsets of it a member that died may have had in hand.
        """
        self._progress[partition].begin(reach)

    def end_turn(self, partition: TopicPartition) -> None:
        """Let the others go on, although not all of a partition's suspects were handed out."""
        if partition in self._turns:
            self._turns.remove(partition)

    @property
    def fetched_turn(self) -> bool:
        """What is waiting is all that is to be handed out in this turn."""
        partition = self.turn
        return (
            partition is not None
            and self._count > 0
            and self.fetched[partition] >= self._progress[partition].suspects_until
        )

    @property
    def cautious(self) -> bool:
        """Something is unfinished that was handed out before."""
        return any(progress.safe < progress.suspects_until for progress in self._progress.values())

    # Deliveries

    def put(self, chunk: Chunk) -> None:
        """Add what was fetched. Without deliveries, it says that there are none up to the position."""
        partition, deliveries, position = chunk
        progress = self._progress.get(partition)
        if not self.active or progress is None:
            return
        self.fetched[partition] = position
        if deliveries and progress.anything_was:
            deliveries = [d for d in deliveries if not progress.was_finished(int(d.offset))]
        if deliveries and int(deliveries[0].offset) < progress.suspects_until:
            deliveries = [replace(d, attempt=progress.attempt(int(d.offset))) for d in deliveries]
        if deliveries:
            self._waiting.append(Chunk(partition, deliveries, position))
            self._count += len(deliveries)
        elif not self._count:
            progress.position = max(progress.position, position)

    def take(self, limit: int) -> list[Delivery]:
        """Hand out up to `limit` deliveries."""
        taken: list[Delivery] = []
        while self._waiting and len(taken) < limit:
            partition, deliveries, position = self._waiting.popleft()
            room = limit - len(taken)
            if len(deliveries) > room:
                rest = Chunk(partition, deliveries[room:], position)
                self._waiting.appendleft(rest)
                position = int(rest.deliveries[0].offset)
                deliveries = deliveries[:room]
            self._progress[partition].deliver(map(_OFFSET, deliveries), position)
            taken += deliveries
        self._count -= len(taken)
        return taken

    def holds(self, delivery: Delivery) -> bool:
        """Whether a delivery is in hand."""
        return bool(self.held([delivery]))

    def held(self, deliveries: Iterable[Delivery]) -> list[int]:
        """The positions of those that are in hand."""
        held: list[int] = []
        start = 0
        for progress, offsets in self._runs(deliveries):
            if progress is not None:
                if progress.holds_all(offsets):
                    held += range(start, start + len(offsets))
                else:
                    held += [start + n for n, offset in enumerate(offsets) if progress.holds(offset)]
            start += len(offsets)
        return held

    def finish(self, deliveries: Iterable[Delivery]) -> None:
        """Take deliveries as finished; those that are not in hand are passed over."""
        for progress, offsets in self._runs(deliveries):
            if progress is not None:
                progress.finish(offsets)
        self._notice()

    # Places

    def to_commit(self) -> dict[TopicPartition, Place]:
        """The places of the partitions where something was finished since the last commit."""
        places = {partition: progress.place() for partition, progress in self._progress.items()}
        return {partition: at for partition, at in places.items() if at != self._committed[partition]}

    def committed(self, places: Mapping[TopicPartition, Place]) -> None:
        """Note what the brokers have been told."""
        self._committed |= {p: place for p, place in places.items() if p in self._progress}

    def place_committed(self, partition: TopicPartition) -> Place | None:
        """What was last committed of a partition; None if it is not ours."""
        return self._committed.get(partition)

    def place_after(self, partition: TopicPartition, finished: Iterable[Delivery]) -> Place:
        """The partition's place once these deliveries of it are finished too."""
        return self._progress[partition].place(frozenset(map(_OFFSET, finished)))

    # What it looks like from outside

    @property
    def partitions(self) -> frozenset[TopicPartition]:
        return frozenset(self._progress)

    @property
    def waiting(self) -> int:
        """How many deliveries there are to take."""
        return self._count

    @property
    def in_flight(self) -> int:
        """How many deliveries were taken and not finished."""
        return sum(progress.in_flight for progress in self._progress.values())

    def position(self, partition: TopicPartition) -> int:
        """The next offset that nobody has taken."""
        return self._progress[partition].position

    def unfinished(self, partition: TopicPartition, end: int, holes: Ranges = ()) -> int:
        """How many of a partition's records before `end` are not finished; offsets in `holes` are none."""
        return self._progress[partition].unfinished(end, holes)

    def _drop_waiting(self) -> None:
        self._waiting.clear()
        self._count = 0
        self.fetched = {partition: progress.position for partition, progress in self._progress.items()}
        self.version += 1

    def _notice(self) -> None:
        if not self.in_flight:
            self._idle.set()

    def _runs(self, deliveries: Iterable[Delivery]) -> Iterator[tuple[Progress | None, list[int | str]]]:
        """Runs of one partition: how far that is (None if it is not ours), and the offsets."""
        for (topic, partition), run in groupby(deliveries, key=_PLACE):
            # A TopicPartition is a tuple, and equal to this one.
            yield self._progress.get((topic, partition)), list(map(_OFFSET, run))
