"""The topics and the producer of a bus, from its declarations and its settings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import msgspec

from eventml import config
from eventml.backends.base import Backend
from eventml.codec import Decoder, Format
from eventml.errors import RegistrationError
from eventml.event_types import check_event_type
from eventml.handlers import Handler
from eventml.producer import Producer
from eventml.runtime import Tracing, find_tracing, output_event_types

SYSTEMS: Final = {"rediss": "redis", "unix": "redis"}
"""OpenTelemetry's name of the messaging system by URL scheme, if it is not the scheme itself."""


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """A topic as `Bus.topic` declares it.

    Attributes:
        event_type: Type of its events, for consumers without a handler such as `eventml tail`.
        id_field: Field of an event that is its id.
        codec: Format that its events are encoded in. Decoding uses each record's own content type.
        strict: Whether a value must have its field's type. If not, the text `"1"` fills an integer's field.
            Models of pydantic decide for themselves.

    Raises:
        RegistrationError: Events cannot have this type.
    """

    event_type: Any = Any
    id_field: str | None = None
    codec: Format = "json"
    strict: bool = True

    def __post_init__(self) -> None:
        try:
            check_event_type(self.event_type)
        except TypeError as exc:
            raise RegistrationError(str(exc)) from exc


@asynccontextmanager
async def connect(
    source: str,
    settings: config.Settings,
    topics: Mapping[str, Topic],
    handlers: Mapping[str, Handler],
    backend: Backend | None = None,
) -> AsyncIterator[Producer]:
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
        MissingExtraError: Tracing is on, and OpenTelemetry is not installed.
    """
    declared = {name: topic.event_type for name, topic in topics.items() if topic.event_type is not Any}
    output_types = {
        (handler.topic, handler.name): {
            topic: declared.get(topic, type_) for topic, type_ in output_event_types(handler).items()
        }
        for handler in handlers.values()
    }
    async with AsyncExitStack() as stack:
        scheme = settings.backend.scheme
        if backend is None:
            module = config.find_backend(scheme)
            opened = module.open(settings.backend.url, settings.backend.options)
            backend = await stack.enter_async_context(opened)
        producer = Producer(
            backend,
            source=source,
            id_fields={name: topic.id_field for name, topic in topics.items() if topic.id_field},
            formats={name: topic.codec for name, topic in topics.items()},
            output_types=output_types,
            tracing=tracer(settings),
        )
        yield await stack.enter_async_context(producer.running())


def handler_codecs(
    handlers: Sequence[Handler], topics: Mapping[str, Topic]
) -> list[tuple[Decoder, dict[str, Format]]]:
    """The decoder of each handler's events and the formats of its outputs, by topic."""
    default = Topic()
    return [
        (
            Decoder(handler.event_type, strict=topics.get(handler.topic, default).strict),
            {topic: topics.get(topic, default).codec for topic in handler.outputs},
        )
        for handler in handlers
    ]


def tracer(settings: config.Settings) -> Tracing | None:
    """The tracer for a backend with these settings; None if tracing is off.

    Raises:
        MissingExtraError: Tracing is on, and OpenTelemetry is not installed.
    """
    scheme = settings.backend.scheme
    return find_tracing(settings.tracing, SYSTEMS.get(scheme, scheme))
