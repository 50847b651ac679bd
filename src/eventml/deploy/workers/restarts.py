"""What becomes of a worker that ended though nobody asked: a pure decision.

A crash counts against the breaker if the worker had finished nothing since its start: it cannot
start, or what it meets first kills it. Not so if somebody killed it while it waited for its first
event, as it does for seconds where a group shares its work out anew.

One that had worked is started again however often that happens, with backoff: an event that kills its
worker is found and set aside by redelivery (`max_deliveries`), which takes as many crashes, and must
not stop the service.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How often, and how fast, a worker is started again.

    Attributes:
        crashes: So many crashes that count, of one worker, within `window` open the breaker.
        window: In seconds.
        first: The wait before the first restart, in seconds. It doubles with each crash
            in the window that counts.
        longest: The longest such wait, in seconds.
    """

    crashes: int = 5
    window: float = 60.0
    first: float = 0.25
    longest: float = 10.0


class Crash(msgspec.Struct, frozen=True):
    """The end of a worker that nobody had asked for.

    Attributes:
        at: When, by a monotonic clock.
        counts: Whether it speaks against the worker; see `blamed`.
    """

    at: float
    counts: bool


def blamed(*, finished: bool, waited: bool, killed: bool) -> bool:
    """Whether an end speaks against the worker.

    Args:
        finished: It had finished something since its start.
        waited: It was ready, and had received nothing yet.
        killed: By SIGKILL, and not by its supervisor.
    """
    return not finished and not (waited and killed)


def recent(crashes: Sequence[Crash], patience: Patience, now: float) -> list[Crash]:
    """Those that still matter."""
    return [crash for crash in crashes if now - crash.at < patience.window]


def broken(crashes: Sequence[Crash], patience: Patience, now: float) -> bool:
    """Whether the breaker opens: starting this worker again is no use."""
    return sum(crash.counts for crash in recent(crashes, patience, now)) >= patience.crashes


def wait_before_restart(crashes: Sequence[Crash], patience: Patience, now: float) -> float:
    """How long to wait before the worker is started again, in seconds."""
    counted = sum(crash.counts for crash in recent(crashes, patience, now))
    return min(patience.first * 2.0 ** min(max(counted - 1, 0), 64), patience.longest)
