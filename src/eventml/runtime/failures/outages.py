"""Waiting between attempts with backoff, and outages of the broker: repeating a step, and the log of them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from random import random
from typing import Final, Protocol, TypeVar

import anyio
import msgspec

from eventml.errors import BackendError, UnavailableError
from eventml.runtime.failures.exceptions import describe

T = TypeVar("T")

log = logging.getLogger("eventml.outages")

SAME_OUTAGE: Final = 10.0
"""Seconds after an outage in which a failure continues it: one partition may fail while others do not.

It is logged as a new one if it lasts as long: the log would end with a success otherwise.
"""

_BROKER: Final = "reaching the broker"  # fails for all steps at once; a step that is refused fails alone


class OutageLog:
    """The steps of a worker that fail at the broker, such as `duration: receive`, and the log of them.

    While the broker cannot be reached, all steps that fail are one outage. A step that the broker refuses is
    one of its own. A supervisor logs those of its workers as one, by `update`.

    Attributes:
        current: The failures of the moment, each with its first error: "reaching the broker", or steps.
    """

    def __init__(self) -> None:
        self.current: Mapping[str, str] = {}
        self._steps: dict[str, tuple[str, str]] = {}  # failing steps: `_BROKER` or the step, and the error
        self._since: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self._logged: set[str] = set()  # failures whose beginning has been logged

    def fails(self, step: str, error: Exception) -> None:
        """Note that the last attempt of a step has failed."""
        what = _BROKER if isinstance(error, UnavailableError) else step
        if self._steps.get(step, ("",))[0] != what:
            self._steps[step] = what, f"{step}: {describe(error)}" if what is _BROKER else describe(error)
        self.update(dict(reversed(self._steps.values())))

    def succeeds(self, step: str) -> None:
        """Note that the last attempt of a step has succeeded."""
        if self._steps.pop(step, None):
            self.update(dict(reversed(self._steps.values())))

    def update(self, current: Mapping[str, str]) -> None:
        """Set the failures of the moment, each with an error. Log each that begins and each that ends."""
        now, before, self.current = time.monotonic(), self.current, dict(current)
        for what in current:
            if what not in before:
                self._since[what] = now
            continues = self._since[what] - self._ended.get(what, -math.inf) <= SAME_OUTAGE
            if what not in self._logged and now - self._since[what] >= SAME_OUTAGE * continues:
                self._logged.add(what)
                log.warning("%s fails and is repeated until it succeeds: %s", what, current[what])
        for what in before.keys() - current.keys():
            level = logging.INFO if what in self._logged else logging.DEBUG
            self._logged.discard(what)
            self._ended[what] = now
            log.log(level, "%s succeeds again, after %.1f s", what, now - self._since[what])


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


class BrokerFailure(msgspec.Struct, frozen=True):
    """A step that fails at the broker: since when (monotonic clock), and its last error, in one line."""

    since: float
    error: str


class _FailingSteps(Protocol):
    """The attributes of a handler's `Stats` that have its failing steps."""

    failing: dict[str, BrokerFailure]
    outages: OutageLog


class BrokerRetry:
    """Repeats one step at the broker, such as `receive`, until it succeeds.

    `OutageLog` logs the failure. A success that lasts less than 10 s does not end an outage.

    Args:
        name: Name of the handler or the worker, for the log.
        step: The step, for the log.
        stats: Of the handler; its `failing` has the step while the last attempt has failed.
    """

    def __init__(self, name: str, step: str, stats: _FailingSteps | None = None) -> None:
        self._name = f"{name}: {step}"
        self._step = step
        self._failing = {} if stats is None else stats.failing
        self._outages = OutageLog() if stats is None else stats.outages
        self._failures = 0  # in a row
        self._since = 0.0  # when the first failure was
        self._ended = -SAME_OUTAGE  # when the last attempt succeeded that followed a failure

    async def until_success(self, step: Callable[[], Awaitable[T]]) -> T:
        """The result of the step, which is repeated while it raises a BackendError."""
        while True:
            try:
                result = await step()
            except BackendError as exc:
                await self.wait(exc)
            else:
                self.succeeded()
                return result

    async def wait(self, error: Exception) -> None:
        """Note that an attempt has failed, and wait before the next one, 5 s at most."""
        now = time.monotonic()
        if not self._failures and now - self._ended > SAME_OUTAGE:
            self._since = now
        self._failures += 1
        self._failing[self._step] = BrokerFailure(self._since, describe(error))
        self._outages.fails(self._name, error)
        await anyio.sleep(backoff_delay(self._failures, _FIRST_BROKER_DELAY, _MAX_BROKER_DELAY))

    def succeeded(self) -> None:
        """Note that an attempt has succeeded."""
        if self._failures:
            self._failures, self._ended = 0, time.monotonic()
            del self._failing[self._step]
            self._outages.succeeds(self._name)
