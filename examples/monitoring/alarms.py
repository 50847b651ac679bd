"""Decide whether to raise an alarm, and call the user's alarm function."""

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
        what: Name of the feature or share that crossed it.
        value: Its value.
        limit: The limit.
        message: A description of the crossing.
    """

    what: str
    value: float
    limit: float
    message: str


Alarm = Callable[[Sequence[Crossing]], object]
"""Alarm function of the user: called once with all crossings, and not called without any."""


class Share(msgspec.Struct, frozen=True):
    """A count out of a total."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share as a fraction; 0 if the total is 0."""
        return self.count / self.total if self.total else 0.0


def jumped(
    what: str, before: Share, now: Share, *, points: float = POINTS, sigmas: float = SIGMAS
) -> Crossing | None:
    """Return a crossing if a share has risen by more than `points`, and by more than chance explains.

    Chance does not explain a difference of more than `sigmas` standard errors under the hypothesis that both
    samples have the same share (the pooled two-proportion z-test). A fall is not a crossing, and an empty
    sample is not compared.

    Args:
        what: Name of the share.
        before: The share to compare with.
        now: The current share.
        points: Lowest rise, as a fraction: 0.05 is five percentage points.
        sigmas: Standard errors; with 3, chance gives a crossing once in 740 comparisons.
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
    """Return a crossing for each feature that has drifted; a feature that has moved gives none."""
    found = []
    for drift in drifts:
        if drift.verdict == "drifted":
            limit = max(DRIFTED, drift.by_chance)
            index = f"PSI {drift.psi:.2f} (limit {limit:.2f})"
            message = f"{drift.feature} has drifted from the training sample: {index}"
            found.append(Crossing(drift.feature, drift.psi, limit, message))
    return found


def call_alarm(alarm: Alarm, crossings: Sequence[Crossing]) -> bool:
    """Call the alarm if there are crossings. Returns whether it was called; its errors are not caught."""
    if crossings:
        alarm(crossings)
    return bool(crossings)


def print_alarm(crossings: Sequence[Crossing]) -> None:
    """Print a line for each crossing to standard error: the default alarm."""
    for crossing in crossings:
        print(f"ALARM {crossing.message}", file=sys.stderr)


def find_alarm(target: str) -> Alarm:
    """Import the alarm function of the user.

    Args:
        target: `MODULE:FUNCTION`.

    Raises:
        ConfigError: it cannot be imported, or is not a function.
    """
    try:
        alarm = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ConfigError(f"--alarm {target}: {exc}; name a function as MODULE:FUNCTION") from exc
    if not callable(alarm):
        raise ConfigError(f"--alarm {target}: not a function; name one as MODULE:FUNCTION")
    found: Alarm = alarm
    return found
