"""Drift of a sample from the training sample: the population stability index of each feature.

PSI = sum over the bins of (p - q) ln(p / q), for the shares p in the training sample and q now: the
symmetrised Kullback-Leibler divergence of two histograms. By the convention of credit scoring (Siddiqi,
"Credit Risk Scorecards", 2006) a feature is stable below 0.1, has moved below 0.25 and has drifted above.
The convention ignores that small samples have a high index by chance. Without drift, PSI / (1/n + 1/m) has a
chi-square distribution with bins - 1 degrees of freedom (Yurdakul and Naranjo, "Statistical properties of
the population stability index", 2020). A feature has drifted only if chance alone is unlikely too.
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
"""Highest probability that chance alone gives the index of a feature that has drifted."""

_UNSEEN: Final = 0.5  # added to every bin: the logarithm of an empty bin is not defined


class Drift(msgspec.Struct, frozen=True):
    """Drift of one feature.

    Attributes:
        psi: The population stability index; 0 for equal histograms.
        by_chance: Index that chance alone exceeds in one of a thousand samples of these sizes.
        labels: Descriptions of the bins.
        then: Share of each bin in the training sample.
        now: Share of each bin in this sample.
    """

    feature: str
    psi: float
    by_chance: float
    labels: tuple[str, ...]
    then: tuple[float, ...]
    now: tuple[float, ...]

    @property
    def verdict(self) -> Literal["stable", "moved", "drifted"]:
        """Whether the feature is stable, has moved or has drifted."""
        if self.psi <= max(MOVED, self.by_chance):
            return "stable"
        return "drifted" if self.psi > DRIFTED else "moved"


def drifts(profile: Profile, counts: Mapping[str, Counts]) -> list[Drift]:
    """Return the drift of each feature of a sample from the profile, the highest index first."""
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
    """Return the population stability index of two histograms with the same bins.

    Half a count is added to each bin. The index is never negative, symmetric, and 0 for equal counts or an
    empty histogram.
    """
    if not sum(then) or not sum(now):
        return 0.0
    bins = _occupied(then, now)
    p, q = (np.array(_shares([counts[bin_] for bin_ in bins], _UNSEEN)) for counts in (then, now))
    return float(np.sum((p - q) * np.log(p / q)))


def by_chance(then: Sequence[int], now: Sequence[int]) -> float:
    """Return the index that samples of these sizes exceed with probability `CHANCE` without drift."""
    freedom = len(_occupied(then, now)) - 1
    if freedom < 1 or not sum(then) or not sum(now):
        return 0.0
    return float(chi2.isf(CHANCE, freedom) * (1 / sum(then) + 1 / sum(now)))


def _occupied(then: Sequence[int], now: Sequence[int]) -> list[int]:
    """Return the indices of the bins that are not empty in both samples."""
    return [index for index, pair in enumerate(zip(then, now, strict=True)) if any(pair)]


def _shares(counts: Sequence[int], more: float) -> tuple[float, ...]:
    total = sum(counts) + more * len(counts)
    return tuple((count + more) / total if total else 0.0 for count in counts)
