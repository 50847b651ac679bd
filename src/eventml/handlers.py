"""Handlers: made of a function, its annotations and the arguments of its decorator.

The arguments that say how a handler is run, with their defaults, are in `handler_options.py`.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

import msgspec

from eventml.errors import RegistrationError
from eventml.event_types import check_event_type, check_output_type
from eventml.frames import FrameType, frame_type, library_of
from eventml.handler_options import (
    DEFAULT_MAX_BATCH,
    DEFAULT_MAX_BATCH_SINGLE,
    HandlerArguments,
    HandlerOptions,
)
from eventml.models import ModelSource

_NOT_OPTIONS: Final = ("name", "event_type", "output_type")
_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


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

    The name of the bus is the prefix of the default consumer group.

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
    event_type = arguments.get("event_type", event_type)
    output_type = arguments.get("output_type", _output_type(returned, batched=batched))
    try:
        check_event_type(event_type)
        check_output_type(output_type)
    except TypeError as exc:
        raise RegistrationError(f"{name}: {exc}") from exc
    return Handler(
        name=name,
        function=function,
        topic=topic,
        to=to,
        event_type=event_type,
        output_type=output_type,
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
