"""How far one partition is: what is in hand, up to where all is finished, and what is beyond that.

A group's place in a partition is one committed offset. The commit's metadata says more: what was finished
beyond it, out of order, so that whoever comes next need not do it again; and how often what follows it
was handed out, so that an event that kills its worker is found (see `attempts`).
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from eventml.backends.kafka import attempts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from eventml.backends.kafka.attempts import Tried

    Ranges = tuple[tuple[int, int], ...]  # offsets, the first and the one after the last, rising

_MARK: Final = "eventml1:"
_AT_WORK: Final = "w"
LONGEST: Final = 4_000
"""Characters of metadata: the brokers take 4096 bytes by default (`offset.metadata.max.bytes`)."""


class Place(NamedTuple):
    """A group's place in a partition.

    Attributes:
        offset: Everything before it is finished.
        finished: What is finished beyond it.
        tried: How often the offsets from there on were handed out, and not finished.
        at_work: A member is at work from there on, or has died at it: more may have been handed out.
    """

    offset: int
    finished: Ranges = ()
    tried: Tried = ()
    at_work: bool = False

    def same(self, other: Place) -> bool:
        """Whether the same is finished."""
        return self[:2] == other[:2]


class Progress:
    """The offsets of one partition from delivered to finished.

    Offsets are delivered in rising order and finished in any; they may have gaps, as the logs of
    compacted topics and of transactions have.

    It begins `untouched`, and says of what was handed out before just what it was told. From `begin` on
    it counts itself in; after `give_back` not any more; after `leave` for good, but only what it
    handed out.

    Args:
        place: Where to go on.
        end: Where the log ended when we came, if what was handed out before is of interest: nothing
            beyond it can have been.
    """

    __slots__ = ("_end", "_finished", "_in_hand", "_phase", "_presumes", "_starts", "_tried", "position")

    def __init__(self, place: Place, end: int | None = None) -> None:
        self.position = place.offset
        """The next offset that nobody has been handed yet."""
        self._end = end
        self._tried = place.tried
        self._presumes = place.at_work
        self._phase: Literal["untouched", "begun", "given back", "left"] = "untouched"
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
    def in_flight(self) -> int:
        return len(self._in_hand)

    @property
    def safe(self) -> int:
        """The contiguous finished offset: everything below it is finished, itself is not."""
        return int(next(iter(self._in_hand), self.position))

    def place(self, without: frozenset[int | str] = frozenset()) -> Place:
        """The place to commit, taking the offsets in `without` as finished as well."""
        held = [int(offset) for offset in self._in_hand if offset not in without]
        if not held:
            offset, finished = _normal(self.position, self._rest())
        else:
            stops = [*held[1:], self.position]
            done = ((one + 1, stop) for one, stop in zip(held, stops, strict=True) if one + 1 < stop)
            offset, finished = _normal(held[0], (*done, *self._rest()))
        tried, at_work = self._told()
        return Place(offset, finished, attempts.from_offset(tried, offset), at_work)

    # How often it was handed out

    @property
    def suspects_until(self) -> int:
        """What lies before this was handed out before we came, and has to come again with caution."""
        end = 0 if self._end is None else self._end
        if self._phase == "untouched" and self._presumes:
            return end
        return min(self._tried[-1][0], end) if self._tried else 0

    def begin(self, reach: int = 0) -> None:
        """Hand out from now on.

        Args:
            reach: How many offsets one who died may have had in hand.
        """
        if self._phase == "untouched":
            if self._presumes:
                self._tried = attempts.presumed(self._tried, self.position + reach)
            self._tried = () if self._end is None else attempts.before(self._tried, self._end)
        self._phase = "begun"

    @property
    def begun(self) -> bool:
        return self._phase == "begun"

    def give_back(self) -> None:
        """Hand out nothing more. What is not finished by the next commit goes to another, uncounted."""
        if self._phase == "begun":
            self._phase = "given back"

    def leave(self) -> None:
        """As `give_back`, but what is in hand counts as handed out."""
        if self._phase != "untouched":
            self._phase = "left"

    def attempt(self, offset: int) -> int:
        """At which delivery an offset is."""
        return attempts.times(self._tried, offset) + 1

    def _told(self) -> tuple[Tried, bool]:
        if self._phase == "begun":
            return tuple((end, count + 1) for end, count in self._tried), True
        if self._phase == "left":
            return attempts.once_more(self._tried, self.position), False
        return self._tried, self._phase == "untouched" and self._presumes

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


def _normal(offset: int, finished: Ranges) -> tuple[int, Ranges]:
    """The one way to say it: ranges that touch are one, and none begins at the offset."""
    ranges: list[tuple[int, int]] = []
    for start, stop in finished:
        if start <= offset:
            offset = max(offset, stop)
        elif ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], stop)
        else:
            ranges.append((start, stop))
    return offset, tuple(ranges)


def write(place: Place) -> tuple[str, bool]:
    """The metadata of a commit: empty where it says no more than the offset.

    Also whether all that was finished out of order went in; else what is left out may be done again.
    """
    steps, last = [], place.offset
    for end, times in place.tried:
        steps.append(f"{end - last:x}-{times:x}")
        last = end
    more = f";{','.join(steps)};{_AT_WORK if place.at_work else ''}" if steps or place.at_work else ""
    room = LONGEST - len(_MARK) - len(more)
    text, last = "", place.offset
    for start, stop in place.finished:
        one = f"{',' if text else ''}{start - last:x}-{stop - start:x}"
        if len(text) + len(one) > room:
            return f"{_MARK}{text}{more}", False
        text += one
        last = stop
    return (f"{_MARK}{text}{more}" if text or more else ""), True


def read(offset: int, metadata: str | None) -> Place:
    """The place that a commit says. Metadata of others' making says nothing to us."""
    if not metadata or not metadata.startswith(_MARK):
        return Place(offset)
    gaps, _, more = metadata.removeprefix(_MARK).partition(";")
    steps, _, at_work = more.partition(";")
    finished, last = [], offset
    for skip, length in _pairs(gaps):
        start = last + skip
        last = start + length
        finished.append((start, last))
    tried, last = [], offset
    for length, times in _pairs(steps):
        last += length
        tried.append((last, times))
    return Place(offset, tuple(finished), tuple(tried), at_work == _AT_WORK)


def _pairs(text: str) -> Iterator[tuple[int, int]]:
    for pair in text.split(",") if text else ():
        one, _, other = pair.partition("-")
        yield int(one, 16), int(other, 16)
