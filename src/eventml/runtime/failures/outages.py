"""Log of outages of the broker: a line when one begins and a line when it ends, for all steps together."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Final

from eventml.errors import UnavailableError
from eventml.runtime.failures.exceptions import describe

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
