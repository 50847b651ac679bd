"""Backoff: how long to wait between two attempts, of a failing handler and of an unavailable broker."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import random
from typing import Final

import anyio

from eventml.runtime.failures.exceptions import describe
from eventml.runtime.failures.outages import SAME_OUTAGE
from eventml.runtime.stats import BrokerFailure, Stats

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


class BrokerRetry:
    """Repeats one step at the broker, such as `receive`, until it succeeds.

    `OutageLog` logs what fails. A success shorter than 10 s does not end a failure.

    Args:
        name: Name of the handler or the worker, for the log.
        step: The step, for the log.
        stats: Of the handler: while the last attempt failed, the failure is kept there by the step.
    """

    def __init__(self, name: str, step: str, stats: Stats | None = None) -> None:
        self._name = f"{name}: {step}"
        self._step = step
        self._stats = stats or Stats()
        self._failures = 0  # in a row
        self._since = 0.0  # when the first failure was
        self._ended = -SAME_OUTAGE  # when the last attempt succeeded that followed a failure

    async def wait(self, error: Exception) -> None:
        """Note that an attempt has failed, and wait before the next one, 5 s at most."""
        now = time.monotonic()
        if not self._failures and now - self._ended > SAME_OUTAGE:
            self._since = now
        self._failures += 1
        self._stats.failing[self._step] = BrokerFailure(self._since, describe(error))
        self._stats.outages.fails(self._name, error)
        await anyio.sleep(backoff_delay(self._failures, _FIRST_BROKER_DELAY, _MAX_BROKER_DELAY))

    def succeeded(self) -> None:
        """Note that an attempt has succeeded."""
        if self._failures:
            self._failures, self._ended = 0, time.monotonic()
            del self._stats.failing[self._step]
            self._stats.outages.succeeds(self._name)
