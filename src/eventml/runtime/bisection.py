"""Finding the bad events of a failed batch in few calls: a state machine, without the calls."""

from __future__ import annotations

import math
import time


class Bisection:
    """Which parts of a failed batch to call next, to find its bad events: a state machine.

    Ask `next` for a part, call the handler with it, and report `passed` or `failed`; until `next` returns
    None. Parts come from left to right, so everything to the left of a part is settled.

    Halving is Hildebrandt and Zeller's delta debugging, reduced to faults that are independent of each other.
    One bad event among n costs at most 2*ceil(log2 n) + 1 calls, the first one, which failed, included.

    Args:
        size: The length of the batch, which has been called once and failed.
        seconds: When to stop, once the calls that a single bad event takes have been made.
    """

    def __init__(self, size: int, seconds: float = math.inf) -> None:
        self._open: list[range] = []
        self._current: range | None = None
        self._deadline = time.monotonic() + seconds
        self._fewest_calls = 2 * math.ceil(math.log2(size)) + 1
        self.calls = 1
        self._split(range(size))

    def next(self) -> range | None:
        """The leftmost part that is not settled; None if all is settled or the time is over."""
        if not self._open or (self.calls >= self._fewest_calls and time.monotonic() > self._deadline):
            return None
        self.calls += 1
        self._current = self._open.pop()
        return self._current

    def passed(self) -> None:
        """Report that the handler succeeded for the part."""
        self._current = None

    def failed(self) -> bool:
        """Report that the handler failed for the part. Returns whether it is a single event: a bad one."""
        current, self._current = self._current, None
        if current is None:
            raise RuntimeError("failed() without next()")
        if len(current) == 1:
            return True
        self._split(current)
        return False

    def _split(self, failed: range) -> None:
        if len(failed) == 1:
            self._open.append(failed)
            return
        middle = len(failed) // 2
        self._open += [failed[middle:], failed[:middle]]
