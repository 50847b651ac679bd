"""Backoff: how long to wait between two attempts, of a failing handler and of an unavailable broker."""

from __future__ import annotations

import logging
from random import random
from typing import TYPE_CHECKING, Final

import anyio

from eventml.runtime.failures import describe

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("eventml")

_FIRST_BROKER_DELAY: Final = 0.1  # seconds
_MAX_BROKER_DELAY: Final = 5.0  # seconds


def backoff_delay(failures: int, first: float, longest: float, chance: Callable[[], float] = random) -> float:
    """How long to wait before the next attempt, in seconds.

    Exponential backoff with full jitter (M. Brooker, "Exponential Backoff And Jitter", 2015): every time up
    to a ceiling is equally likely, so that many workers do not retry at once.

    Args:
        failures: Failures in a row, from 1.
        first: The ceiling after the first failure, in seconds; it doubles with each further one.
        longest: The highest ceiling, in seconds.
        chance: Returns a number from 0 to 1.
    """
    ceiling = min(longest, first * 2.0 ** min(failures - 1, 60))
    return ceiling * chance()


async def wait_for_broker(name: str, failures: int, error: Exception) -> None:
    """Log that the broker failed so many times in a row, and wait before the next attempt, 5 s at most."""
    seconds = backoff_delay(failures, _FIRST_BROKER_DELAY, _MAX_BROKER_DELAY)
    log.warning("%s: %s; trying again in %.2f s", name, describe(error), seconds)
    await anyio.sleep(seconds)
