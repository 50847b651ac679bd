"""Advice on running a predictor, decided from its measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from eventml.deploy.doctor.examination import LONGEST, BatchCost, Examination, best_batch

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
