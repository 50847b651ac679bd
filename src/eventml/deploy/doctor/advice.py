"""The figures of an examination, and the advice on running the predictor that is decided from them."""

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


_TIMEOUT: Final = 20  # times the time of the largest call
_LEAST_TIMEOUT: Final = 5.0  # seconds
# What Redis adds to a worker's time in memory, in turns of a loop in Python: its client works for each event
# and batch, and slows down the rest, with which it shares the interpreter lock and the cores. Fitted on an
# idle machine of two cores that ran the server too.
_REDIS_EVENT: Final = 90.0
_REDIS_BATCH: Final = 10_000.0
_REDIS_SLOWDOWN: Final = 0.52
_REDIS_MOST_SLOWDOWN: Final = 650.0  # for an event
_SEVERAL_CORES: Final = 1.3
_LOCKED: Final = 0.5


class Advice(msgspec.Struct, frozen=True):
    """How to run a predictor.

    Attributes:
        max_batch: Events in a call.
        timeout: Time limit of a call, in seconds.
        rate: Events a second to expect of one worker on Redis, on a machine that runs little else: with three
            models the median forecast was within 11% of the measured rate, and a single one within 25%.
        workers: Number of workers for the wanted rate; None without one.
        warnings: Known problems, each with its remedy.
    """

    max_batch: int
    timeout: float
    rate: float
    workers: int | None
    warnings: Sequence[str]


def advise(examination: Examination, wanted: float | None = None) -> Advice:
    """Advise on a predictor; `wanted` is a rate to carry, in events a second."""
    chosen = best_batch(examination.batches)
    rate = _rate(examination, chosen)
    return Advice(
        max_batch=chosen.size,
        timeout=round(max(_TIMEOUT * chosen.seconds, _LEAST_TIMEOUT), 1),
        rate=rate,
        workers=None if wanted is None else max(-int(-wanted // rate), 1),
        warnings=[*_warnings(examination), *examination.warnings],
    )


def _rate(examination: Examination, chosen: BatchCost) -> float:
    """The rate of a worker on Redis."""
    if examination.worker is None:  # a call takes so long that nothing else counts
        return chosen.rate
    memory = 1 / (examination.worker * examination.turn)
    slowdown = min(_REDIS_SLOWDOWN * memory, _REDIS_MOST_SLOWDOWN)
    turns = memory + slowdown + _REDIS_EVENT + _REDIS_BATCH / chosen.size
    return 1 / (turns * examination.turn)


def _warnings(examination: Examination) -> list[str]:
    found = []
    if examination.cores is not None and examination.cores > _SEVERAL_CORES:
        found.append(
            f"a call uses {examination.cores:.1f} cores: threads inside a model slow a stream down; drop "
            "keep_threads, set n_jobs=None, and run more workers"
        )
    if examination.lock is not None and examination.lock > _LOCKED:
        found.append(
            f"a call keeps other threads from running for {examination.lock:.0%} of its time: it holds the "
            "interpreter lock, so concurrency in one process gains little; run more workers"
        )
    if not all(one.same_bits for one in examination.batches):
        found.append(
            "a prediction depends in its last bits on the other rows of its batch: if that matters, use "
            "eventml.models.in_blocks"
        )
    if examination.batches[0].seconds > LONGEST:
        found.append(
            f"a single event takes {examination.batches[0].seconds:.1f} s: set a timeout, and a lease and "
            "session timeout of the backend well above it"
        )
    return found
