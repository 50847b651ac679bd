"""Decisions of the supervisor: when a worker is killed, replaced or restarted, and when it gives up.

A worker reports from its event loop, so a report that arrives proves that the loop runs. The report itself
says how long each handler has had events in flight without progress. A worker that waits for its broker, or
that retries because a database is down, makes progress in this sense: killing it would not help.

A crash counts towards the crash-loop limit if the worker had completed nothing since its start: it cannot
start, or the first event that it receives kills it. It does not count if the worker was ready, had received
nothing, and was killed from outside; a worker may be idle for seconds while its group rebalances.

Nor does it count if the broker could not be reached, or was not ready, or refused something to a worker
that had been ready before: a right that was taken away, or a password that was changed, may come back. At
the first start the same is a wrong setting, and stops the service.

What no restart mends, such as a model file that is not there or an impossible setting, ends the service at
once, unless the worker had been ready before: somebody may be replacing the file.

A worker that had completed something is restarted, however often that happens: a poison event is found by
redelivery (`max_deliveries`), which takes as many crashes, and must not stop the service.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from eventml.deploy.workers.reports import FailureCause, WorkerReport, WorkerStatus
from eventml.errors import (
    BackendError,
    ConfigError,
    ModelError,
    RegistrationError,
    TopicNotFoundError,
    UnavailableError,
)

MAX_CRASHES: Final = 5  # counted ones of one worker within the window that stop the service
CRASH_WINDOW: Final = 60.0  # seconds for which a crash is remembered
_FIRST_DELAY: Final = 0.25  # seconds before the first restart
_MAX_DELAY: Final = 10.0  # seconds


class HealthLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits in seconds after which a worker is killed or replaced.

    Attributes:
        boot_grace: Kill a worker that is not ready this long after its start. Time spent waiting for the
            broker does not count.
        silent_after: Kill a worker without any report for this long once it has been ready: something
            blocks its event loop.
        stuck_after: Kill a worker with events in flight and no progress for this long. It bounds a single
            call, so keep it above the slowest batch.
        hung_after: Replace a worker with a call still running this long after its `timeout`: a thread
            cannot be stopped, but its process can.
    """

    boot_grace: float = 120.0
    silent_after: float = 20.0
    stuck_after: float = 300.0
    hung_after: float = 30.0


def kill_reason(worker: WorkerStatus, limits: HealthLimits) -> str | None:
    """Return why a worker must be killed and restarted; None if it need not be.

    A worker that drains has a deadline of its own, and one that has failed ends by itself.
    """
    if worker.state == "starting" and worker.unchanged > limits.boot_grace:
        return f"not ready within {limits.boot_grace:g} s; allow a slow model more time with --boot-grace"
    if worker.state not in ("ready", "waiting"):
        return None
    if worker.silence > limits.silent_after:
        return f"no report for {worker.silence:.0f} s: something blocks its event loop"
    for name, handler in worker.handlers.items():
        quiet = handler.quiet + worker.silence
        if handler.in_flight and quiet > limits.stuck_after:
            return (
                f"{name} has made no progress for {quiet:.0f} s, with {handler.in_flight} events in flight, "
                f"the oldest for {handler.oldest + worker.silence:.0f} s; set consumer.{name}.timeout to "
                "limit a call"
            )
    return None


def replace_reason(worker: WorkerStatus, limits: HealthLimits) -> str | None:
    """Return why a worker must be replaced, draining as usual; None if it need not be."""
    if worker.state != "ready":
        return None
    for name, handler in worker.handlers.items():
        hung_for = handler.hung_for + worker.silence
        if handler.hung and hung_for > limits.hung_after:
            return (
                f"{name} has {handler.hung} threads that still run after its timeout and cannot be stopped, "
                f"the first for {hung_for:.0f} s"
            )
    return None


def failure_cause(errors: Sequence[BaseException]) -> FailureCause:
    """Return the cause that a worker reports when it ends with these errors."""
    if all(isinstance(error, UnavailableError) for error in errors):
        return "unavailable"
    if any(_is_permanent(error) for error in errors):
        return "permanent"
    if any(isinstance(error, TopicNotFoundError) or not isinstance(error, BackendError) for error in errors):
        return ""
    return "refused"


def _is_permanent(error: BaseException) -> bool:
    if isinstance(error, ModelError):  # a function that loads one may also fail because a server is away
        return type(error) is not ModelError or isinstance(error.__cause__, FileNotFoundError | ImportError)
    faulty_app = isinstance(error, ConfigError | RegistrationError | ImportError | SyntaxError)
    return faulty_app and not isinstance(error, BackendError)


def crash_counts(
    report: WorkerReport, *, was_ready: bool, killed_from_outside: bool, ready_before: bool = False
) -> bool:
    """Return whether a crash of a worker with this last report counts towards the crash-loop limit.

    `killed_from_outside` means by a SIGKILL that its supervisor did not send; `ready_before` that this
    process of the worker, or one before it, was ready.
    """
    if report.cause == "unavailable" or (report.cause == "refused" and ready_before):
        return False
    idle = was_ready and not report.has_any("received")
    return not report.has_any("completed") and not (idle and killed_from_outside)


def restart_delay(crashes: Sequence[float], now: float, not_counted: int = 0) -> float | None:
    """Return how many seconds to wait before a restart; None in a crash loop, where a restart is useless.

    The delay doubles with each counted crash in the last minute, and with each of those in a row that the
    broker caused (`not_counted`). All times are of one clock.
    """
    recent = sum(now - crash < CRASH_WINDOW for crash in crashes)
    if recent >= MAX_CRASHES:
        return None
    return min(_FIRST_DELAY * 2.0 ** min(max(recent - 1, not_counted - 1, 0), 10), _MAX_DELAY)
