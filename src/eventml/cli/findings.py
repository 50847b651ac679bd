"""What `eventml check` finds, in a form that a machine may read."""

import msgspec

from eventml.backends.base import Capabilities


class ModelFinding(msgspec.Struct):
    """A model that could be loaded."""

    name: str
    version: str


class HandlerFinding(msgspec.Struct, kw_only=True):
    """A handler as it would run. Seconds are floats; None is "no limit" or "not said".

    `frame` is the library whose frames it takes, None where it takes events.
    """

    name: str
    reads: str
    writes: str | None
    group: str
    start: str
    batched: bool
    frame: str | None = None
    max_batch: int
    max_wait: float
    ordered: bool | None
    timeout: float | None
    model: ModelFinding | None = None


class Findings(msgspec.Struct, kw_only=True):
    """What `eventml check` found. It would run if there are no problems."""

    bus: str
    backend: str | None = None
    guarantees: Capabilities | None = None
    drain: float | None = None
    handlers: list[HandlerFinding] = msgspec.field(default_factory=list)
    problems: list[str] = msgspec.field(default_factory=list)
    warnings: list[str] = msgspec.field(default_factory=list)
