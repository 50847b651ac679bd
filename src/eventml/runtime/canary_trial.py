"""The trial of a canary: its share of the keys, and the evidence that it is worse. Pure decisions.

Each worker has a trial, and tells the others by records on a topic what it has observed: for the same events
the failures and times of both models' calls, and the errors of both predictions. The sums of all workers are
tested together, and the first worker that finds the canary worse tells all. A share that is set begins a new
trial. A worker that starts later reads the topic from its beginning.
"""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
import math
from functools import reduce
from hashlib import blake2b
from typing import Final, Literal

import msgspec

from eventml.records import Record
from eventml.runtime.sequential_test import Sums, log_evidence

Observation = Literal["failures", "seconds", "errors"]

FALSE_ALARMS: Final = 0.01
"""The highest probability that a trial, however long, finds a canary worse that is not."""

_TESTS: Final[dict[Observation, tuple[int, str]]] = {
    "failures": (1, "it fails for events that the model answers"),
    "seconds": (20, "it takes more than twice the model's time"),
    "errors": (100, "its errors are larger than the model's"),
}
"""How many observations a verdict needs, and its text. The first calls are slow, and errors may be skewed."""

_THRESHOLD: Final = math.log(len(_TESTS) / FALSE_ALARMS)
_GROWTH: Final = 1.1  # of the observations from one report to the next, so that there are few


class CanaryRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The value of a record on the topic: a share that is set, a verdict, or what a worker has observed.

    Attributes:
        version: The version of the canary that it is about.
        trial: Name of the trial: random, and "" for the one of the configured share.
        share: The share that is set, with which the trial begins.
        worse: Why the canary is worse.
        worker: Name of the worker, which is random.
        sums: All that this worker has observed in the trial.
    """

    version: str
    trial: str = ""
    share: float | None = None
    worse: str = ""
    worker: str = ""
    sums: dict[Observation, Sums] = {}


def is_in_share(record: Record, share: float) -> bool:
    """Whether a canary with this share gets an event: by a hash of its key, or of its id if it has no key.

    It is the same in all processes, and a canary keeps its keys when its share grows.
    """
    digest = blake2b(record.key or record.id.encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


class CanaryTrial:
    """What a worker knows of a canary.

    Args:
        record: Has the canary's version, its configured share, and the name of the worker.
        rolls_back: Whether the share becomes 0 once the canary is worse.

    Attributes:
        share: The share of the keys that it answers.
        worse: Why it is worse; empty if that is not known.
    """

    def __init__(self, record: CanaryRecord, *, rolls_back: bool) -> None:
        self._version, self._worker, self._rolls_back = record.version, record.worker, rolls_back
        self._begin(record)

    def _begin(self, record: CanaryRecord) -> None:
        self.share, self.worse, self._trial = record.share or 0.0, "", record.trial
        self._sums: dict[str, dict[Observation, Sums]] = {self._worker: dict.fromkeys(_TESTS, Sums())}
        self._reported = 0.0

    def sums(self, name: Observation) -> Sums:
        """What all workers have observed, as far as this one knows."""
        return reduce(Sums.plus, (sums.get(name, Sums()) for sums in self._sums.values()))

    def observe(self, name: Observation, value: float) -> None:
        """Add an observation, which is above zero if the canary is worse, and test all."""
        own = self._sums[self._worker]
        own[name] = own[name].observe(value)
        self._test(name)

    def apply(self, record: CanaryRecord) -> None:
        """Apply a record of the topic; one of another canary or trial changes nothing."""
        if record.version == self._version and record.share is not None:
            self._begin(record)
        elif (record.version, record.trial) == (self._version, self._trial):
            if record.worker != self._worker:
                self._sums[record.worker] = record.sums
            if record.worse:
                self._end(record.worse)
                self._reported = math.inf
            for name in record.sums:
                self._test(name)

    def report(self) -> CanaryRecord | None:
        """The record to publish, if there is news: a verdict of this worker, or many more observations."""
        count = sum(sums.number for sums in self._sums[self._worker].values())
        if self._reported == math.inf or (not self.worse and count <= self._reported * _GROWTH):
            return None
        self._reported = math.inf if self.worse else count
        record = CanaryRecord(version=self._version, trial=self._trial, worker=self._worker, worse=self.worse)
        record.sums = self._sums[self._worker]
        return record

    def _test(self, name: Observation) -> None:
        (least, text), sums = _TESTS[name], self.sums(name)
        if not self.worse and sums.number >= least and log_evidence(sums) >= _THRESHOLD:
            self._end(f"{text} ({sums.number} observations)")

    def _end(self, worse: str) -> None:
        self.worse = worse
        if self._rolls_back:
            self.share = 0.0
