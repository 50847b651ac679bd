"""Ack bookkeeping for one partition: what is in hand, and up to where all is finished."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

H = TypeVar("H")


class Window(Generic[H]):
    """The offsets of one partition that were delivered and are not finished, each with its holder.

    Offsets are delivered in rising order (given-back ones again, later) and finished in any order;
    they may have gaps, as a compacted log has.
    """

    __slots__ = ("_in_hand", "_returned", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        """The next offset that nobody has been handed yet."""
        self._in_hand: dict[Any, H] = {}  # by offset
        self._returned: dict[int, None] = {}

    def deliver(self, offsets: Iterable[int], holder: H, position: int) -> None:
        """Note that `holder` has these now, and that `position` is the next fresh offset."""
        self._in_hand.update(dict.fromkeys(offsets, holder))
        self.position = position

    def finish(self, offset: int | str, holder: H) -> bool:
        """Take an offset as finished; False, and nothing changes, unless `holder` has it in hand."""
        if self._in_hand.get(offset) is not holder:
            return False
        del self._in_hand[offset]
        return True

    def give_back(self, holder: H) -> list[int]:
        """Make all that `holder` has in hand deliverable again. Returns those offsets, rising."""
        offsets = sorted(offset for offset, who in self._in_hand.items() if who is holder)
        for offset in offsets:
            del self._in_hand[offset]
        self._returned = dict.fromkeys(sorted((*self._returned, *offsets)))
        return offsets

    def take_returned(self, limit: int, holder: H) -> list[int]:
        """Hand given-back offsets out again, the lowest first."""
        if not self._returned:
            return []
        offsets = list(self._returned)[:limit]
        for offset in offsets:
            del self._returned[offset]
        self._in_hand.update(dict.fromkeys(offsets, holder))
        return offsets

    @property
    def safe(self) -> int:
        """The contiguous finished offset: everything below it is finished, itself is not."""
        return min(chain(self._in_hand, self._returned), default=self.position)

    @property
    def in_flight(self) -> int:
        return len(self._in_hand)

    def unfinished(self, end: int) -> int:
        """How many of the offsets below `end` are not finished, where there are no gaps."""
        return end - self.position + len(self._in_hand) + len(self._returned)
