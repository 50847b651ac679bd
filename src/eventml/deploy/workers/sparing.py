"""A log that no library floods: aiokafka says thousands of times a second that a broker is away."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY: Final = 10.0
_MOST: Final = 1_000  # messages told apart


class Sparing(logging.Filter):
    """Lets through, of what is not eventml's own, a line of a kind now and then, with how many there were.

    Lines are of a kind if logger, level and text, before its arguments are put in, are the same.

    Args:
        every: Seconds between two lines of a kind.
        clock: Tells the time, in seconds.
    """

    def __init__(self, every: float = EVERY, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._every = every
        self._clock = clock
        self._passed: dict[tuple[str, int, str], float] = {}
        self._kept_back: dict[tuple[str, int, str], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written. One that is may get a count put behind it."""
        if record.name.partition(".")[0] == "eventml":
            return True
        kind, now = (record.name, record.levelno, str(record.msg)), self._clock()
        if now - self._passed.get(kind, -self._every) < self._every:
            self._kept_back[kind] = self._kept_back.get(kind, 0) + 1
            return False
        if len(self._passed) >= _MOST:
            self._passed.clear()
            self._kept_back.clear()
        self._passed[kind] = now
        if kept_back := self._kept_back.pop(kind, 0):
            record.msg, record.args = f"{record.getMessage()} (and {kept_back:,} times before)", None
        return True
