"""Times as people write them: a moment or an age, and the two ends of what is read of a topic."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from datetime import datetime, timedelta, tzinfo
from typing import Any, Final, Literal

import msgspec

StartOption = Literal["earliest", "latest"] | datetime | timedelta

START_TEXTS: Final = (
    '"earliest", "latest", a past time with its zone (2026-01-05T08:00:00Z) or an age (1h or PT1H)'
)


def parse_time(text: str, zone: tzinfo | None = None) -> datetime | timedelta:
    """Return an age, such as 90s, 15m, 2h, 3d or PT1H30M, or a time in ISO 8601.

    A time without an offset is in `zone`. Raises ValueError if the text is neither.
    """
    for duration in (text, f"PT{text}", f"P{text}"):
        with suppress(msgspec.ValidationError):
            return msgspec.convert(duration, timedelta)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise ValueError(
            f"{text!r} is neither an age, such as 90s, 2h or 3d, nor a time, such as 2026-01-05T08:00"
        ) from exc
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)


def parse_start(start: Any, zone: tzinfo | None = None) -> StartOption:
    """Return a start, which may be text as `parse_time` reads it. Raises ValueError as `start_at` does."""
    found = start
    if isinstance(start, str) and start not in ("earliest", "latest"):
        with suppress(ValueError):
            found = parse_time(start, zone)
    start_at(found)
    return found  # type: ignore[no-any-return] # `start_at` has checked it


def start_at(start: StartOption) -> Literal["earliest", "latest"] | float:
    """The start of a subscription that begins now, as a backend takes it. ValueError if it is none."""
    if isinstance(start, str) and start in ("earliest", "latest"):
        return start
    with suppress(ValueError):
        if (at := seconds_at(start)) <= time.time():
            return at
    raise ValueError(f"Expected {START_TEXTS}")


def end_at(until: object) -> Literal["latest"] | float:
    """The end of a read, as a backend takes it; infinity for None. ValueError if it is none."""
    if until == "end":
        return "latest"
    return math.inf if until is None else seconds_at(until)


def seconds_at(when: object) -> float:
    """A datetime, or as long ago as a timedelta, in seconds since the epoch. ValueError without a zone."""
    if isinstance(when, timedelta):
        return time.time() - when.total_seconds()
    if isinstance(when, datetime) and when.tzinfo is not None:
        return when.timestamp()
    raise ValueError(f'Expected "end", a datetime with its zone (2026-01-05T08:00Z) or an age, not {when!r}')
