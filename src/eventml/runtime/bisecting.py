"""Finding the bad events of a failed batch: a pure state machine.

Halving (Hildebrandt and Zeller's delta debugging, cut down to independent faults): a range that
fails is split in two, the left half first, so that what passes is finished in order. One bad event
among n costs at most 2*ceil(log2 n) + 1 calls, the first one, which failed, included.
"""

from __future__ import annotations


class Bisection:
    """Which ranges of a failed batch to call next.

    Ask `next` for a range, call the handler with it, and say `passed` or `failed`; until `next` is
    None. The whole batch counts as called once, in vain. Ranges come from left to right, so all that
    lies right of the one at hand is not cleared yet.

    Args:
        size: The length of the batch.
    """

    def __init__(self, size: int) -> None:
        self._todo: list[range] = []
        self.calls = 1
        self._current: range | None = None
        self._split(range(size))

    def next(self) -> range | None:
        """The leftmost range to call; None when all is known."""
        if not self._todo:
            return None
        self.calls += 1
        self._current = self._todo.pop()
        return self._current

    def passed(self) -> None:
        """The range that `next` gave was handled."""
        self._current = None

    def failed(self) -> int | None:
        """The range that `next` gave failed. Returns the culprit's position if it stands alone now."""
        current, self._current = self._current, None
        if current is None:
            raise RuntimeError("failed() without next()")
        if len(current) == 1:
            return current[0]
        self._split(current)
        return None

    def _split(self, failed: range) -> None:
        if len(failed) == 1:
            self._todo.append(failed)
            return
        middle = len(failed) // 2
        self._todo += [failed[middle:], failed[:middle]]
