"""Lag: how many records a group has not completed. Records are counted, not offsets.

A transaction leaves a marker at an offset of its own, an aborted one its records too, and compaction and
retention remove records. A short range of offsets is read and counted. A long one is read only if
transactions were found in it, and only up to a bound: brokers do not tell how many offsets are records, and
to read a whole backlog would cost as much as to handle it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from eventml.backends.kafka.admin import AdminClient, FetchedRecords
from eventml.backends.kafka.assignment import Assignment
from eventml.backends.kafka.connection import committed_offsets_of_records, has_transactional_batch
from eventml.backends.kafka.errors import describe
from eventml.backends.kafka.partitions import CommittedOffset, PartitionState, Ranges
from eventml.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_ALWAYS_READ: Final = 256  # offsets
_FIRST_READ: Final = 65_536  # bytes of a partition
_READ: Final = 1_048_576  # bytes of a partition, after the first read
_MAX_READS: Final = 4
_CHECKED_FOR: Final = 10.0  # seconds for which a log found without transactions is taken to be without them


class LogRange:
    """What is known of the offsets from `start` to before `end`.

    Attributes:
        end: The offset after the last.
        known_until: The offsets before this one are known.
        gaps: Ranges of known offsets that are no records.
        has_gaps: A gap was found, or a transaction, which leaves one.
    """

    def __init__(self, start: int, end: int) -> None:
        self.end = end
        self.known_until = start
        self.gaps: Ranges = ()
        self.has_gaps = False

    @property
    def known(self) -> bool:
        """Whether all offsets are known."""
        return self.known_until >= self.end

    def add(self, offsets: Iterable[int], until: int) -> None:
        """Record the offsets of all records from `known_until` to before `until`, in rising order."""
        for offset in (*offsets, until):
            if offset > self.known_until:
                self.gaps += ((self.known_until, offset),)
                self.has_gaps = True
            self.known_until = offset + 1
        self.known_until = until


class LagCounter:
    """Counts the records that groups have not completed."""

    def __init__(self, admin: AdminClient) -> None:
        self._admin = admin
        self._without_transactions: dict[TopicPartition, float] = {}  # when that was found

    async def lag(
        self, group: str, topics: Mapping[str, int], assignments: Sequence[Assignment]
    ) -> dict[TopicPartition, int] | None:
        """How many records a group has not completed, by partition.

        None if the group has committed nothing, if the records of a partition are too many to be counted,
        or if a rebalance is under way. What a member of another process has completed and not committed yet
        counts as not completed.

        Args:
            group: The group.
            topics: Its topics, and how many partitions each has.
            assignments: Those of its members in this process, which know more than what is committed.

        Raises:
            UnavailableError: no answer.
        """
        partitions = [TopicPartition(topic, p) for topic, count in topics.items() for p in range(count)]
        ends = await self._admin.offsets(partitions, "latest")
        committed = await self._admin.committed(group, partitions)
        assigned = _states(assignments)
        if not committed and not assigned:
            return None
        starts = await self._admin.offsets([p for p in partitions if p not in committed], "earliest")
        committed |= {partition: CommittedOffset(offset) for partition, offset in starts.items()}
        states = {p: assigned.get(p) or PartitionState(committed[p]) for p in partitions}
        gaps = await self._gaps(
            {p: (states[p].position, end) for p, end in ends.items() if states[p].position < end}
        )
        if None in gaps.values() or assigned != _states(assignments):
            return None
        return {p: states[p].unfinished(end, gaps.get(p) or ()) for p, end in ends.items()}

    async def _gaps(
        self, ranges: Mapping[TopicPartition, tuple[int, int]]
    ) -> dict[TopicPartition, Ranges | None]:
        """The gaps in these ranges of offsets; None if the range is too long to be read.

        Of a long range the beginning and the last batch are read. If no transaction wrote either, there are
        taken to be none.
        """
        logs = {p: LogRange(start, end) for p, (start, end) in ranges.items()}
        now = time.monotonic()
        checked = {
            p: log
            for p, log in logs.items()
            if log.end - log.known_until <= _ALWAYS_READ
            or now - self._without_transactions.get(p, -_CHECKED_FOR) >= _CHECKED_FOR
        }
        await self._read(checked, _FIRST_READ)
        unclear = {p: log for p, log in checked.items() if not log.known and not log.has_gaps}
        last = await self._admin.fetch({p: log.end - 1 for p, log in unclear.items()}, 1)
        for partition, fetched in last.items():
            logs[partition].has_gaps = fetched is not None and has_transactional_batch(fetched.raw)
        for _ in range(_MAX_READS):
            await self._read({p: log for p, log in logs.items() if log.has_gaps}, _READ)
        for partition, log in logs.items():
            if log.has_gaps:
                self._without_transactions.pop(partition, None)
            elif partition in checked:
                self._without_transactions[partition] = now
        return {p: None if log.has_gaps and not log.known else log.gaps for p, log in logs.items()}

    async def _read(self, logs: Mapping[TopicPartition, LogRange], size: int) -> None:
        """Read on in the logs that are not known, about `size` bytes of each."""
        fetched = await self._admin.fetch(
            {p: log.known_until for p, log in logs.items() if not log.known}, size
        )
        removed = [partition for partition, found in fetched.items() if found is None]
        starts = await self._admin.offsets(removed, "earliest")
        for partition, found in fetched.items():
            log = logs[partition]
            if found is None:
                log.add((), max(starts[partition], log.known_until))
            else:
                log.has_gaps = log.has_gaps or has_transactional_batch(found.raw)
                log.add(*_offsets(partition, found, log.known_until))


def _states(assignments: Iterable[Assignment]) -> dict[TopicPartition, PartitionState]:
    return {partition: state for one in assignments for partition, state in one.states.items()}


def _offsets(partition: TopicPartition, fetched: FetchedRecords, start: int) -> tuple[list[int], int]:
    try:
        return committed_offsets_of_records(partition, fetched.raw, fetched.aborted, start)
    except KafkaError as exc:
        raise UnavailableError(f"cannot read the records of {partition}: {describe(exc)}") from exc
