"""The distribution of predictions beside the recorded ones, as bars of a drawing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from eventml.deploy.console.formats import format_count
from eventml.deploy.console.numbers import quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.runtime import Profile

_BAR = 10  # pixels


class Bar(NamedTuple):
    """A bucket: its place in pixels, and the shares of the predictions of now and of the recorded ones.

    Shares are those of the highest bar, from 0 to 1.
    """

    x: int
    now: float
    recorded: float


class Distribution(NamedTuple):
    """The buckets that have a prediction, and those between them.

    Attributes:
        label: What the drawing shows, in words.
        low: Where the first bucket begins, in words.
        high: Where the last one ends.
        is_compared: Whether there are recorded predictions.
    """

    bars: list[Bar]
    label: str
    low: str
    high: str
    is_compared: bool

    @property
    def width(self) -> int:
        """Pixels of all bars."""
        return _BAR * len(self.bars)


def distribution(counted: Sequence[float], profile: Profile) -> Distribution | None:
    """Return the distribution of predictions, counted as in `Totals`; None if there are none."""
    total = sum(counted[:-1])
    if total < 1 or len(counted) != len(profile.bounds) + 2:  # or a worker of other golden rows has ended
        return None
    now = [count / total for count in counted[:-1]]
    all_recorded = sum(profile.counts)
    recorded = [count / (all_recorded or 1) for count in profile.counts] or [0.0] * len(now)
    used = [n for n, both in enumerate(zip(now, recorded, strict=True)) if any(both)]
    first, last = used[0], used[-1]
    highest = max(*now, *recorded)
    bars = [
        Bar(_BAR * (n - first), round(now[n] / highest, 3), round(recorded[n] / highest, 3))
        for n in range(first, last + 1)
    ]
    median = _median(counted, profile)
    label = f"{format_count(total)} predictions of the last five minutes, half of them {median}"
    if all_recorded:
        differ = sum(abs(a - b) for a, b in zip(now, recorded, strict=True)) / 2
        median = _median([*profile.counts, 0.0], profile)
        label += f"; {format_count(all_recorded)} are recorded, half of them {median}; "
        label += f"the two differ by {differ:.0%}"
    bounds = [-math.inf, *profile.bounds, math.inf]
    low = f"above {bounds[first]:g}" if first else f"to {bounds[1]:g}"
    high = f"to {bounds[last + 1]:g}" if bounds[last + 1] < math.inf else f"above {bounds[last]:g}"
    return Distribution(bars, label, low, high, bool(all_recorded))


def _median(histogram: Sequence[float], profile: Profile) -> str:
    bound = quantile(histogram, 0.5, profile.bounds)
    return f"above {profile.bounds[-1]:g}" if bound == math.inf else f"at most {bound:g}"
