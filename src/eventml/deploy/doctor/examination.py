"""The measurements of a predictor, and the batch that follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

_NEAR: Final = 0.95  # of the best rate: a larger batch gains nothing
LONGEST: Final = 1.0  # seconds of one call, so that a stop and a new version do not wait longer
_SLOW: Final = 1.5  # times a call with one event, if that takes longer


class BatchCost(msgspec.Struct, frozen=True):
    """The cost of calls with batches of one size.

    Attributes:
        size: Events in a batch.
        seconds: Median time of a call, its outputs checked and encoded.
        same_bits: Whether each event has the prediction that it has alone, to the last bit.
    """

    size: int
    seconds: float
    same_bits: bool

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.size / self.seconds


class Compiled(msgspec.Struct, frozen=True):
    """The measurements of a predictor with its model compiled.

    Attributes:
        seconds: Median time of a call, by the size of its batch: 1, 64 and the largest that was measured.
        difference: The largest difference from the original's predictions, on rows that are generated.
    """

    seconds: dict[int, float]
    difference: float


class Examination(msgspec.Struct, frozen=True):
    """The measurements of a predictor.

    Attributes:
        predictor: Its name.
        model: Name and version of its model.
        load_seconds: Time to load the model.
        load_memory: Memory that loading took, in bytes.
        batches: By size, rising.
        cores: CPU time of a call of the largest batch over its time: above 1 it uses several threads. None if
            a call takes too long to be measured again.
        lock: Share of the time of such a call in which other threads of the process could not run; or None.
        worker: Events a second of a worker on the in-memory bus, in batches of the size that is advised. None
            if a call takes too long to be measured again, or an event failed.
        turn: Seconds of a turn of a loop in Python, which says how fast the machine is.
        compiled: What compiling the model would bring; None if it cannot be compiled, or there is no time.
        warnings: Warnings that were issued while the model was loaded, and of sizes that were not measured.
    """

    predictor: str
    model: tuple[str, str]
    load_seconds: float
    load_memory: int
    batches: Sequence[BatchCost]
    cores: float | None
    lock: float | None
    worker: float | None
    turn: float
    compiled: Compiled | None = None
    warnings: Sequence[str] = ()


def best_batch(batches: Sequence[BatchCost]) -> BatchCost:
    """The smallest batch of nearly the best rate, of those whose calls do not take too long."""
    longest = max(LONGEST, _SLOW * batches[0].seconds)
    short = [one for one in batches if one.seconds <= longest]
    best = max(one.rate for one in short)
    return next(one for one in short if one.rate >= _NEAR * best)
