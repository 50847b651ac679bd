"""Log lines about failures of events: one for each cause, and then counts, without what is in the events."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

import anyio

from eventml.printable import cut, printable
from eventml.runtime.dead_letters import DeadLetterCompletion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.backends.base import Completion

log = logging.getLogger("eventml")

_INTERVAL: Final = 30.0  # seconds between two lines of one cause
_TICK: Final = 5.0  # seconds between two looks at what is due
_MOST: Final = 100  # causes


class FailureLog:
    """The lines about one handler's dead letters: at once for a new cause, then a count every 30 s."""

    def __init__(self, name: str, level: int) -> None:
        self._name = name
        self._level = level
        self._counts: dict[tuple[str, str], tuple[int, str]] = {}  # by topic and cause: not yet logged
        self._next: dict[tuple[str, str], float] = {}  # when each one is logged again

    def add(self, completed: Sequence[Completion]) -> None:
        """Count the dead letters among completions, and log what is due."""
        for completion in completed:
            if not isinstance(completion, DeadLetterCompletion):
                continue
            [letter] = completion.outputs[:1]
            key = letter.topic, completion.cause
            if key not in self._next and len(self._next) >= _MOST:
                key = letter.topic, "other causes"
            count, first = self._counts.get(key, (0, letter.id))
            self._counts[key] = count + 1, first
        now = time.monotonic()
        for key in [key for key in self._counts if now >= self._next.get(key, 0.0)]:
            self._log(key)
            self._next[key] = now + _INTERVAL

    async def run(self) -> None:
        """Log what is due from time to time, also if no more events come."""
        while True:
            await anyio.sleep(_TICK)
            self.add(())

    def flush(self) -> None:
        """Log what is left."""
        for key in list(self._counts):
            self._log(key)

    def _log(self, key: tuple[str, str]) -> None:
        count, first = self._counts.pop(key)
        topic, cause = key
        log.log(
            self._level,
            "%s: %d event%s moved to the dead letters in %s: %s; the first is %s",
            *(self._name, count, "" if count == 1 else "s", topic, printable(cause), printable(cut(first))),
        )
