"""The partitions assigned to a member, and their deliveries from fetched to completed. It does no I/O.

    fetched ──► put ──► take ──► in flight ──► complete ──► to_commit

A rebalance takes all partitions away and assigns some: `suspend`, then `resume`. What is in flight of a
partition that is assigned to the same member again stays in flight; what is in flight of the others is
forgotten, and a late completion of it is ignored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, islice
from operator import attrgetter
from typing import NamedTuple

import anyio
from aiokafka import TopicPartition
from msgspec.structs import replace

from eventml.backends.base import MAX_BYTES
from eventml.backends.kafka.partitions import CommittedOffset, PartitionState
from eventml.records import Delivery, count_bytes, count_fitting

_OFFSET = attrgetter("offset")
_PARTITION = attrgetter("partition")
_TOPIC_AND_PARTITION = attrgetter("record.topic", "partition")  # takes three times as long


GivenBack = Mapping[TopicPartition, tuple[CommittedOffset, CommittedOffset]]
"""By partition of a member that failed: the offset it last committed, and the one it had yet to commit."""


class Chunk(NamedTuple):
    """Fetched deliveries of one partition, and the offset to go on from after them."""

    partition: TopicPartition
    deliveries: Sequence[Delivery]
    position: int
    size: int = 0  # bytes of the deliveries, once they are buffered


class Assignment:
    """The partitions of a member. It starts with none, suspended.

    Attributes:
        active: Records are delivered.
        version: Changes when what was fetched before must not be used any more.
        states: The state of each partition.
        committed: What was last committed of each partition.
        fetched: Where each partition's next fetch begins.
        buffered: How many deliveries can be taken.
        lost: How many offsets were removed from the logs before the group had read them.
        forgot: Whether it has ever forgotten what was in flight.

    Args:
        max_bytes: The most bytes that `take` returns; a larger record is returned alone.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._buffered_bytes = 0
        self._chunks: deque[Chunk] = deque()
        self._idle = anyio.Event()
        self.active = False
        self.version = 0
        self.states: dict[TopicPartition, PartitionState] = {}
        self.committed: dict[TopicPartition, CommittedOffset] = {}
        self.fetched: dict[TopicPartition, int] = {}
        self.buffered = self.lost = 0
        self.forgot = False

    # Rebalances

    def suspend(self) -> None:
        """Deliver nothing more."""
        self.active = False
        self._drop_buffered()

    async def until_idle(self, within: float) -> bool:
        """Wait until nothing is in flight. False if it takes longer than `within` seconds."""
        if self.in_flight:
            self._idle = anyio.Event()
            with anyio.move_on_after(within):
                await self._idle.wait()
        return not self.in_flight

    def give_back(self) -> None:
        """Deliver nothing more; what the next commit leaves unfinished does not count as delivered."""
        for state in self.states.values():
            state.give_back()

    def leave(self) -> None:
        """Deliver nothing more, and end `until_idle`. What the next commit leaves counts as delivered."""
        self.suspend()
        self._idle.set()
        for state in self.states.values():
            state.leave()

    def unfinished(self) -> GivenBack:
        """By partition: the offset that was last committed, and the one to commit now."""
        return {partition: (self.committed[partition], s.to_commit()) for partition, s in self.states.items()}

    def resume(
        self,
        committed: Mapping[TopicPartition, CommittedOffset],
        ends: Mapping[TopicPartition, int],
        former: GivenBack | None = None,
    ) -> None:
        """Deliver from these partitions, from the committed offsets on.

        What is in flight of a partition stays in flight if no other member has committed for it meanwhile.
        `ends` has the ends of the logs of those of which records were delivered before.
        """
        kept = {
            partition: state
            for partition, state in self.states.items()
            if committed.get(partition) == self.committed[partition]
        }
        self.forgot |= any(state.in_flight for p, state in self.states.items() if p not in kept)
        found = {p: meant for p, (last, meant) in (former or {}).items() if committed.get(p) == last}
        self.states = {
            partition: kept.get(partition) or PartitionState(found.get(partition, at), ends.get(partition))
            for partition, at in committed.items()
        }
        self.committed = dict(committed)
        for state in self.states.values():
            if not state.presumes:  # `Assignment.start` does that
                state.start()
        self._drop_buffered()
        self.active = True
        self._check_idle()

    def restart(self, partition: TopicPartition, committed: CommittedOffset) -> None:
        """Forget what is in flight of a partition: another member has committed for it."""
        if partition in self.states:
            self.forgot |= bool(self.states[partition].in_flight)
            self.states[partition] = PartitionState(committed)
            self.states[partition].start()
            self.committed[partition] = committed
            self._drop_buffered()
            self._check_idle()

    def end(self) -> None:
        """Forget everything."""
        self.resume({}, {})
        self.active = False

    def start(self, presumed: int) -> None:
        """Deliver of all partitions. A member that died may have had so many records of each in a call."""
        for state in self.states.values():
            state.start(presumed)

    @property
    def redelivering(self) -> bool:
        """Whether a record that was delivered before is unfinished."""
        return any(state.safe_offset < state.redelivered_until for state in self.states.values())

    # Deliveries

    def put(self, chunk: Chunk) -> None:
        """Add what was fetched. A chunk without deliveries says that no record is before its position."""
        partition, deliveries, position, _ = chunk
        state = self.states.get(partition)
        if not self.active or state is None:
            return
        self.fetched[partition] = position
        if deliveries and state.any_completed_earlier:
            deliveries = [d for d in deliveries if not state.completed_earlier(int(d.offset))]
        if deliveries and int(deliveries[0].offset) < state.redelivered_until:
            deliveries = [replace(d, attempt=state.attempt(int(d.offset))) for d in deliveries]
        if deliveries:
            size = count_bytes(deliveries)
            self._chunks.append(Chunk(partition, deliveries, position, size))
            self.buffered += len(deliveries)
            self._buffered_bytes += size
        elif not self.buffered:
            state.position = max(state.position, position)

    def skip_removed(self, partition: TopicPartition, start: int, end: int) -> str:
        """Go on where a log begins that does not have the offset to fetch next. Returns what has happened."""
        offset, state = self.fetched[partition], self.states[partition]
        if offset > end:
            self.restart(partition, CommittedOffset(start))
            why = "it was created again, or has lost an unknown number of records"
            return f"it ends at {end}, before offset {offset}, and is read from its beginning: {why}"
        lost = state.unfinished(start) - state.unfinished(offset)
        self.lost += lost
        self.put(Chunk(partition, (), start))
        remedy = "Raise the topic's retention above the longest time that the group is behind"
        return f"{lost} records, offsets {offset} to {start - 1}, were removed unread and are lost. {remedy}"

    def full(self, limit: int) -> bool:
        """Whether as much is buffered as `take` returns with this limit."""
        return self.buffered >= limit or self._buffered_bytes >= self._max_bytes

    def take(self, limit: int) -> list[Delivery]:
        """Deliver up to `limit` records."""
        taken: list[Delivery] = []
        if self._buffered_bytes > self._max_bytes:
            buffered = chain.from_iterable(chunk.deliveries for chunk in self._chunks)
            limit = count_fitting(islice(buffered, limit), self._max_bytes) or 1
        while self._chunks and len(taken) < limit:
            partition, deliveries, position, size = self._chunks.popleft()
            room = limit - len(taken)
            if len(deliveries) > room:
                rest = deliveries[room:]
                deliveries = deliveries[:room]
                kept = size - count_bytes(deliveries)
                self._chunks.appendleft(Chunk(partition, rest, position, kept))
                position, size = int(rest[0].offset), size - kept
            self._buffered_bytes -= size
            self.states[partition].deliver(
                dict(zip(map(_OFFSET, deliveries), deliveries, strict=True)), position
            )
            taken += deliveries
        self.buffered -= len(taken)
        return taken

    def positions_in_flight(self, deliveries: Iterable[Delivery]) -> list[int]:
        """The positions of those deliveries that are in flight, and were not delivered again since."""
        found: list[int] = []
        start = 0
        for state, run in self._runs(deliveries):
            if state is not None:
                in_flight = state.in_flight.get
                found += [
                    n for n, delivery in enumerate(run, start) if in_flight(delivery.offset) is delivery
                ]
            start += len(run)
        return found

    def positions_lost(self, deliveries: Iterable[Delivery]) -> list[int]:
        """The positions of those that are not in flight any more, or are delivered again."""
        some = list(deliveries)
        kept = set(self.positions_in_flight(some))
        return [position for position in range(len(some)) if position not in kept]

    def complete(self, deliveries: Iterable[Delivery]) -> None:
        """Record deliveries as completed; those that are not in flight are ignored."""
        for state, run in self._runs(deliveries):
            if state is not None:
                in_flight = state.in_flight.get
                state.complete([d.offset for d in run if in_flight(d.offset) is d])
        self._check_idle()

    def begin(self, deliveries: Iterable[Delivery]) -> None:
        """Record which redelivered records a handler is called with, and that all other calls returned."""
        for state in self.states.values():
            state.called = {}
        for delivery in deliveries:
            found = self.states.get((delivery.record.topic, delivery.partition))
            if found is not None and found.in_flight.get(delivery.offset) is delivery:
                found.called[delivery.offset] = delivery.attempt

    @property
    def attempts_committed(self) -> bool:
        """Whether the last commits say how many attempts there were. None do so during a rebalance."""
        return all(
            (state.counts or not state.called) and state.to_commit().attempts == self.committed[p].attempts
            for p, state in self.states.items()
        )

    @property
    def in_flight(self) -> int:
        """How many deliveries were taken and are not completed."""
        return sum(len(state.in_flight) for state in self.states.values())

    # Commits

    def to_commit(self) -> dict[TopicPartition, CommittedOffset]:
        """Offsets to commit, of the partitions that have changed since the last commit."""
        offsets = {partition: state.to_commit() for partition, state in self.states.items()}
        return {partition: at for partition, at in offsets.items() if at != self.committed[partition]}

    def record_commit(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        """Record what the brokers have acknowledged."""
        self.committed |= {p: committed for p, committed in offsets.items() if p in self.states}

    def _drop_buffered(self) -> None:
        self._chunks.clear()
        self.buffered = self._buffered_bytes = 0
        self.fetched = {partition: state.position for partition, state in self.states.items()}
        self.version += 1

    def _check_idle(self) -> None:
        if not self.in_flight:
            self._idle.set()

    def _runs(self, deliveries: Iterable[Delivery]) -> Iterator[tuple[PartitionState | None, list[Delivery]]]:
        """Runs of one partition: its state (None if it is not assigned here), and the deliveries."""
        topics = {topic for topic, _ in self.states}
        if len(topics) > 1:
            for partition, run in groupby(deliveries, key=_TOPIC_AND_PARTITION):
                # A TopicPartition is a tuple, and equal to this one.
                yield self.states.get(partition), list(run)
            return
        # Only deliveries of a former assignment have another topic, and they are not those in flight.
        topic = next(iter(topics), "")
        for number, run in groupby(deliveries, key=_PARTITION):
            yield self.states.get((topic, number)), list(run)
