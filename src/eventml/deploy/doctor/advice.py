"""Advice on running a predictor, decided from its measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.deploy.doctor.measurements import Examination

_NEAR: Final = 0.95  # of the best rate: a larger batch gains nothing
_LONGEST: Final = 1.0  # seconds of one call, so that a stop and a new version do not wait longer
_SLOW: Final = 1.5  # times a call with one event, if that takes longer
_TIMEOUT: Final = 20  # times the time of the largest call
_LEAST_TIMEOUT: Final = 5.0  # seconds
_TURNS: Final = 1000.0  # of a loop in Python, as long as a worker takes for an event on Redis beside the call
_OWN_CORE: Final = 0.8  # of a core for a call; less says that the machine is busy, or the call waits
_SEVERAL_CORES: Final = 1.3
_LOCKED: Final = 0.5


class Advice(msgspec.Struct, frozen=True):
    """How to run a predictor.

    Attributes:
        max_batch: Events in a call.
        timeout: Time limit of a call, in seconds.
        rate: Events a second to expect of one worker on Redis, with a core and a half of its own. A rough
            guide: between 0.4 and 2.3 times the rate that was measured on an idle machine.
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
    batches = examination.batches
    longest = max(_LONGEST, _SLOW * batches[0].seconds)
    short = [one for one in batches if one.seconds <= longest]
    best = max(one.rate for one in short)
    chosen = next(one for one in short if one.rate >= _NEAR * best)
    rate = _rate(examination, chosen.rate)
    return Advice(
        max_batch=chosen.size,
        timeout=round(max(_TIMEOUT * chosen.seconds, _LEAST_TIMEOUT), 1),
        rate=rate,
        workers=None if wanted is None else max(-int(-wanted // rate), 1),
        warnings=[*_warnings(examination), *examination.warnings],
    )


def _rate(examination: Examination, called: float) -> float:
    """The rate of a worker. Calls overlap with its other work if a core is free and the lock is not kept."""
    call, serial = 1 / called, 1.0
    if examination.lock is not None and examination.cores is not None and examination.cores >= _OWN_CORE:
        serial = examination.lock
    return 1 / max(call, _TURNS * examination.turn + serial * call)


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
    if examination.batches[0].seconds > _LONGEST:
        found.append(
            f"a single event takes {examination.batches[0].seconds:.1f} s: set a timeout, and a lease and "
            "session timeout of the backend well above it"
        )
    return found
