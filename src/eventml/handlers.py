"""Handlers: made of a function, its annotations and the arguments of its decorator.

The arguments that say how a handler is run, with their defaults, are in `handler_options.py`.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import Any, Final, Union, get_args, get_origin, is_typeddict

import msgspec
from msgspec import structs

from eventml.errors import ConfigError, RegistrationError, Reject
from eventml.event_types import check_event_type, check_output_type, fields_of, is_list_type
from eventml.frames import FrameType, frame_type, library_of
from eventml.handler_options import (
    DEFAULT_CONCURRENCY,
    DEFAULT_MAX_BATCH,
    DEFAULT_MAX_BATCH_SINGLE,
    Canary,
    HandlerArguments,
    HandlerOptions,
)
from eventml.models import ModelSource
from eventml.records import Delivery, Output, Record
from eventml.signatures import check_call, function_name, functions_of, parameters_of, type_hints

To = str | Mapping[str, type]
"""The topic of a predictor's outputs; or several, each with the type of the outputs that go there."""

_NOT_OPTIONS: Final = ("name", "event_type", "output_type")


class Handler(msgspec.Struct, frozen=True, kw_only=True):
    """A registered function: a predictor if it has an output topic, else a consumer.

    Attributes:
        name: The function's name, or the `name` given to the decorator.
        function: The function itself, unchanged.
        topic: Topic to read from.
        outputs: The topics of its outputs, with the type of those of each; empty for a consumer.
        event_type: Type of one event.
        output_type: Type of one output, as annotated or given; a union if there are several topics.
        several: Whether an event has a list of outputs. None: its values decide, as nothing is annotated.
        batched: Whether it takes a list of events or a frame, rather than one event.
        frame: Library and columns of the frame that it takes; None for a handler of events.
        is_async: Whether it is a coroutine function, awaited rather than run in a thread.
        model: Source of its model, or None if it takes no model.
        resource_names: Names of its parameters after the events: `model`, and names of lifespans.
        metadata: Name of its parameter that gets the delivery of the event, or those of the events; or None.
        options: How it is run.
        champion: Name of the predictor that this one is a challenger of; empty if it is none.
        canary: The model that answers for a share of the keys on a stream, or None.

    Raises:
        ValueError: An option does not suit this handler; the message starts with the option's name.
    """

    name: str
    function: Callable[..., Any]
    topic: str
    outputs: Mapping[str, Any]
    event_type: Any
    output_type: Any
    several: bool | None
    batched: bool
    frame: FrameType | None = None
    is_async: bool
    model: ModelSource | None
    resource_names: tuple[str, ...]
    metadata: str | None
    options: HandlerOptions
    champion: str = ""
    canary: Canary | None = None

    def __post_init__(self) -> None:
        """Check the options that not every handler may have, from the code and from settings."""
        if self.batched and (self.options.concurrency or 1) > 1:
            raise ValueError(
                "concurrency: it is for handlers of single events, and this one takes batches, which are "
                "called one at a time; run more workers (eventml run --workers N)"
            )
        if self.model is not None and "model" not in self.resource_names:
            raise ValueError("model: its function has no parameter named 'model', which takes it")
        for option in ("model_poll", "golden"):
            if getattr(self.options, option) is not None and (self.model is None or not self.outputs):
                raise ValueError(f"{option}: it is for predictors with a model; omit it")
        if self.canary is not None:
            self.canary.check(self.model, self.outputs, several=self.several)

    @property
    def max_batch(self) -> int:
        """Maximum number of events in one call on a stream: the option if it is set, else the default."""
        default = DEFAULT_MAX_BATCH if self.batched else DEFAULT_MAX_BATCH_SINGLE
        return self.options.max_batch or default

    @property
    def concurrency(self) -> int:
        """How many calls are made at once: the option if it is set, else the default."""
        default = DEFAULT_CONCURRENCY if self.is_async and not self.batched else 1
        return self.options.concurrency or default


def read_handler(
    function: Callable[..., Any],
    bus: str,
    *,
    topic: str,
    to: To | None = None,
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
    called, wrapped = functions_of(function)
    name = arguments.get("name") or function_name(function)
    _check_topic(name, topic)
    parameters = parameters_of(name, function)
    hints = type_hints(name, called)
    first = hints.get(parameters[0].name, Any)
    frame = _frame_type(name, first, arguments)
    batched, event_type = (True, Any) if frame is not None else _event_type(first)
    metadata = _metadata(name, [(p.name, hints.get(p.name)) for p in parameters], batched=batched)
    resource_names = tuple(
        p.name for p in parameters[1:] if p.name != metadata and (p.default is p.empty or p.name == "model")
    )
    check_call(name, function, [*resource_names, *([metadata] if metadata else [])])
    returned = hints.get("return", Any)
    _check_model(name, model, resource_names)
    event_type = arguments.get("event_type", event_type)
    several, kinds = _output_kinds(returned, batched=batched)
    if is_list_type(arguments.get("output_type")):
        several = False  # the list is one output
    outputs = _outputs(name, to, returned, kinds, arguments)
    try:
        check_event_type(event_type)
        for type_ in outputs.values():
            check_output_type(type_)
        return Handler(
            name=name,
            function=function,
            topic=topic,
            outputs=outputs,
            event_type=event_type,
            output_type=reduce(or_, outputs.values()) if outputs else Any,
            several=several,
            batched=batched,
            frame=frame,
            is_async=inspect.iscoroutinefunction(called) or inspect.iscoroutinefunction(wrapped),
            model=model,
            resource_names=resource_names,
            metadata=metadata,
            options=_options(name, f"{bus}.{name}", arguments),
        )
    except (TypeError, ValueError) as exc:
        raise RegistrationError(f"{name}: {exc}") from exc


def configured(
    handler: Handler, model: ModelSource | None, options: Mapping[str, Any], **others: Any
) -> Handler:
    """A handler with another model, and with these options, and other attributes, replaced.

    Raises:
        ConfigError: An option does not suit the handler; the message starts with its path in the settings.
    """
    try:
        replaced = structs.replace(handler.options, **options)
        return structs.replace(handler, model=model, options=replaced, **others)
    except ValueError as exc:
        raise ConfigError(f"consumer.{handler.name}.{exc}") from exc


def _check_topic(name: str, topic: object) -> None:
    if not isinstance(topic, str):  # as what `bus.topic()` returns, which does not know its name
        raise RegistrationError(
            f"{name}: the topic to read from is given by its name, not by a {type(topic).__name__}; "
            'give the decorator a text such as "rides.started"'
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
    if callable(fallback := options.get("when_stale")):
        check_call(f"{name}: when_stale", fallback)
        if any(map(inspect.iscoroutinefunction, functions_of(fallback))):
            raise RegistrationError(f"{name}: when_stale: it is a coroutine function; give a plain function")
    for option in ("retry_on", "carry"):
        if isinstance(given := options.get(option), Collection) and not isinstance(given, str | bytes):
            options[option] = tuple(given)
    try:
        return HandlerOptions(**options)
    except (TypeError, ValueError) as exc:
        raise RegistrationError(f"{name}: {exc}") from exc


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


def _metadata(name: str, parameters: Sequence[tuple[str, Any]], *, batched: bool) -> str | None:
    """The name of the parameter annotated `Delivery`, or `list[Delivery]` for a handler of batches."""
    found = None
    for position, (parameter, annotation) in enumerate(parameters):
        members = _members(annotation)  # `Delivery | None`, for calls in tests, gets the delivery too
        is_list, type_ = _event_type(members[0] if len(members) == 1 else annotation)
        if type_ not in (Delivery, Record):
            continue
        expected = "list[Delivery]" if batched else "Delivery"
        if position == 0:
            raise RegistrationError(
                f"{name}: the first parameter, {parameter!r}, takes the event; for its record's id, key and "
                f"headers add a parameter after it: delivery: {expected}"
            )
        if type_ is Record or is_list is not batched or found is not None:
            raise RegistrationError(
                f"{name}: its parameter {parameter!r} cannot be filled; one parameter may be annotated "
                f"{expected}: id, key, headers, topic, partition, offset, timestamp and attempt of its record"
            )
        found = parameter
    return found


def _output_kinds(returned: Any, *, batched: bool) -> tuple[bool | None, list[Any]]:
    """Whether an event has a list of outputs, and the types of one output: A for `list[A | None]`.

    None if the annotation does not say: an array, a frame, a list beside something else, or no annotation.
    """
    if batched:
        if get_origin(returned) not in (list, Sequence):
            return None, []
        returned = get_args(returned)[0]
    kinds, several = _members(returned), False
    if any(map(is_list_type, kinds)):
        parts = get_args(kinds[0])
        several = bool(parts) and not _are_numbers(parts[0])
        if len(kinds) > 1 or not (several or get_origin(kinds[0]) is list):
            return None, []
        kinds = _members(parts[0]) if several else kinds
    elif Any in kinds:
        return None, []
    return several, [] if Output in kinds else kinds


def _leaves(type_: Any) -> list[Any]:
    """The classes in an annotation."""
    parts = get_args(type_)
    return [leaf for part in parts for leaf in _leaves(part)] if parts else [type_]


def _members(type_: Any) -> list[Any]:
    """The members of a union, or the type itself, without those that are no output: None and `Reject`."""
    members = get_args(type_) if get_origin(type_) in (Union, types.UnionType) else (type_,)
    return [member for member in members if member not in (type(None), None, Reject)]


def _are_numbers(type_: Any) -> bool:
    """Whether a list of these is one output, a row of numbers."""
    return set(_members(type_)) <= {bool, int, float} or get_origin(type_) is list or hasattr(type_, "tolist")


def _outputs(
    name: str, to: object, returned: Any, kinds: Sequence[Any], arguments: HandlerArguments
) -> dict[str, Any]:
    """The topics of the outputs, with the types of those of each."""
    if to is None:
        if "output_type" in arguments:
            raise RegistrationError(
                f"{name}: a consumer has no output; remove output_type=..., or add to=..."
            )
        if returned not in (Any, None, type(None)) and (kinds or Reject not in _leaves(returned)):
            raise RegistrationError(
                f"{name}: a consumer has no output; make it a predictor, with to=..., or annotate it -> None"
            )
        return {}
    if isinstance(to, str) and to:
        return {to: arguments.get("output_type", kinds[0] if len(kinds) == 1 else Any)}
    if "output_type" in arguments:
        raise RegistrationError(f"{name}: to=... has the types of the outputs; remove output_type=...")
    return _typed_topics(name, to, kinds)


def _typed_topics(name: str, to: object, kinds: Sequence[Any]) -> dict[str, Any]:
    if not isinstance(to, Mapping) or not to or not all(isinstance(t, str) and t for t in to):
        raise RegistrationError(
            f"{name}: to={to!r} is not possible; it is the name of a topic, or for several topics a dict of "
            'them with the types of their outputs: to={"rides.duration": DurationPredicted, "audit": Audit}'
        )
    for topic, type_ in to.items():
        if not isinstance(type_, type) or is_typeddict(type_) or fields_of(type_) is None:
            raise RegistrationError(
                f"{name}: to={{{topic!r}: {type_!r}}} is not possible: outputs are told apart by class, "
                "and have fields (a msgspec.Struct, a dataclass, a pydantic model)"
            )
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, tuple(to.values()))):
            raise RegistrationError(
                f"{name}: it may return a {getattr(kind, '__name__', kind)}, for which to=... has no topic; "
                f"it has {', '.join(f'{topic!r} for {type_.__name__}' for topic, type_ in to.items())}"
            )
    return dict(to)
