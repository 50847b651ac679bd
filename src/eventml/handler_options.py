"""Handler options: their types, bounds and defaults, for the decorators' arguments and for the settings."""

# No `from __future__ import annotations` here: msgspec evaluates the annotations, so the linter must not
# move their imports into a type-checking block.
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Final, Literal, TypedDict

import msgspec
from msgspec import Meta, structs

from eventml.event_types import fields_of
from eventml.models import ModelSource, path_of
from eventml.times import StartOption, parse_start

Text = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=0)]
AtLeastOne = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]
PositiveSeconds = Annotated[float, Meta(gt=0)]
WhenStale = Literal["dead_letter", "drop"]

_RESERVED: Final = ("ce_specversion", "ce_type", "ce_source", "ce_id", "ce_predictor", "content-type")

DEFAULT_MAX_BATCH: Final = 1024
"""Default `max_batch` of a handler of batches: a forest is twice as fast at 1,024 rows as at 256."""

DEFAULT_MAX_BATCH_SINGLE: Final = 64
"""Default `max_batch` of a handler of single events. Only the cost of completing is shared by the batch, and
a worker that stops waits for all of it."""

DEFAULT_CONCURRENCY: Final = 64
"""Default `concurrency` of a coroutine function of single events."""

_CODE_ONLY: Final = {"retry_on", "carry"}  # options that configuration cannot set


class HandlerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a handler is run: keyword arguments of the decorators, and settings in `[consumer.<handler>]`.

    Attributes:
        group: Consumer group, by default `<bus>.<handler>`: every handler then gets every event.
        max_batch: Maximum number of events in one call. By default 1,024 for a handler of batches and 64 for
            one of single events; a batch job then calls a handler of batches with whole chunks.
        concurrency: How many calls a handler of single events makes at once: by default 64 if it is a
            coroutine function, else 1. A plain function runs in that many threads. Events of one key are
            handled one after the other where the backend keeps their order, unless `ordered` is False.
        ordered: True requires order per key; a backend that cannot keep it is refused at start-up. False
            gives order up. None takes what the backend offers.
        timeout: Time limit of one call in seconds, or None for no limit.
        start: Where a group that has never read the topic begins: at an end, at a time (a datetime with its
            zone, in the past), or so long before it subscribes (a timedelta).
        retries: How often a failed event is retried before it becomes a dead letter.
        backoff: Upper bound of the first wait before a retry, in seconds. It doubles with each retry; the
            wait is random below it (full jitter).
        max_backoff: Largest value of that upper bound, in seconds.
        bisect_for: Time limit for finding the bad events of a failed batch, in seconds, on top of the calls
            that one bad event takes. Events not cleared by then become dead letters, to be replayed.
        max_deliveries: How many attempts at an event may end with the death of its worker before it becomes
            a dead letter as a poison event. Needs a backend that counts attempts.
        breaker_window: The handler stops if more than half of its last so many events failed and would become
            dead letters; it tries some of them again, with backoff, until most pass. 0 turns this off. Events
            that it rejects, stale and poison events do not count.
        max_age: Maximum age of an event when it is handled, in seconds, or None for no limit.
        when_stale: What happens to an older event: `dead_letter`, `drop`, or a function that takes the event
            and returns the output in place of the handler.
        dedupe_window: Skip an event (no call, no output) whose id is among the last so many ids that the
            group has completed; None turns this off. Dead letters do not count as completed. Refused on
            a backend that cannot record ids. Where ids are recorded by partition, a duplicate is
            recognised only if it has the same key.
        skip_replayed: Skip an event whose header says that it is a dead letter, replayed for another group.
            Whoever may write to the topic can set that header, and so hide an event from this group; each
            one is counted and logged. False calls the handler for them too, also for those that it has
            handled before.
        skip_tombstones: Complete an event whose value is missing, empty or null without a call. Otherwise a
            handler of `Event | None` gets None, and for others it is undecodable: a dead letter.
        model_poll: Look for a new version of the model every so many seconds, and use it from the next batch
            on if it passes its checks; None keeps the version that was loaded at the start. Needs a file
            without a pin, or a name in a registry.
        golden: Path of a file with golden rows, which a version of the model must predict before it is used:
            Parquet, or a JSON object in each line, with the fields of an event, and `prediction` if one was
            recorded.
        golden_tolerance: How far a number may be from the recorded one.
        carry: Names of headers that outputs get from their input. The trace context (`traceparent`) goes to
            them by itself, if tracing is on.
        retry_on: Exceptions that mean a failing dependency (a database that is down) and not a bad event: the
            whole batch is retried until it succeeds. Connection errors, timeouts, throttling and full disks
            of well-known client libraries always count as such: see the list in docs/failures.md.

    Raises:
        ValueError: An option has the wrong type or is out of bounds; the message starts with its name.
    """

    group: Text
    max_batch: AtLeastOne | None = None
    concurrency: AtLeastOne | None = None
    ordered: bool | None = None
    timeout: PositiveSeconds | None = None
    start: StartOption = "earliest"
    retries: Count = 2
    backoff: Seconds = 0.1
    max_backoff: Seconds = 30.0
    bisect_for: Seconds = 60.0
    max_deliveries: Annotated[int, Meta(ge=3)] = 5
    breaker_window: Count = 200
    max_age: PositiveSeconds | None = None
    when_stale: WhenStale | Callable[[Any], Any] = "dead_letter"
    dedupe_window: AtLeastOne | None = None
    skip_replayed: bool = True
    skip_tombstones: bool = False
    model_poll: PositiveSeconds | None = None
    golden: Text | None = None
    golden_tolerance: Annotated[float, Meta(ge=0)] = 0.0
    carry: tuple[Text, ...] = ()
    retry_on: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        """Check every option against its type and bounds."""
        for name, kind in configurable_options().items():
            value = getattr(self, name)
            if name == "when_stale" and callable(value):
                continue
            try:
                structs.force_setattr(self, name, convert_option(value, kind))
            except ValueError as exc:
                raise ValueError(
                    f"{name}: {str(exc).replace('Expected', 'expected')}, not {value!r}"
                ) from None
        if not isinstance(self.carry, tuple) or not all(isinstance(n, str) and n for n in self.carry):
            raise ValueError(
                f'carry: expected a list of names of headers, as ["x-correlation-id"], not {self.carry!r}'
            )
        if not isinstance(self.retry_on, tuple) or not all(map(_is_exception_class, self.retry_on)):
            raise ValueError(
                f"retry_on: expected a list of exception classes, as [DriverError], not {self.retry_on!r}"
            )
        if reserved := list(filter(is_reserved, self.carry)):
            raise ValueError(f"carry: the library writes the header {reserved[0]!r} itself; leave it out")


class Canary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A second model that answers for a share of a predictor's keys: see `Bus.canary`.

    Attributes:
        model: The model, as for `Bus.predictor`; in the settings a path, or a reference to a registry.
        share: Share of the keys whose events it answers, until `eventml canary` sets another one.
        on_worse: What happens once it is found to be worse than the predictor's model: `rollback` makes its
            share 0 on all workers; `alert` only says so, in the log and in `/readyz`.
        max_slowdown: Most of its calls may take this many times as long as the model's, plus a millisecond.
        truth: Topic of the true values; None if errors are not compared.
        error: Field of a prediction with the number that is compared with the true value.
        error_tolerance: How much larger its mean error may be than the model's, as a fraction of the model's.
    """

    model: Any
    share: Annotated[float, Meta(ge=0, le=1)] = 0.1
    on_worse: Literal["rollback", "alert"] = "rollback"
    max_slowdown: Annotated[float, Meta(ge=1)] = 2.0
    truth: Text | None = None
    error: Text = "value"
    error_tolerance: Seconds = 0.05

    def check(self, model: ModelSource | None, outputs: Mapping[str, Any], *, several: bool | None) -> None:
        """Raise ValueError if a predictor with this model and these outputs cannot have it."""
        if model is None or not outputs:
            raise ValueError("canary: it is for predictors with a model; omit it")
        one, other = (path_of(of) or getattr(of, "version", of) for of in (self.model, model))
        if str(one) == str(other):
            raise ValueError("canary: its model is that of the predictor; name another one, or omit it")
        if self.truth is not None and (len(outputs) != 1 or several):
            raise ValueError("canary: truth needs one prediction for each event; omit truth")
        names = [name for type_ in outputs.values() for name, *_ in fields_of(type_) or ()]
        if self.truth is not None and names and self.error not in names:
            known = ", ".join(names)
            raise ValueError(
                f"canary: error {self.error!r} is no field of the predictions, which have {known}"
            )


def convert_option(value: Any, kind: Any, *, strict: bool = True) -> Any:
    """An option as its type. A `StartOption` may be text, as `parse_time` reads it. Raises ValueError."""
    if kind == StartOption:
        return parse_start(value)
    return msgspec.convert(value, kind, strict=strict)


def is_reserved(header: str) -> bool:
    """Whether the library writes a header of this name itself."""
    return header in _RESERVED or header.startswith(("ce_model", "eventml-"))


def _is_exception_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


@cache
def configurable_options() -> dict[str, Any]:
    """The handler options that configuration can set, by name, with their types."""
    kinds = {
        field.name: field.type for field in structs.fields(HandlerOptions) if field.name not in _CODE_ONLY
    }
    return kinds | {"when_stale": WhenStale}


class HandlerArguments(TypedDict, total=False):
    """Keyword arguments of `Bus.predictor` and `Bus.consumer`: see `HandlerOptions`, and these three.

    Attributes:
        name: The handler's name; by default the function's.
        event_type: Type of one event, if the annotation does not give it. Required for handlers of frames.
        output_type: Type of one output, if the annotation does not give it: what a returned frame's rows
            become.
    """

    name: str
    event_type: Any
    output_type: Any
    group: str
    max_batch: int | None
    concurrency: int | None
    ordered: bool | None
    timeout: float | None
    start: StartOption
    retries: int
    backoff: float
    max_backoff: float
    bisect_for: float
    max_deliveries: int
    breaker_window: int
    max_age: float | None
    when_stale: WhenStale | Callable[[Any], Any]
    dedupe_window: int | None
    skip_replayed: bool
    skip_tombstones: bool
    model_poll: float | None
    golden: str | None
    golden_tolerance: float
    carry: Sequence[str]
    retry_on: Sequence[type[Exception]]
