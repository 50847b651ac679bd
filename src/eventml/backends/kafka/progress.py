"""How far one partition is: what is in hand, up to where all is finished, and what is beyond that.

A group's place in a partition is one committed offset. What was finished beyond it, out of order, is
written into the commit's metadata, so that whoever comes next need not do it again.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    Ranges = tuple[tuple[int, int], ...]  # offsets, the first and the one after the last, rising

_MARK: Final = "eventml1:"
LONGEST: Final = 4_000
"""Characters of metadata: the brokers take 4096 bytes by default (`offset.metadata.max.bytes`)."""


class Place(NamedTuple):
    """A group's place in a partition.

    Attributes:
        offset: Everything before it is finished.
        finished: What is finished beyond it.
    """

    offset: int
    finished: Ranges = ()


class Progress:
    """The offsets of one partition from delivered to finished.

    Offsets are delivered in rising order and finished in any; they may have gaps, as the logs of
    compacted topics and of transactions have.
    """

    __slots__ = ("_finished", "_in_hand", "_starts", "position")

    def __init__(self, place: Place) -> None:
        self.position = place.offset
        """The next offset that nobody has been handed yet."""
        self._in_hand: dict[int | str, None] = {}  # in rising order
        self._finished = place.finished
        self._starts = [start for start, _ in place.finished]

    def deliver(self, offsets: Iterable[int | str], position: int) -> None:
        """Note that these are in hand now, and that `position` is the next fresh offset."""
        self._in_hand.update(dict.fromkeys(offsets))
        self.position = position

    def holds(self, offset: int | str) -> bool:
        return offset in self._in_hand

    def holds_all(self, offsets: Iterable[int | str]) -> bool:
        return all(map(self._in_hand.__contains__, offsets))

    def finish(self, offsets: Iterable[int | str]) -> None:
        """Take offsets as finished; those that are not in hand are passed over."""
        pop = self._in_hand.pop
        for offset in offsets:
            pop(offset, None)

    def was_finished(self, offset: int) -> bool:
        """Whether an offset had been finished before we came."""
        if not self._finished:
            return False
        found = bisect_right(self._starts, offset) - 1
        return found >= 0 and offset < self._finished[found][1]

    @property
    def anything_was(self) -> bool:
        """Whether anything beyond our position had been finished before we came."""
        return bool(self._finished) and self.position < self._finished[-1][1]

    @property
    def in_hand(self) -> int:
        return len(self._in_hand)

    @property
    def safe(self) -> int:
        """The contiguous finished offset: everything below it is finished, itself is not."""
        return int(next(iter(self._in_hand), self.position))

    def place(self, without: frozenset[int | str] = frozenset()) -> Place:
        """The place to commit, taking the offsets in `without` as finished as well."""
        held = [int(offset) for offset in self._in_hand if offset not in without]
        if not held:
            return _normal(self.position, self._rest())
        stops = [*held[1:], self.position]
        done = ((one + 1, stop) for one, stop in zip(held, stops, strict=True) if one + 1 < stop)
        return _normal(held[0], (*done, *self._rest()))

    def unfinished(self, end: int, holes: Ranges = ()) -> int:
        """How many of the records below `end` are not finished; offsets in `holes` are none."""
        left, upto = len(self._in_hand), self.position
        for start, stop in sorted((*self._rest(), *holes, (end, end))):
            left += max(min(start, end) - upto, 0)
            upto = max(upto, stop)
        return left

    def _rest(self) -> Ranges:
        """What had been finished before we came and is still ahead of us."""
        return tuple(
            (max(start, self.position), stop) for start, stop in self._finished if stop > self.position
        )


def _normal(offset: int, finished: Ranges) -> Place:
    """The one way to say it: ranges that touch are one, and none begins at the offset."""
    ranges: list[tuple[int, int]] = []
    for start, stop in finished:
        if start <= offset:
            offset = max(offset, stop)
        elif ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], stop)
        else:
            ranges.append((start, stop))
    return Place(offset, tuple(ranges))


def write(place: Place) -> tuple[str, bool]:
    """The metadata of a commit: empty where nothing was finished out of order.

    Also whether all of it went in; else what is left out may be done again.
    """
    text, last = "", place.offset
    for start, stop in place.finished:
        more = f"{',' if text else _MARK}{start - last:x}-{stop - start:x}"
        if len(text) + len(more) > LONGEST:
            return text, False
        text += more
        last = stop
    return text, True


def read(offset: int, metadata: str | None) -> Place:
    """The place that a commit says. Metadata of others' making says nothing to us."""
    if not metadata or not metadata.startswith(_MARK):
        return Place(offset)
    finished, last = [], offset
    for part in metadata.removeprefix(_MARK).split(","):
        skip, _, length = part.partition("-")
        start = last + int(skip, 16)
        last = start + int(length, 16)
        finished.append((start, last))
    return Place(offset, tuple(finished))
