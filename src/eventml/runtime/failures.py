"""What a failure means, and what to do about it: pure decisions."""

from __future__ import annotations

from enum import Enum
from random import random
from typing import TYPE_CHECKING, Any

import msgspec

from eventml.errors import BackendError, DecodeError, HandlerTimeoutError, Reject

if TYPE_CHECKING:
    from collections.abc import Callable


class Verdict(Enum):
    """What a failure speaks of."""

    INFRASTRUCTURE = "the whole batch again, until it passes: no event is at fault"
    EVENT = "an event is at fault: find it, try it again a few times, set it aside"
    REJECTED = "an event is at fault, and trying it again is no use: set it aside"


class Failed(msgspec.Struct, frozen=True):
    """In the place of an event's output: why there is none."""

    error: Exception


class Held(msgspec.Struct, frozen=True):
    """In the place of an event's output: it was not called, because one of its key failed before it."""


_INFRASTRUCTURE = (ConnectionError, TimeoutError, MemoryError, BackendError)


def classify(error: Exception, retry_on: tuple[type[Exception], ...] = ()) -> Verdict:
    """Judge a failure by its type, the handler's own declarations first."""
    if isinstance(error, Reject | DecodeError):
        return Verdict.REJECTED
    if isinstance(error, retry_on) or (
        isinstance(error, _INFRASTRUCTURE) and not isinstance(error, HandlerTimeoutError)
    ):
        return Verdict.INFRASTRUCTURE
    return Verdict.EVENT


def delay(failures: int, first: float, longest: float, chance: Callable[[], float] = random) -> float:
    """How long to wait after so many failures in a row, in seconds.

    Exponential backoff with full jitter (M. Brooker, "Exponential Backoff And Jitter", 2015): any
    time up to the cap is as likely as any other, so that many workers do not come back at once.
    """
    ceiling = min(longest, first * 2.0 ** min(failures - 1, 60))
    return ceiling * chance()


def describe(error: Any) -> str:
    """An exception in one line, with its cause where it has one."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    cause = error.__cause__
    return (
        f"{text} (from {type(cause).__name__}: {cause})"
        if cause is not None and str(cause) not in text
        else text
    )
