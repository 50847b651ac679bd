"""Whether a worker is still at work, judged by what it has got done: pure decisions.

A worker reports to its supervisor from its event loop, so a report that comes shows that the loop
turns. What the report says shows the rest: how long each handler has had events in hand without
getting anywhere. A worker that waits for its broker, or retries because a database is down, does get
somewhere in this sense: to kill it would mend nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

State = Literal["starting", "waiting", "ready", "draining", "failed"]
"""What a worker says of itself: importing and loading; waiting for its broker; at work; finishing what
is in hand; unable to start."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How patient a supervisor is, in seconds.

    Attributes:
        boot_grace: From a worker's start until it is ready. The time that it waits for its broker
            does not count. A model that takes a minute to load is well within the default.
        silent_after: Without any report, once it has been ready: its event loop is blocked.
        stuck_after: Without any progress on events in hand: a call that does not return. It bounds a
            single call, so keep it above the slowest batch.
        hung_after: With a call running on that was given up on at its `timeout`: a thread that cannot be
            stopped. Its worker is replaced in good order.
        drain: From SIGTERM to SIGKILL: what the workers' own `drain` says, and some for leaving.
    """

    boot_grace: float = 120.0
    silent_after: float = 20.0
    stuck_after: float = 300.0
    hung_after: float = 30.0
    drain: float = 35.0


class Progress(msgspec.Struct, frozen=True):
    """One handler's progress, as its worker saw it when it reported.

    Attributes:
        handler: Its name.
        in_flight: Events taken and not finished.
        quiet: Seconds since it last got anywhere: an arrival, the start or the end of a call, a
            completion, an attempt to reach the broker.
        oldest: Seconds since the oldest event in hand arrived.
        hung: Calls past their timeout whose threads are still running.
        hung_for: Seconds since the first of those was given up on.
    """

    handler: str
    in_flight: int
    quiet: float
    oldest: float
    hung: int = 0
    hung_for: float = 0.0


class Signs(msgspec.Struct, frozen=True, kw_only=True):
    """What a supervisor knows of a worker's life. Times are by the supervisor's monotonic clock.

    Attributes:
        state: What it last said of itself.
        since: When it first said so, or was started.
        heard: When its last report came.
        progress: What that report said, handler by handler.
    """

    state: State
    since: float
    heard: float
    progress: Sequence[Progress] = ()


def why_kill(signs: Signs, limits: Limits, now: float) -> str | None:
    """Why this worker has to be killed and started anew; None while it need not be.

    One that drains has its own deadline, and one that has failed ends by itself.
    """
    if signs.state == "starting":
        if now - signs.since > limits.boot_grace:
            return f"not ready within {limits.boot_grace:g} s; give a slow model more with --boot-grace"
        return None
    if signs.state not in ("ready", "waiting"):
        return None
    silence = now - signs.heard
    if silence > limits.silent_after:
        return f"no sign of life for {silence:.0f} s: something blocks its event loop"
    for one in signs.progress:
        quiet = one.quiet + silence
        if one.in_flight and quiet > limits.stuck_after:
            return (
                f"{one.handler} has got nowhere for {quiet:.0f} s, with {one.in_flight} events in hand, the "
                f"oldest for {one.oldest + silence:.0f} s; set consumer.{one.handler}.timeout to bound a call"
            )
    return None


def why_replace(signs: Signs, limits: Limits, now: float) -> str | None:
    """Why this worker is to be replaced by another, in good order; None while it need not be."""
    if signs.state != "ready":
        return None
    silence = now - signs.heard
    for one in signs.progress:
        hung_for = one.hung_for + silence
        if one.hung and hung_for > limits.hung_after:
            return (
                f"{one.handler} has {one.hung} threads that run on past its timeout and cannot be stopped, "
                f"the first for {hung_for:.0f} s"
            )
    return None
