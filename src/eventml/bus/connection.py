"""The connection of a bus: its backend, its producer and its tracer, as the settings choose them."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from eventml import config
from eventml.backends.base import Backend
from eventml.bus.declarations import Topic
from eventml.handlers import Handler
from eventml.producer import Producer, open_producer
from eventml.runtime import Tracing, find_tracing, output_event_type

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

_SYSTEMS: Final = {"rediss": "redis", "unix": "redis"}
"""OpenTelemetry's name of the messaging system by URL scheme, if it is not the scheme itself."""


@asynccontextmanager
async def connect(
    source: str,
    settings: config.Settings,
    topics: Mapping[str, Topic],
    handlers: Mapping[str, Handler],
    backend: Backend | None = None,
) -> AsyncIterator[tuple[Backend, Producer]]:
    """Connect to the configured backend, and open a producer on it. Both are closed with the context.

    Args:
        source: Name of the bus, sent as the source of its events.
        settings: All settings.
        topics: The declared topics.
        handlers: The registered handlers, whose output types are those of replies to requests.
        backend: A connected backend, in place of the configured one. It is not closed.

    Raises:
        ConfigError: The backend refuses its settings.
        UnavailableError: The broker cannot be reached.
    """
    configured = {
        name: topics.get(name, Topic()).configured(settings.topic.get(name))
        for name in {*topics, *settings.topic}
    }

    def output_type_of(topic: str, predictor: str) -> Any:
        handler = handlers.get(predictor)
        if handler is None or handler.to is None or handler.topic != topic:
            return Any
        declared = topics.get(handler.to, Topic()).event_type
        return output_event_type(handler) if declared is Any else declared

    async with AsyncExitStack() as stack:
        if backend is None:
            module = config.find_backend(settings.backend.scheme)
            opened = module.open(settings.backend.url, settings.backend.options)
            backend = await stack.enter_async_context(opened)
        producer = open_producer(
            backend,
            source=source,
            id_fields={name: topic.id_field for name, topic in configured.items() if topic.id_field},
            formats={name: topic.codec for name, topic in configured.items()},
            output_type_of=output_type_of,
            tracing=tracer(settings),
        )
        yield backend, await stack.enter_async_context(producer)


def tracer(settings: config.Settings) -> Tracing | None:
    """The tracer, or None if tracing is off (setting `tracing`).

    Raises:
        MissingExtraError: Tracing is on, and OpenTelemetry is not installed.
    """
    scheme = settings.backend.scheme
    return find_tracing(settings.tracing, _SYSTEMS.get(scheme, scheme))
