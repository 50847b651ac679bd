"""A sequential test of whether the mean of observations is above zero, which may be made after each of them.

A mixture sequential probability ratio test (H. Robbins, "Statistical methods related to the law of the
iterated logarithm", 1970), normalised by the observed squares (V. de la Peña, "A general class of exponential
inequalities for martingales and ratios", 1999). For x that is symmetric around zero, or ±1 with a mean of at
most zero, exp(λ Σx - λ² Σx²/2) is a supermartingale for each λ > 0, and so is its mean over half-normal λ. By
Ville's inequality it ever reaches 1/p with a probability of p at most. For other x with a mean of zero that
is so for many observations, approximately (S. Howard and others, "Time-uniform, nonparametric, nonasymptotic
confidence sequences", 2021). The unit of x is not known, so the mean is over several scales of λ.
"""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
import math
from typing import Annotated, Final, NamedTuple

from msgspec import Meta

_SCALES: Final = tuple(10.0**power for power in range(-6, 18, 2))  # of the sum of the squares
_LARGEST: Final = 1e100  # observations are cut to it: the sums of their squares are finite


class Sums(NamedTuple):
    """The number of the observations, their sum and that of their squares: all that the test needs."""

    number: Annotated[int, Meta(ge=0)] = 0
    total: float = 0.0
    squares: Annotated[float, Meta(ge=0, le=1e250)] = 0.0

    def plus(self, other: "Sums") -> "Sums":
        """The sums of both, such as those of two workers."""
        return Sums(self.number + other.number, self.total + other.total, self.squares + other.squares)

    def observe(self, value: float) -> "Sums":
        """The sums with one more observation."""
        value = max(min(value, _LARGEST), -_LARGEST)
        return self if math.isnan(value) else self.plus(Sums(1, value, value * value))


def log_evidence(sums: Sums) -> float:
    """The logarithm of the evidence that the mean is above zero.

    If it is not, this ever exceeds log(1/p) with a probability of p at most, however often it is computed.
    """
    total = 0.0
    for scale in _SCALES:
        spread = scale + sums.squares
        z = max(sums.total / math.sqrt(spread), 0.0)  # below zero there is no evidence, and erfc is too small
        exponent = min(z * z / 2, 600.0)
        total += math.sqrt(scale / spread) * math.exp(exponent) * math.erfc(-z / math.sqrt(2.0))
    return math.log(total / len(_SCALES))
