"""Handlers: made of a function, its annotations and the arguments of its decorator."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any, Final, Literal, TypedDict, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, structs

from eventml.backends.base import Start
from eventml.errors import RegistrationError
from eventml.frames import FrameType, frame_type, library_of
from eventml.models import ModelSource

Text = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=0)]
AtLeastOne = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]
PositiveSeconds = Annotated[float, Meta(gt=0)]
WhenStale = Literal["dead_letter", "drop"]

DEFAULT_MAX_BATCH: Final = 1024
"""Default `max_batch` of a handler of batches: a forest is twice as fast at 1,024 rows as at 256."""

DEFAULT_MAX_BATCH_SINGLE: Final = 64
"""Default `max_batch` of a handler of single events. Only the cost of completing is shared by the batch, and
a worker that stops waits for all of it."""


class HandlerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a handler is run: keyword arguments of the decorators, and settings in `[consumer.<handler>]`.

    Attributes:
        group: Consumer group, by default `<bus>.<handler>`: every handler then gets every event.
        max_batch: Maximum number of events in one call. By default 1,024 for a handler of batches and 64 for
            one of single events; a batch job then calls a handler of batches with whole chunks.
        max_wait: How long to wait for more events once a batch has one, in seconds.
        ordered: True requires order per key; a backend that cannot keep it is refused at start-up. False
            gives order up: a coroutine of single events then handles a batch concurrently. None takes
            what the backend offers.
        timeout: Time limit of one call in seconds, or None for no limit.
        start: Where a group that has never read the topic begins.
        retries: How often a failed event is retried before it becomes a dead letter.
        backoff: Upper bound of the first wait before a retry, in seconds. It doubles with each retry; the
            wait is random below it (full jitter).
        max_backoff: Largest value of that upper bound, in seconds.
        bisect_for: Time limit for finding the bad events of a failed batch, in seconds, on top of the calls
            that one bad event takes. Events not cleared by then become dead letters, to be replayed.
        max_deliveries: How often an event may be delivered without being completed before it becomes a
            dead letter as a poison event. Needs a backend that counts deliveries.
        max_age: Maximum age of an event when it is handled, in seconds, or None for no limit.
        when_stale: What happens to an older event: `dead_letter`, `drop`, or a function that takes the event
            and returns the output in place of the handler.
        dedupe_window: Skip an event (no call, no output) whose id is among the last so many ids that the
            group has completed; None turns this off. Dead letters do not count as completed. Refused on
            a backend that cannot record ids. Where ids are recorded by partition, a duplicate is
            recognised only if it has the same key.
        retry_on: Exceptions that mean a failing dependency (a database that is down) and not a bad event: the
            whole batch is retried until it succeeds. Timeouts, connection errors and MemoryError always
            count as such.

    Raises:
        ValueError: An option has the wrong type or is out of bounds; the message starts with its name.
    """

    group: Text
    max_batch: AtLeastOne | None = None
    max_wait: Seconds = 0.0
    ordered: bool | None = None
    timeout: PositiveSeconds | None = None
    start: Start = "earliest"
    retries: Count = 2
    backoff: Seconds = 0.1
    max_backoff: Seconds = 30.0
    bisect_for: Seconds = 60.0
    max_deliveries: Annotated[int, Meta(ge=3)] = 5
    max_age: PositiveSeconds | None = None
    when_stale: WhenStale | Callable[[Any], Any] = "dead_letter"
    dedupe_window: AtLeastOne | None = None
    retry_on: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        """Check every option against its type and bounds."""
        for name, kind in configurable_options().items():
            value = getattr(self, name)
            if name == "when_stale" and callable(value):
                continue
            try:
                msgspec.convert(value, kind)
            except msgspec.ValidationError as exc:
                raise ValueError(
                    f"{name}: {str(exc).replace('Expected', 'expected')}, not {value!r}"
                ) from None


@cache
def configurable_options() -> dict[str, Any]:
    """The handler options that configuration can set, by name, with their types."""
    kinds = {field.name: field.type for field in structs.fields(HandlerOptions) if field.name != "retry_on"}
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
    when_stale: WhenStale | Callable[[Any], Any]
    dedupe_window: int | None
    retry_on: Sequence[type[Exception]]


class Handler(msgspec.Struct, frozen=True, kw_only=True):
    """A registered function: a predictor if it has an output topic, else a consumer.

    Attributes:
        name: The function's name, or the `name` given to the decorator.
        function: The function itself, unchanged.
        topic: Topic to read from.
        to: Topic of its outputs; None for a consumer.
        event_type: Type of one event.
        output_type: Type of one output, as annotated or given.
        batched: Whether it takes a list of events or a frame, rather than one event.
        frame: Library and columns of the frame that it takes; None for a handler of events.
        is_async: Whether it is a coroutine function, awaited rather than run in a thread.
        model: Source of its model, or None if it takes no model.
        resource_names: Names of its parameters after the events: `model`, and names of lifespans.
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
    resource_names: tuple[str, ...]
    options: HandlerOptions

    @property
    def max_batch(self) -> int:
        """Maximum number of events in one call on a stream: the option if it is set, else the default."""
        default = DEFAULT_MAX_BATCH if self.batched else DEFAULT_MAX_BATCH_SINGLE
        return self.options.max_batch or default


def read_handler(
    function: Callable[..., Any],
    bus: str,
    *,
    topic: str,
    to: str | None = None,
    model: ModelSource | None = None,
    arguments: HandlerArguments,
) -> Handler:
    """Make a handler of a function, from its signature and the decorator's arguments.

    Args:
        function: The decorated function.
        bus: Name of the bus, the prefix of the default consumer group.
        topic: Topic to read from.
        to: Topic of the outputs; None for a consumer.
        model: Source of the model.
        arguments: The decorator's other keyword arguments.

    Raises:
        RegistrationError: The signature and the arguments do not fit together; the message says how to fix
            it.
        MissingExtraError: The handler takes frames, and pyarrow is not installed.
    """
    name = arguments.get("name") or str(getattr(function, "__name__", type(function).__name__))
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise RegistrationError(f"{name}: a handler must return its outputs, not yield them")
    parameters = [p for p in inspect.signature(function).parameters.values() if p.kind not in _VARIADIC]
    if not parameters:
        raise RegistrationError(f"{name}: a handler's first parameter takes the event, or the list of events")
    hints = _type_hints(name, function)
    first = hints.get(parameters[0].name, Any)
    frame = _frame_type(name, first, arguments)
    batched, event_type = (True, Any) if frame is not None else _event_type(first)
    resource_names = tuple(p.name for p in parameters[1:] if p.default is p.empty or p.name == "model")
    returned = hints.get("return", Any)
    _check_model(name, model, resource_names)
    if to is None and "output_type" in arguments:
        raise RegistrationError(f"{name}: a consumer has no output; remove output_type=..., or add to=...")
    if to is None and returned not in (Any, None, type(None)):
        raise RegistrationError(
            f"{name}: a consumer has no output; make it a predictor, with to=..., or annotate it -> None"
        )
    return Handler(
        name=name,
        function=function,
        topic=topic,
        to=to,
        event_type=arguments.get("event_type", event_type),
        output_type=arguments.get("output_type", _output_type(returned, batched=batched)),
        batched=batched,
        frame=frame,
        is_async=inspect.iscoroutinefunction(inspect.unwrap(function)),
        model=model,
        resource_names=resource_names,
        options=_options(name, f"{bus}.{name}", arguments),
    )


def _check_model(name: str, model: ModelSource | None, resource_names: tuple[str, ...]) -> None:
    if model is not None and "model" not in resource_names:
        raise RegistrationError(
            f"{name}: model=... is given, but the function has no parameter named 'model'"
        )
    if model is None and "model" in resource_names:
        raise RegistrationError(
            f"{name}: the function has a parameter 'model', but no model is given: "
            'add model="path/to/model.skops" to the decorator'
        )


def _options(name: str, group: str, arguments: HandlerArguments) -> HandlerOptions:
    options: dict[str, Any] = {k: v for k, v in arguments.items() if k not in _NOT_OPTIONS}
    options.setdefault("group", group)
    options["retry_on"] = tuple(arguments.get("retry_on", ()))
    try:
        return HandlerOptions(**options)
    except (TypeError, ValueError) as exc:
        raise RegistrationError(f"{name}: {exc}") from exc


_NOT_OPTIONS = ("name", "event_type", "output_type")
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _type_hints(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except NameError as exc:
        raise RegistrationError(
            f"{name}: its annotations cannot be read ({exc}); import the event's type where the "
            "function is defined, not under TYPE_CHECKING"
        ) from exc


def _frame_type(name: str, annotation: Any, arguments: HandlerArguments) -> FrameType | None:
    """The frame type of a first parameter; None if its annotation is not a frame."""
    library = library_of(annotation)
    if library is None:
        return None
    if "event_type" not in arguments:
        raise RegistrationError(
            f"{name}: a {library} {annotation.__name__} does not define an event's fields; "
            "add event_type=... to the decorator"
        )
    try:
        return frame_type(library, arguments["event_type"])
    except RegistrationError as exc:
        raise RegistrationError(f"{name}: {exc}") from exc


def _event_type(annotation: Any) -> tuple[bool, Any]:
    """Whether the annotation is a list of events, and the type of one event."""
    if annotation is list:
        return True, Any
    if get_origin(annotation) in (list, Sequence):
        return True, get_args(annotation)[0]
    return False, annotation


def _output_type(returned: Any, *, batched: bool) -> Any:
    """The type of one output without None: A for `list[A | None]` and `A | None`."""
    if batched:
        if get_origin(returned) not in (list, Sequence):
            return Any  # an array, a frame, or no annotation
        returned = get_args(returned)[0]
    if get_origin(returned) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(returned) if kind is not type(None)]
        return kinds[0] if len(kinds) == 1 else Any
    return returned
