"""Times on the command line, and as a table shows them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import typer

_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def moment(text: str, now: float) -> float:
    """Seconds since the epoch, of an age (`90s`, `15m`, `2h`, `3d`) or of an ISO 8601 time.

    A time without an offset is UTC, as those that are shown.

    Raises:
        typer.BadParameter: it is neither.
    """
    if age := _AGE.fullmatch(text):
        return now - float(age[1]) * _UNITS[age[2]]
    try:
        time = datetime.fromisoformat(text)
    except ValueError as exc:
        raise typer.BadParameter(
            f"{text!r} is neither an age, such as 90s, 15m, 2h or 3d, nor a time, such as 2024-06-01T12:30"
        ) from exc
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def shown(seconds: float) -> str:
    """As people read it: UTC, to the second."""
    try:
        time = datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds)
    except (ValueError, OverflowError):  # a header may say anything
        return str(seconds)
    return time.strftime("%Y-%m-%d %H:%M:%S")
