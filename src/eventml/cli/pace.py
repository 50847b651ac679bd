"""A rate, kept on average: what was late is caught up with, but never by more than a second's worth."""

from __future__ import annotations

_CATCH_UP = 1.0  # seconds


class Pace:
    """When the next events may go, at so many a second. It reads no clock and does not sleep.

    Args:
        rate: Events a second.
        now: The time, in seconds by any clock.
    """

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._due = now

    def wait(self, events: int, now: float) -> float:
        """How long to wait, in seconds, before so many more events may go."""
        due = max(self._due, now - _CATCH_UP)
        self._due = due + events / self._rate
        return max(due - now, 0.0)
