"""What a decorated function says of itself: a handler, read off its annotations."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Union, get_args, get_origin, get_type_hints

import msgspec

from eventml.errors import RegistrationError
from eventml.frames import FrameType, frame_type, library_of

if TYPE_CHECKING:
    from eventml.backends.base import Start
    from eventml.models import ModelSource

BATCH = 1024
SINGLE = 64
# The default caps of a batch. The model's cost a call is shared by all of it, and 1,024 doubles a
# forest's speed over 256; a function of single events gains nothing from more than its completion
# costs, and a drain must wait for all of them.


class HandlerChoices(TypedDict, total=False):
    """The keyword arguments of `Bus.predictor` and `Bus.consumer`: those of `Options`, and three more.

    name: The handler's name, if not the function's.
    event_type: The type of one event, if the annotation does not say it. A handler of frames needs it.
    output_type: The type of one output, if the annotation does not say it: what the rows of a frame become.
    """

    name: str
    event_type: Any
    output_type: Any
    group: str
    max_batch: int
    max_wait: float
    ordered: bool | None
    timeout: float | None
    start: Start
    retries: int
    backoff: float
    max_backoff: float
    bisect_for: float
    max_deliveries: int
    max_age: float | None
    when_stale: Literal["dead_letter", "drop"] | Callable[[Any], Any]
    dedupe_window: int | None
    retry_on: Sequence[type[Exception]]


class HandlerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a handler is run. Configuration may replace each (`[consumer.<handler>]`).

    Attributes:
        group: The consumer group; `<bus>.<handler>` by default, so that every handler gets every event.
        max_batch: The most events in one call; None is the default, `Handler.max_batch`.
        max_wait: How long to wait for a batch to fill once it has an event, in seconds.
        ordered: True demands order per key and is refused where the backend cannot keep it. False
            gives it up, and lets a coroutine of single events run for a batch's events at once. None
            takes what the backend gives.
        timeout: How long one call may take, in seconds; None is for ever.
        start: Where a group begins that has never read the topic.
        retries: How often a single event is tried again after its first failure, before it is set aside.
        backoff: The first wait before a retry, in seconds; it doubles, with full jitter.
        max_backoff: The longest such wait.
        bisect_for: How long to look for the bad events of a failed batch, in seconds, beyond the calls
            that one bad event takes. What is not cleared by then is set aside, to be replayed.
        max_deliveries: How often an event may be delivered and not finished before it is set aside as the
            one that kills its workers, 3 at least. Only on a backend that counts deliveries.
        max_age: How old an event may be when its turn comes, in seconds; None is any age.
        when_stale: What becomes of an older one: `dead_letter`, `drop`, or a function of the event that
            answers in the handler's place.
        dedupe_window: Pass over an event whose id is among the last so many that the group has finished (it
            was published twice, say): no call, no output. None is off. What became a dead letter does
            not count as finished. Refused where the backend does not remember ids; where it remembers
            them by partition, a repeat has to have the key of its first.
        retry_on: Exceptions that speak of the infrastructure and not of an event (a database that is
            down): the whole batch is tried again until it passes. Timeouts, connection errors and
            MemoryError are taken so anyway.
    """

    group: str
    max_batch: int | None = None
    max_wait: float = 0.0
    ordered: bool | None = None
    timeout: float | None = None
    start: Start = "earliest"
    retries: int = 2
    backoff: float = 0.1
    max_backoff: float = 30.0
    bisect_for: float = 60.0
    max_deliveries: int = 5
    max_age: float | None = None
    when_stale: Literal["dead_letter", "drop"] | Callable[[Any], Any] = "dead_letter"
    dedupe_window: int | None = None
    retry_on: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        lowest = {
            "max_batch": 1,
            "max_wait": 0,
            "retries": 0,
            "backoff": 0,
            "max_backoff": 0,
            "bisect_for": 0,
            "max_deliveries": 3,
        }
        for name, limit in lowest.items():
            value = getattr(self, name)
            if not (value is None and name == "max_batch") and not value >= limit:
                raise ValueError(f"{name}: at least {limit}, not {value!r}")
        for name in ("timeout", "max_age"):
            seconds = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise ValueError(f"{name}: more than 0 seconds, or None, not {seconds!r}")
        if self.dedupe_window is not None and not self.dedupe_window >= 1:
            raise ValueError(f"dedupe_window: at least 1, or None, not {self.dedupe_window!r}")


class Handler(msgspec.Struct, frozen=True, kw_only=True):
    """A function registered with a bus: a predictor if it has an output, else a consumer.

    Attributes:
        name: The function's name, or the one given.
        function: The function itself, unchanged.
        topic: What it reads.
        to: Where its outputs go; None for a consumer.
        event_type: The type of one event.
        output_type: The annotated type of one output.
        batched: It takes a list of events or a frame, and not one event.
        frame: What frame it takes, with which columns; None for a handler of events.
        is_async: It is awaited, and not run in a thread.
        model: Where its model comes from, if it takes one.
        wants: The names of its parameters after the events: `model`, and lifespans'.
        options: How it is run.
    """

    name: str
    function: Callable[..., Any]
    topic: str
    to: str | None
    event_type: Any
    output_type: Any
    batched: bool
    frame: FrameType | None = None
    is_async: bool
    model: ModelSource | None
    wants: tuple[str, ...]
    options: HandlerOptions

    @property
    def max_batch(self) -> int:
        """The most events in one call on a stream: the option, or the default of batches or single events.

        A batch job calls for whole chunks unless the option is set.
        """
        return self.options.max_batch or (BATCH if self.batched else SINGLE)


def read_handler(
    function: Callable[..., Any],
    *,
    bus: str,
    topic: str,
    to: str | None = None,
    model: ModelSource | None = None,
    choices: HandlerChoices,
) -> Handler:
    """Read a handler off a function's signature.

    Raises:
        RegistrationError: the signature and the options do not fit together; says how to mend it.
    """
    name = choices.get("name") or str(getattr(function, "__name__", type(function).__name__))
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise RegistrationError(f"{name}: a handler returns its outputs, it does not yield them")
    parameters = [p for p in inspect.signature(function).parameters.values() if p.kind not in _VARIADIC]
    if not parameters:
        raise RegistrationError(f"{name}: a handler's first parameter takes the event, or the list of events")
    hints = _hints(name, function)
    annotated = hints.get(parameters[0].name, Any)
    frame = _frame(name, annotated, choices)
    batched, event_type = (True, Any) if frame is not None else _split(annotated)
    wants = tuple(p.name for p in parameters[1:] if p.default is p.empty or p.name == "model")
    output = hints.get("return", Any)
    _check_model(name, model, wants)
    if to is None and "output_type" in choices:
        raise RegistrationError(f"{name}: a consumer has no output, and so no output_type")
    if to is None and output not in (Any, None, type(None)):
        raise RegistrationError(
            f"{name}: a consumer has no output; make it a predictor, with to=..., or annotate it -> None"
        )
    return Handler(
        name=name,
        function=function,
        topic=topic,
        to=to,
        event_type=choices.get("event_type", event_type),
        output_type=choices.get("output_type", _output_type(output, batched=batched)),
        batched=batched,
        frame=frame,
        is_async=inspect.iscoroutinefunction(inspect.unwrap(function)),
        model=model,
        wants=wants,
        options=_options(f"{bus}.{name}", choices),
    )


def _check_model(name: str, model: ModelSource | None, wants: tuple[str, ...]) -> None:
    if model is not None and "model" not in wants:
        raise RegistrationError(f"{name}: it is given a model but has no parameter named 'model' to take it")
    if model is None and "model" in wants:
        raise RegistrationError(f'{name}: it takes a model, but none is given: model="path/to/model.skops"')


def _options(group: str, choices: HandlerChoices) -> HandlerOptions:
    said: dict[str, Any] = {key: value for key, value in choices.items() if key not in _OF_THE_HANDLER}
    said.setdefault("group", group)
    said["retry_on"] = tuple(choices.get("retry_on", ()))
    try:
        return HandlerOptions(**said)
    except (TypeError, ValueError) as exc:
        raise RegistrationError(f"{group}: {exc}") from exc


_OF_THE_HANDLER = ("name", "event_type", "output_type")
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _hints(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except NameError as exc:
        raise RegistrationError(
            f"{name}: its annotations cannot be read ({exc}); import the event's type where the "
            "function is defined, not under TYPE_CHECKING"
        ) from exc


def _frame(name: str, annotated: Any, choices: HandlerChoices) -> FrameType | None:
    """The frame that a handler takes whose first parameter is annotated so."""
    library = library_of(annotated)
    if library is None:
        return None
    if "event_type" not in choices:
        raise RegistrationError(
            f"{name}: it takes a {library} {annotated.__name__}, which does not say what an event is; "
            "say it in the decorator, event_type=..."
        )
    try:
        return frame_type(library, choices["event_type"])
    except RegistrationError as exc:
        raise RegistrationError(f"{name}: {exc}") from exc


def _split(annotated: Any) -> tuple[bool, Any]:
    """Whether a batch is taken, and the type of one event."""
    if annotated is list:
        return True, Any
    if get_origin(annotated) in (list, Sequence):
        return True, get_args(annotated)[0]
    return False, annotated


def _output_type(output: Any, *, batched: bool) -> Any:
    """The type of one output, None left out: `list[A | None]` and `A | None` say A."""
    if batched:
        if get_origin(output) not in (list, Sequence):
            return Any  # an array, or nothing said
        output = get_args(output)[0]
    if get_origin(output) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(output) if kind is not type(None)]
        return kinds[0] if len(kinds) == 1 else Any
    return output
