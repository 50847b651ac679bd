"""What a failure means, and what to do about it: pure decisions."""

from __future__ import annotations

from enum import Enum
from random import random
from typing import TYPE_CHECKING

from eventml.errors import BackendError, DecodeError, HandlerTimeoutError, Reject

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventml.handlers import HandlerOptions


class Verdict(Enum):
    """What a failure speaks of."""

    INFRASTRUCTURE = "the whole batch again, until it passes: no event is at fault"
    EVENT = "an event is at fault: find it, try it again a few times, set it aside"
    REJECTED = "an event is at fault, and trying it again is no use: set it aside"


_INFRASTRUCTURE = (ConnectionError, TimeoutError, MemoryError, BackendError)
_LONGEST = 1_000  # characters of a description


def classify(error: Exception, retry_on: tuple[type[Exception], ...] = ()) -> Verdict:
    """Judge a failure by its type, the handler's own declarations first.

    A group of errors, as a handler's own task group raises it, is what all in it are; where they
    differ, an event is at fault.
    """
    if isinstance(error, ExceptionGroup) and not isinstance(error, retry_on):
        verdicts = {classify(one, retry_on) for one in error.exceptions}
        return verdicts.pop() if len(verdicts) == 1 else Verdict.EVENT
    if isinstance(error, Reject | DecodeError):
        return Verdict.REJECTED
    if isinstance(error, retry_on) or (
        isinstance(error, _INFRASTRUCTURE) and not isinstance(error, HandlerTimeoutError)
    ):
        return Verdict.INFRASTRUCTURE
    return Verdict.EVENT


def should_retry(error: Exception, attempts: int, options: HandlerOptions) -> bool:
    """Whether an event that has failed alone, so many times, is tried again; else it is set aside."""
    verdict = classify(error, options.retry_on)
    return verdict is Verdict.INFRASTRUCTURE or (verdict is Verdict.EVENT and attempts <= options.retries)


def backoff_delay(failures: int, first: float, longest: float, chance: Callable[[], float] = random) -> float:
    """How long to wait after so many failures in a row, in seconds.

    Exponential backoff with full jitter (M. Brooker, "Exponential Backoff And Jitter", 2015): any
    time up to the cap is as likely as any other, so that many workers do not come back at once.
    """
    ceiling = min(longest, first * 2.0 ** min(failures - 1, 60))
    return ceiling * chance()


def describe(error: BaseException) -> str:
    """An exception in one line, with its cause where it has one, cut to 1,000 characters.

    It can be shown and encoded, whatever the exception holds.
    """
    text = _says(error)
    cause = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
    if cause is not None and (not _message(cause) or _message(cause) not in text):
        text = f"{text} (from {_says(cause)})"
    return text[:_LONGEST].encode(errors="backslashreplace").decode()


def _says(error: BaseException) -> str:
    message = _message(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as exc:  # noqa: BLE001 - a handler's own exception may fail in any way
        return f"<its text cannot be had: {type(exc).__name__}>"
