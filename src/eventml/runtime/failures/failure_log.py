"""Log lines about failures of events: one for each cause, and then counts, without what is in the events."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Final

import anyio

from eventml.backends.base import Completion
from eventml.errors import Reject
from eventml.printable import cut, printable
from eventml.records import Record
from eventml.runtime.failures.dead_letters import DLQ_PREFIX, DeadLetterCompletion

log = logging.getLogger("eventml")

_INTERVAL: Final = 30.0  # seconds between two lines of one cause
_TICK: Final = 5.0  # seconds between two looks at what is due
_MOST: Final = 100  # causes


class FailureLog:
    """The lines about one handler's dead letters: at once for a new cause, then a count every 30 s.

    Args:
        dead_letters: Whether they are published. If not, callers get the failures: then a line holds the
            traceback, which no dead letter has, and rejected events are not logged.
    """

    def __init__(self, name: str, level: int, *, dead_letters: bool = True) -> None:
        self._name = name
        self._level = level
        self._dead_letters = dead_letters
        self._counts: dict[tuple[str, str], tuple[int, str]] = {}  # by topic and cause: not yet logged
        self._next: dict[tuple[str, str], float] = {}  # when each one is logged again

    def add(self, completed: Sequence[Completion]) -> None:
        """Count the dead letters among completions, and log what is due."""
        for completion in completed:
            if not isinstance(completion, DeadLetterCompletion):
                continue
            if not self._dead_letters and issubclass(completion.error_type, Reject):
                continue
            [dead_letter] = completion.outputs[:1]
            key = dead_letter.topic, completion.cause
            if key not in self._next and len(self._next) >= _MOST:
                key = dead_letter.topic, "other causes"
            count, first = self._counts.get(key) or (0, self._first(dead_letter))
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

    def _first(self, dead_letter: Record) -> str:
        frames = "" if self._dead_letters else dead_letter.headers.get(f"{DLQ_PREFIX}traceback", "")
        return printable(
            f"{cut(dead_letter.id)} ({' > '.join(frames.splitlines())})" if frames else cut(dead_letter.id)
        )

    def _log(self, key: tuple[str, str]) -> None:
        count, first = self._counts.pop(key)
        topic, cause = key
        what = f"moved to the dead letters in {topic}" if self._dead_letters else "failed"
        log.log(
            self._level,
            "%s: %d event%s %s: %s; the first is %s",
            *(self._name, count, "" if count == 1 else "s", what, printable(cause), first),
        )
