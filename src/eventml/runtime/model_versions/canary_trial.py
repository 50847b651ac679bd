"""The trial of a canary: its share of the keys, and the evidence that it is worse. Pure decisions.

Workers publish to a topic of the canary what they have observed: for the same events the failures and times
of both models' calls, and the errors of both predictions. Each reads all records of the topic, from its
beginning and in the same order, so that all come to the same share and verdict.
"""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
import math
from functools import reduce
from hashlib import blake2b
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from eventml.records import Record

Observation = Literal["failures", "seconds", "errors"]

FALSE_ALARMS: Final = 0.01
"""The highest probability that a trial, however long, finds a canary worse though it is not."""

_TESTS: Final[dict[Observation, tuple[int, str]]] = {
    "failures": (1, "it fails for events that the model answers"),
    "seconds": (20, "its calls take longer than max_slowdown allows"),
    "errors": (100, "its errors are larger than error_tolerance allows"),
}
"""How many observations a verdict needs, and its text. The first calls are slow, and errors may be skewed."""

_THRESHOLD: Final = math.log(len(_TESTS) / FALSE_ALARMS)

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
    """The logarithm of the evidence that the mean of observations is above zero.

    If it is not, this ever exceeds log(1/p) with a probability of p at most, however often it is computed.

    A mixture sequential probability ratio test (H. Robbins, "Statistical methods related to the law of the
    iterated logarithm", 1970), normalised by the observed squares (V. de la Peña, "A general class of
    exponential inequalities for martingales and ratios", 1999). For x that is symmetric around zero, or ±1
    with a mean of at most zero, exp(λ Σx - λ² Σx²/2) is a supermartingale for each λ > 0, and so is its mean
    over half-normal λ. By Ville's inequality it ever reaches 1/p with a probability of p at most. For other x
    with a mean of zero that is so for many observations, approximately (S. Howard and others, "Time-uniform,
    nonparametric, nonasymptotic confidence sequences", 2021). The unit of x is not known, so the mean is over
    several scales of λ.
    """
    total = 0.0
    for scale in _SCALES:
        spread = scale + sums.squares
        z = max(sums.total / math.sqrt(spread), 0.0)  # below zero there is no evidence, and erfc is too small
        exponent = min(z * z / 2, 600.0)
        total += math.sqrt(scale / spread) * math.exp(exponent) * math.erfc(-z / math.sqrt(2.0))
    return math.log(total / len(_SCALES))


class CanaryRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The value of a record on the topic: a share that is set, or the sums of a worker.

    Attributes:
        version: Version of the canary that it is about.
        trial: Random name of the trial; that of the configured share is "".
        share: The share with which this trial begins.
        worker: Random name of a worker.
        sums: All that it has observed in the trial; above zero is worse. Empty at the worker's start.
    """

    version: str
    trial: str = ""
    share: float | None = None
    worker: str = ""
    sums: dict[Observation, Sums] = {}


def is_in_share(record: Record, share: float) -> bool:
    """Whether a canary with this share gets an event: by a hash of its key, or of its id if it has no key.

    It is the same in all processes, and a canary keeps its keys when its share grows.
    """
    digest = blake2b(record.key or record.id.encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


class CanaryTrial:
    """The newest trial of a canary, by the records that were applied.

    Args:
        start: Record with the canary's version and its configured share.
        rolls_back: Whether the share becomes 0 once the canary is worse.

    Attributes:
        name: The trial's name.
        share: The share of the keys that the canary answers.
        worse: Why the canary is worse; empty while there is not enough evidence.
    """

    def __init__(self, start: CanaryRecord, *, rolls_back: bool) -> None:
        self._version, self._rolls_back = start.version, rolls_back
        self.apply(start)

    def apply(self, record: CanaryRecord) -> None:
        """Apply the next record of the topic; one of another canary or an earlier trial changes nothing."""
        if record.version != self._version:
            return
        if record.share is not None:
            self.name, self.share, self.worse = record.trial, record.share, ""
            self._sums: dict[str, dict[Observation, Sums]] = {}
        elif record.trial == self.name and record.sums:
            self._sums[record.worker] = record.sums
            for name, (least, text) in _TESTS.items():
                sums = self._total(name)
                if not self.worse and sums.number >= least and log_evidence(sums) >= _THRESHOLD:
                    self.worse = f"{text} ({sums.number} observations)"
                    self.share = 0.0 if self._rolls_back else self.share

    @property
    def observations(self) -> dict[str, int]:
        """How many observations of each kind all workers have made."""
        return {name: self._total(name).number for name in _TESTS}

    def _total(self, name: Observation) -> Sums:
        return reduce(Sums.plus, (sums.get(name, Sums()) for sums in self._sums.values()), Sums())
