"""A histogram over given bounds, exact in its counts, that adds to others: what metrics are made of."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

SECONDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
SIZES: Final = tuple(float(2**power) for power in range(13))


class Histogram:
    """Counts of values by bucket, and their sum.

    Args:
        bounds: The buckets' upper bounds, rising; a last bucket takes what is above.

    Attributes:
        counts: By bucket, one more than there are bounds.
        sum: Of all values.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0.0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        self.counts[bisect_left(self.bounds, value)] += weight
        self.sum += value * weight
