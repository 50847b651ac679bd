"""Whether to raise an alarm: pure decisions. Whom to tell is the user's function."""

from __future__ import annotations

import math
import pkgutil
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from eventml.errors import ConfigError
from examples.monitoring.drift import DRIFTED

if TYPE_CHECKING:
    from examples.monitoring.drift import Drift

POINTS: Final = 0.05
SIGMAS: Final = 3.0


class Crossing(msgspec.Struct, frozen=True):
    """A limit that was crossed.

    Attributes:
        what: What crossed it: a feature, a share.
        value: How far it went.
        limit: What it should have stayed below.
        message: The same for a reader.
    """

    what: str
    value: float
    limit: float
    message: str


Alarm = Callable[[Sequence[Crossing]], object]
"""The user's: called once with all that crossed, and never with nothing."""


class Share(msgspec.Struct, frozen=True):
    """So many of so many."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """As a fraction; 0 of nothing is 0."""
        return self.count / self.total if self.total else 0.0


def jumped(
    what: str, before: Share, now: Share, *, points: float = POINTS, sigmas: float = SIGMAS
) -> Crossing | None:
    """Whether a share has risen by more than matters, and by more than chance.

    It has if it rose by more than `points`, and if the difference exceeds `sigmas` standard errors
    under the hypothesis that both samples have one share (the pooled two-proportion z-test). A fall
    is no jump, and where either sample is empty there is nothing to compare.

    Args:
        what: The share, in words.
        before: The share that it is compared with.
        now: The share in question.
        points: In fractions: 0.05 is five percentage points.
        sigmas: 3 lets chance through once in 740 comparisons.
    """
    if not before.total or not now.total:
        return None
    rise = now.value - before.value
    pooled = (before.count + now.count) / (before.total + now.total)
    error = math.sqrt(pooled * (1 - pooled) * (1 / before.total + 1 / now.total))
    if rise <= points or rise <= sigmas * error:
        return None
    limit = before.value + max(points, sigmas * error)
    return Crossing(
        what, now.value, limit, f"{what}: {now.value:.1%}, up from {before.value:.1%} (limit {limit:.1%})"
    )


def drifted(drifts: Sequence[Drift]) -> list[Crossing]:
    """A crossing for each feature that has drifted; one that has only moved is for the report."""
    found = []
    for drift in drifts:
        if drift.verdict == "drifted":
            limit = max(DRIFTED, drift.by_chance)
            index = f"PSI {drift.psi:.2f} (limit {limit:.2f})"
            message = f"{drift.feature} has drifted from the training sample: {index}"
            found.append(Crossing(drift.feature, drift.psi, limit, message))
    return found


def ring(alarm: Alarm, crossings: Sequence[Crossing]) -> bool:
    """Call the alarm if anything crossed. What it raises is the caller's. Returns whether it was called."""
    if crossings:
        alarm(crossings)
    return bool(crossings)


def say(crossings: Sequence[Crossing]) -> None:
    """The alarm of those who name none: a line each on stderr."""
    for crossing in crossings:
        print(f"ALARM {crossing.message}", file=sys.stderr)


def find_alarm(place: str) -> Alarm:
    """Import the user's alarm.

    Args:
        place: `MODULE:FUNCTION`.

    Raises:
        ConfigError: There is no such function.
    """
    try:
        alarm = pkgutil.resolve_name(place)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ConfigError(f"--alarm {place}: {exc}; name a function as MODULE:FUNCTION") from exc
    if not callable(alarm):
        raise ConfigError(f"--alarm {place} is no function; name one as MODULE:FUNCTION")
    found: Alarm = alarm
    return found
