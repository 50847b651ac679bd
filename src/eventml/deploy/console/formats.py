"""Numbers and times as people read them, on the pages and in `eventml top`."""

from __future__ import annotations

import math
from datetime import timedelta

from eventml.runtime import SECONDS_BUCKETS


def format_count(number: float | None, unknown: str = "?") -> str:
    """Return a number, from ten on without fractions; another text if it is not known."""
    if number is None:
        return unknown
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:,.1f}"  # noqa: PLR2004


def format_seconds(seconds: float | None) -> str:
    """Return a time in milliseconds below a second and in seconds above; "-" if it is not known."""
    if seconds is None:
        return "-"
    return f"{seconds:,.1f}s" if seconds >= 1 else f"{round(seconds * 1000, 2):.3g}ms"


def format_bound(seconds: float | None) -> str:
    """Return the bound of a quantile: "≤25ms", or ">300s" if it is above the highest finite bound."""
    if seconds == math.inf:
        return f">{SECONDS_BUCKETS[-1]:g}s"
    return "-" if seconds is None else f"≤{format_seconds(seconds)}"


def format_age(seconds: float) -> str:
    """Return how long something has lasted: "0:00:25", "2 days, 3:04:05"."""
    return str(timedelta(seconds=int(seconds)))


def format_memory(size: int | None) -> str:
    """Return a size in megabytes; "?" if it is not known."""
    return "?" if size is None else f"{size / 1e6:,.0f}MB"
