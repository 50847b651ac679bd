"""The predictors of a bus as a web service runs them, and the topics that it may publish to."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from eventml.errors import ConfigError
from eventml.runtime import enter_lifespans, load_handler, output_event_type

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AsyncExitStack

    from eventml.bus import Bus
    from eventml.handlers import Handler
    from eventml.runtime import LoadedHandler

log = logging.getLogger("eventml")


def predictors(bus: Bus, only: Sequence[str] = ()) -> list[Handler]:
    """The predictors that are asked, as configuration has them, and as somebody waits for each answer.

    What ran past the time limit helps nobody, so that bounds a call, and the search for a batch's bad
    events. A plain function of single events is left as it is: a limit would cost it a thread an event.

    Raises:
        ConfigError: one of `only` is no predictor, or there are none.
    """
    there = {
        name: bus.configured_handler(name) for name, handler in bus.handlers.items() if handler.to is not None
    }
    unknown = [name for name in only if name not in there]
    if unknown or not there:
        said = f"no predictor is named {unknown[0]!r}" if unknown else f"bus {bus.name!r} has no predictor"
        raise ConfigError(f"{said}; there are: {', '.join(there) or 'none'}")
    return [_waited_for(there[name], bus.settings.web.timeout) for name in only or there]


def _waited_for(handler: Handler, limit: float) -> Handler:
    options = handler.options
    bounded = handler.batched or handler.is_async
    timeout = min(options.timeout or limit, limit) if bounded else options.timeout
    options = replace(
        options,
        group=handler.name,
        retries=0,
        timeout=timeout,
        bisect_for=min(options.bisect_for, limit),
        dedupe_window=None,  # who asks twice is answered twice
    )
    return replace(handler, options=options)


async def loaded_handlers(
    stack: AsyncExitStack, bus: Bus, handlers: Sequence[Handler]
) -> list[LoadedHandler]:
    """The handlers with their models and lifespans, which the stack leaves. Answers are JSON.

    Raises:
        ModelError: a model cannot be loaded.
        RegistrationError: a handler has a parameter that nothing gives it.
    """
    resources = await enter_lifespans(stack, handlers, bus.lifespans)
    return [await load_handler(handler, resources, "json") for handler in handlers]


def topics(bus: Bus) -> dict[str, Any]:
    """The topics that the bus knows, and the type of each one's events: as said, or as a handler has it."""
    found: dict[str, Any] = {}
    for handler in bus.handlers.values():
        if handler.to is not None:
            _note(found, handler.to, output_event_type(handler))
    for handler in bus.handlers.values():  # what is read decides
        found.pop(handler.topic, None)
    for handler in bus.handlers.values():
        _note(found, handler.topic, handler.event_type)
    for name in (*bus.topics, *bus.settings.topic):
        kind = bus.configured_topic(name).event_type
        found[name] = kind if kind is not Any else found.get(name, Any)
    return found


def _note(found: dict[str, Any], topic: str, kind: Any) -> None:
    if found.get(topic, Any) is Any:
        found[topic] = kind
