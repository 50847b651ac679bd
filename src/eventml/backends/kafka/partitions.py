"""The state of one partition: what is in flight, which offset is safe to commit, how often it was delivered.

A group commits one offset per partition. eventml's commits say more in their metadata: what was completed
beyond that offset, out of order, so that the next member need not repeat it; and how many attempts there were
at the records after it, so that an event that kills its worker is found.

Attempts are counted in steps. A member that leaves commits how far it came. A member that dies cannot; but it
has committed that it is active, and so the first records after the committed offset are presumed to have been
in a call once. They are redelivered, and from then on an attempt is committed before the call: further deaths
are counted, not presumed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

Ranges = tuple[tuple[int, int], ...]
"""Ranges of offsets, rising: the first offset, and the one after the last."""

AttemptSteps = tuple[tuple[int, int], ...]
"""Up to this offset, so many attempts, from 1. Offsets rise; after the last step the count is 0."""

_MAX_STEPS: Final = 32  # beyond these, counts of later offsets are dropped


class CommittedOffset(NamedTuple):
    """A group's committed offset of a partition, with the metadata of the commit.

    Attributes:
        offset: All records before it are completed.
        completed: Ranges of completed records beyond it.
        attempts: How many attempts there were at the records from there on.
        active: A member delivers records from there on, or died doing so: more may have been delivered.
    """

    offset: int
    completed: Ranges = ()
    attempts: AttemptSteps = ()
    active: bool = False

    def same_completed(self, other: CommittedOffset) -> bool:
        """Whether the same records are completed."""
        return self[:2] == other[:2]


class PartitionState:
    """The offsets of one partition from delivered to completed.

    Offsets are delivered in rising order and completed in any; they may have gaps, as the logs of
    compacted topics and of transactions have. No record beyond `end`, the end of the log, was delivered
    before; without it earlier deliveries are not counted.
    """

    __slots__ = (
        *("_attempts", "_completed", "_end", "_phase", "_presume", "_starts"),
        *("called", "in_flight", "position"),
    )

    def __init__(self, committed: CommittedOffset, end: int | None = None) -> None:
        self.position = committed.offset
        """The next offset to deliver."""
        self.in_flight: dict[int | str, object] = {}
        """What was delivered and is not completed, by offset, in rising order. What is delivered again
        is another delivery, which a late completion of the former one must not complete."""
        self.called: dict[int | str, int] = {}
        """The attempts of redelivered offsets that a handler is called with."""
        self._completed = committed.completed
        self._starts = [start for start, _ in committed.completed]
        self._end = end
        self._attempts = committed.attempts
        self._presume = committed.active
        # What the next commit says of attempts. new: what it found. delivering: also those at what is called,
        # and active. returned: what it found, as nothing is delivered any more. left: also those at what is
        # called, and one at least for what was delivered.
        self._phase: Literal["new", "delivering", "returned", "left"] = "new"

    def deliver(self, deliveries: Mapping[int | str, object], position: int) -> None:
        """Record that these are in flight, by offset; `position` is the next offset to deliver."""
        self.in_flight.update(deliveries)
        self.position = position

    def complete(self, offsets: Iterable[int | str]) -> None:
        """Record offsets as completed; those that are not in flight are ignored."""
        pop = self.in_flight.pop
        for offset in offsets:
            pop(offset, None)

    @property
    def safe_offset(self) -> int:
        """The offset that is safe to commit: all records before it are completed."""
        return int(next(iter(self.in_flight), self.position))

    def completed_earlier(self, offset: int) -> bool:
        """Whether an earlier member completed an offset."""
        found = bisect_right(self._starts, offset) - 1
        return found >= 0 and offset < self._completed[found][1]

    @property
    def any_completed_earlier(self) -> bool:
        """Whether an earlier member completed any record from the position on."""
        return bool(self._completed) and self.position < self._completed[-1][1]

    def to_commit(self, also: frozenset[int | str] = frozenset()) -> CommittedOffset:
        """The offset to commit, with the offsets in `also` counted as completed."""
        unfinished = [int(offset) for offset in self.in_flight if offset not in also]
        if unfinished:
            stops = [*unfinished[1:], self.position]
            between = zip(unfinished, stops, strict=True)
            done = ((offset + 1, stop) for offset, stop in between if offset + 1 < stop)
            offset, completed = _normalized(unfinished[0], (*done, *self._completed_ahead()))
        else:
            offset, completed = _normalized(self.position, self._completed_ahead())
        attempts = tuple(step for step in self._attempts_to_commit() if step[0] > offset)
        active = self._phase == "delivering" or (self._phase == "new" and self._presume)
        return CommittedOffset(offset, completed, attempts, active)

    def unfinished(self, end: int) -> int:
        """How many of the offsets before `end` are not completed."""
        count, upto = len(self.in_flight), self.position
        for start, stop in (*self._completed_ahead(), (end, end)):
            count += max(min(start, end) - upto, 0)
            upto = max(upto, stop)
        return count

    # Counting deliveries

    @property
    def redelivered_until(self) -> int:
        """Records before this offset were delivered to an earlier member, or are presumed to have been."""
        end = 0 if self._end is None else self._end
        if self.presumes:
            return end
        return min(self._attempts[-1][0], end) if self._attempts else 0

    @property
    def presumes(self) -> bool:
        """Whether a member has died here. `start` is told how many records it may have had in a call."""
        return self._phase == "new" and self._presume and self._end is not None and self.position < self._end

    def start(self, presumed: int = 0) -> None:
        """Deliver from now on. A member that died may have had `presumed` offsets in a call."""
        if self._phase == "new":
            if self._presume:
                self._attempts = presume_attempt(self._attempts, self.position + presumed)
            self._attempts = () if self._end is None else steps_before(self._attempts, self._end)
        self._phase = "delivering"

    @property
    def counts(self) -> bool:
        """Whether the next commit counts the attempts at what is called."""
        return self._phase in {"delivering", "left"}

    def give_back(self) -> None:
        """Deliver no more. What the next commit leaves unfinished does not count as delivered."""
        if self._phase == "delivering":
            self._phase = "returned"

    def leave(self) -> None:
        """Deliver no more. What the next commit leaves unfinished counts as delivered, unless given back."""
        if self._phase == "delivering":
            self._phase = "left"

    def attempt(self, offset: int) -> int:
        """The number of the attempt at a record that is delivered now: 1 if there was none before."""
        return attempts_at(self._attempts, offset) + 1

    def _attempts_to_commit(self) -> AttemptSteps:
        steps, called = self._attempts, self.called
        if not self.counts:
            return steps
        if called and steps:
            counts = (
                (int(offset) + 1, called.get(offset) or attempts_at(steps, int(offset)))
                for offset in self.in_flight
                if int(offset) < steps[-1][0]
            )
            steps = _joined((*counts, *steps))
        return presume_attempt(steps, self.position) if self._phase == "left" else steps

    def _completed_ahead(self) -> Ranges:
        return tuple(
            (max(start, self.position), stop) for start, stop in self._completed if stop > self.position
        )


def _normalized(offset: int, completed: Ranges) -> tuple[int, Ranges]:
    """The same in one form only: ranges that touch are one, and none begins at the offset."""
    ranges: list[tuple[int, int]] = []
    for start, stop in completed:
        if start <= offset:
            offset = max(offset, stop)
        elif ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], stop)
        else:
            ranges.append((start, stop))
    return offset, tuple(ranges)


def attempts_at(steps: AttemptSteps, offset: int) -> int:
    """How many attempts there were at an offset."""
    return next((count for end, count in steps if offset < end), 0)


def steps_before(steps: AttemptSteps, offset: int) -> AttemptSteps:
    """The steps without the part from an offset on."""
    kept: list[tuple[int, int]] = []
    for end, count in steps:
        kept.append((min(end, offset), count))
        if end >= offset:
            break
    return tuple(kept)


def presume_attempt(steps: AttemptSteps, offset: int) -> AttemptSteps:
    """The steps with one attempt at least at all records before an offset."""
    return _joined((*steps, (offset, 1)))


def _joined(steps: AttemptSteps) -> AttemptSteps:
    """Steps without those that reach no further than one before; neighbours of one count are one step."""
    kept: list[tuple[int, int]] = []
    for end, count in steps:
        if kept and end <= kept[-1][0]:
            continue
        if kept and count == kept[-1][1]:
            kept.pop()
        kept.append((end, count))
    return tuple(kept[:_MAX_STEPS])
