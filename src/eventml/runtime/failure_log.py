"""Log lines about failures of events: one for each cause, and then counts, without what is in the events."""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING, Final

from eventml.printable import cut, printable
from eventml.runtime.failures import summarise_traceback

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventml.backends.base import Completion

log = logging.getLogger("eventml")

_INTERVAL: Final = 30.0  # seconds between two lines of one cause
_MOST: Final = 100  # causes
_QUOTED: Final = re.compile(r"'[^']*'")  # msgspec quotes values so, and names and types with backticks


def cause_of(headers: Mapping[str, str]) -> str:
    """Why an event failed, from the headers of its dead letter, without values of the event.

    That is the exception's class and where it was raised, or what was wrong where in a record's value. The
    messages of other exceptions may hold anything.
    """
    exception = headers.get("eventml-dlq-exception", "")
    if exception == "DecodeError":
        reason = headers.get("eventml-dlq-message", "").partition("; its value: ")[0].partition(": ")[2]
        return _QUOTED.sub("'…'", f"{exception}: {reason.partition(': ')[2] or reason}")
    place = headers.get("eventml-dlq-traceback", "").rpartition("\n")[2].partition(": ")[0]
    return f"{exception} at {place}" if place else exception


def cause_of_error(error: BaseException) -> str:
    """As `cause_of`, for an exception."""
    where = {"eventml-dlq-traceback": summarise_traceback(error, 1000)}
    return cause_of({"eventml-dlq-exception": type(error).__qualname__, **where})


class FailureLog:
    """The lines about one handler's dead letters: at once for a new cause, then a count every 30 s."""

    def __init__(self, name: str, level: int) -> None:
        self._name = name
        self._level = level
        self._counts: dict[tuple[str, str], tuple[int, str]] = {}  # by topic and cause: not yet logged
        self._next: dict[tuple[str, str], float] = {}

    def add(self, completed: Sequence[Completion]) -> None:
        """Count the dead letters among completions, and log what is due."""
        for completion in completed:
            if not completion.dead_letter:
                continue
            [letter] = completion.outputs[:1]
            key = letter.topic, cause_of(letter.headers)
            count, first = self._counts.get(key, (0, letter.id))
            self._counts[key] = count + 1, first
        now = time.monotonic()
        for key in [key for key in self._counts if now >= self._next.get(key, 0.0)]:
            self._log(key)
            self._next[key] = now + _INTERVAL
        while len(self._next) > _MOST:
            del self._next[next(iter(self._next))]

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
