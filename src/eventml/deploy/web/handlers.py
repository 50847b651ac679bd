"""The predictors of a bus as a web service runs them, and the topics that it may publish to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from eventml.bus import Bus
from eventml.deploy.web.request_backend import RequestDecoder
from eventml.errors import ConfigError
from eventml.runtime import LoadedHandler, load_handlers, output_event_type

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AsyncExitStack

    from eventml.handlers import Handler


def served_predictors(bus: Bus, only: Sequence[str] = ()) -> list[Handler]:
    """Return the predictors that are served, with their options for a web service.

    A result that comes later than `web.timeout` helps no client, so that time also limits a call and the
    search for the bad events of a batch. A plain function of single events gets no such limit: it would cost
    a thread for each event.

    Args:
        bus: The bus of the predictors.
        only: Names of the predictors to serve; empty for all.

    Raises:
        ConfigError: `only` names something else than a predictor, or the bus has no predictors.
    """
    predictors = {
        name: bus.configured_handler(name) for name, handler in bus.handlers.items() if handler.to is not None
    }
    unknown = [name for name in only if name not in predictors]
    if unknown or not predictors:
        error = f"no predictor is named {unknown[0]!r}" if unknown else f"bus {bus.name!r} has no predictor"
        raise ConfigError(f"{error}; there are: {', '.join(predictors) or 'none'}")
    return [_for_requests(predictors[name], bus.settings.web.timeout) for name in only or predictors]


def _for_requests(handler: Handler, limit: float) -> Handler:
    options = handler.options
    limited = handler.batched or handler.is_async
    return replace(
        handler,
        options=replace(
            options,
            group=handler.name,
            retries=0,
            timeout=min(options.timeout or limit, limit) if limited else options.timeout,
            bisect_for=min(options.bisect_for, limit),
            dedupe_window=None,  # a client that repeats a request gets an answer again
        ),
    )


async def load_predictors(
    stack: AsyncExitStack, bus: Bus, predictors: Sequence[Handler]
) -> list[LoadedHandler]:
    """Load the models and enter the lifespans of predictors; the stack leaves the lifespans.

    Raises:
        ModelError: a model cannot be loaded.
        RegistrationError: a handler has a parameter without a value.
    """
    loaded = await load_handlers(stack, predictors, bus.lifespans, ["json"] * len(predictors))
    return [replace(one, decoder=RequestDecoder(Any)) for one in loaded]


def topic_types(bus: Bus) -> dict[str, Any]:
    """Return the topics that the bus knows, and the type of the events of each; Any if it is unknown.

    The type is that of the topic's description, else that of a handler that reads it, else that of a handler
    that writes it.
    """
    handlers = bus.handlers.values()
    described = ((name, bus.configured_topic(name).event_type) for name in (*bus.topics, *bus.settings.topic))
    read = ((handler.topic, handler.event_type) for handler in handlers)
    topics_read = {handler.topic for handler in handlers}
    written = (
        (handler.to, output_event_type(handler))
        for handler in handlers
        if handler.to is not None and handler.to not in topics_read
    )
    types: dict[str, Any] = {}
    for source in (described, read, written):
        _add_missing(types, source)
    return types


def _add_missing(types: dict[str, Any], source: Iterable[tuple[str, Any]]) -> None:
    for topic, event_type in source:
        if types.get(topic, Any) is Any:
            types[topic] = event_type
