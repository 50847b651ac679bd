"""How far a sample has moved from the training sample: the population stability index, by feature.

PSI = sum over the bins of (p - q) ln(p / q), for the shares p then and q now: the symmetrised
Kullback-Leibler divergence of two histograms. That it is read as stable below 0.1, as moved below
0.25 and as another population above it is the convention of credit scoring (Siddiqi, "Credit Risk
Scorecards", 2006). The convention says nothing of small samples, where chance alone gives a high
index; without drift PSI / (1/n + 1/m) follows a chi-square distribution with bins - 1 degrees of
freedom (Yurdakul and Naranjo, "Statistical properties of the population stability index", 2020). So
a feature has drifted here only if its index is high and chance would hardly have made it so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec
import numpy as np
from scipy.stats import chi2  # type: ignore[import-untyped]  # it ships no types

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from examples.monitoring.profiles import Counts, Profile

MOVED: Final = 0.1
DRIFTED: Final = 0.25
CHANCE: Final = 0.001
"""How rarely chance may make an index as high as that of a feature that is said to have drifted."""

_UNSEEN: Final = 0.5  # added to every bin, so that one which is empty on one side has a logarithm


class Drift(msgspec.Struct, frozen=True):
    """How far one feature has moved.

    Attributes:
        psi: The population stability index; 0 is not at all.
        by_chance: The index that chance alone exceeds once in a thousand samples of these sizes.
        labels: The bins, in words.
        then: The training sample's share of each.
        now: This sample's.
    """

    feature: str
    psi: float
    by_chance: float
    labels: tuple[str, ...]
    then: tuple[float, ...]
    now: tuple[float, ...]

    @property
    def verdict(self) -> Literal["stable", "moved", "drifted"]:
        """What to make of it."""
        if self.psi <= max(MOVED, self.by_chance):
            return "stable"
        return "drifted" if self.psi > DRIFTED else "moved"


def drifts(profile: Profile, counts: Mapping[str, Counts]) -> list[Drift]:
    """How far each feature of a sample has moved from the profile's, the farthest first."""
    found = []
    for name, feature in profile.features.items():
        now = counts[name]
        found.append(
            Drift(
                feature=name,
                psi=psi(feature.counts, now),
                by_chance=by_chance(feature.counts, now),
                labels=tuple(feature.labels()),
                then=_shares(feature.counts, 0.0),
                now=_shares(now, 0.0),
            )
        )
    return sorted(found, key=lambda drift: -drift.psi)


def psi(then: Sequence[int], now: Sequence[int]) -> float:
    """The population stability index of two histograms with the same bins.

    Half a count is added to each bin. Never negative, the same both ways, and 0 for equal counts. An
    empty histogram says nothing: 0.
    """
    if not sum(then) or not sum(now):
        return 0.0
    bins = _occupied(then, now)
    p, q = (np.array(_shares([counts[bin_] for bin_ in bins], _UNSEEN)) for counts in (then, now))
    return float(np.sum((p - q) * np.log(p / q)))


def by_chance(then: Sequence[int], now: Sequence[int]) -> float:
    """The index that two samples of these sizes from one population exceed with probability `CHANCE`."""
    freedom = len(_occupied(then, now)) - 1
    if freedom < 1 or not sum(then) or not sum(now):
        return 0.0
    return float(chi2.isf(CHANCE, freedom) * (1 / sum(then) + 1 / sum(now)))


def _occupied(then: Sequence[int], now: Sequence[int]) -> list[int]:
    """The bins that either sample has anything in: one that both leave empty tells nothing."""
    return [place for place, pair in enumerate(zip(then, now, strict=True)) if any(pair)]


def _shares(counts: Sequence[int], more: float) -> tuple[float, ...]:
    total = sum(counts) + more * len(counts)
    return tuple((count + more) / total if total else 0.0 for count in counts)
