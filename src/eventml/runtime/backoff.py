"""Backoff: how long to wait between two attempts, of a failing handler and of an unavailable broker."""

from __future__ import annotations

import logging
import time
from random import random
from typing import TYPE_CHECKING, Final

import anyio

from eventml.runtime.failures import describe
from eventml.runtime.stats import BrokerFailure

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("eventml")

_FIRST_BROKER_DELAY: Final = 0.1  # seconds
_MAX_BROKER_DELAY: Final = 5.0  # seconds
_SAME_OUTAGE: Final = 10.0  # seconds after a success in which a failure continues the outage before it


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
    """The attempts of one step at the broker, such as `receive`, of which each that fails is repeated.

    An outage is logged when it begins, when its error becomes another one, and when it ends. A success
    shorter than 10 s is a part of it: one partition may fail while others do not.

    Args:
        name: Name of the handler or the worker, for the log.
        step: The step, for the log.
        failing: While the last attempt failed, the failure is kept here by the step; see `Stats.failing`.
    """

    def __init__(self, name: str, step: str, failing: dict[str, BrokerFailure] | None = None) -> None:
        self._name = name
        self._step = step
        self._failing: dict[str, BrokerFailure] = {} if failing is None else failing
        self._failures = 0  # in a row
        self._since = 0.0  # when the outage began
        self._ended = -_SAME_OUTAGE  # when the last attempt succeeded that followed a failure
        self._logged: set[type[Exception]] = set()  # during the outage

    async def wait(self, error: Exception) -> None:
        """Note that an attempt has failed, and wait before the next one, 5 s at most."""
        now = time.monotonic()
        if not self._failures and now - self._ended > _SAME_OUTAGE:
            self._since = now
            self._logged.clear()
        self._failures += 1
        text = describe(error)
        self._failing[self._step] = BrokerFailure(self._since, text)
        level = logging.DEBUG if type(error) in self._logged else logging.WARNING
        self._logged.add(type(error))
        log.log(level, "%s: %s fails and is repeated until it succeeds: %s", self._name, self._step, text)
        await anyio.sleep(backoff_delay(self._failures, _FIRST_BROKER_DELAY, _MAX_BROKER_DELAY))

    def succeeded(self) -> None:
        """Note that an attempt has succeeded."""
        if not self._failures:
            return
        now = time.monotonic()
        level = logging.DEBUG if self._since < self._ended else logging.INFO
        self._failures, self._ended = 0, now
        del self._failing[self._step]
        log.log(level, "%s: %s succeeds again, after %.1f s", self._name, self._step, now - self._since)
