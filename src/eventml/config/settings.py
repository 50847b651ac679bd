"""The settings and their limits. Durations are seconds, as floats."""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, structs

from eventml.codec import Format
from eventml.config.urls import HIDDEN, is_secret, redact
from eventml.handler_options import AtLeastOne, PositiveSeconds, Seconds, Text, configurable_options

Port = Annotated[int, Meta(ge=0, le=65_535)]


class TopicSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings in `[topic."<name>"]`. None means the value in the code, or else the backend's default.

    Attributes:
        id_field: Field of an event that is its id.
        codec: Format that events are encoded in. Decoding uses each record's own content type.
        partitions: Number of partitions to create the topic with.
        replication: Number of replicas to create the topic with.
        retention: How long records are kept, in seconds.
    """

    id_field: Text | None = None
    codec: Format | None = None
    partitions: AtLeastOne | None = None
    replication: AtLeastOne | None = None
    retention: PositiveSeconds | None = None


class WebSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings in `[web]`, of the web service. Limits count for each worker by itself.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 chooses a free one.
        max_body: Maximum size of a request's body, in bytes.
        max_events: Maximum number of events in one request.
        max_requests: Maximum number of requests in flight.
        max_waiting: Maximum number of events that wait for one predictor.
        timeout: Time limit for answering a request, in seconds.
        receive_timeout: Time limit for receiving a request's headers, and again for its body, in seconds.
        keep_alive: How long a connection stays open without a request, in seconds.
    """

    host: Text = "127.0.0.1"
    port: Port = 8000
    max_body: AtLeastOne = 1_048_576
    max_events: AtLeastOne = 1000
    max_requests: AtLeastOne = 1000
    max_waiting: AtLeastOne = 10_000
    timeout: PositiveSeconds = 30.0
    receive_timeout: PositiveSeconds = 10.0
    keep_alive: PositiveSeconds = 30.0


class BackendSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The chosen backend. Its repr hides the password; `url` itself contains it.

    Attributes:
        url: The backend's URL without its query, which has become part of `options`.
        options: An instance of the backend module's own `Settings`, validated.
    """

    url: str = "memory://"
    options: msgspec.Struct

    @property
    def scheme(self) -> str:
        """The URL's scheme in lower case, by which `find_backend` finds the backend module."""
        return self.url.partition("://")[0].lower()

    def __repr__(self) -> str:
        return f"BackendSettings(url={redact(self.url)!r}, options={self._safe_options()})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # rich would otherwise use msgspec's fields, password included.
        return [("url", redact(self.url)), ("options", self._safe_options())]

    def _safe_options(self) -> str:
        fields = self.options.__struct_fields__
        shown = (f"{field}={_safe(field, getattr(self.options, field))}" for field in fields)
        return f"{type(self.options).__name__}({', '.join(shown)})"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a process.

    Attributes:
        backend: The backend.
        consumer: By handler name, for predictors and consumers: the options to replace in `HandlerOptions`,
            and `model`, the path of a model to use in place of the decorator's.
        topic: By topic name.
        web: The web service.
        drain: How long a stopping worker has to finish what is in flight, in seconds.
        tracing: Whether to trace with OpenTelemetry. None means: if the app has configured OpenTelemetry.
    """

    backend: BackendSettings
    consumer: dict[str, dict[str, Any]] = {}
    topic: dict[str, TopicSettings] = {}
    web: WebSettings = WebSettings()
    drain: Seconds = 30.0
    tracing: bool | None = None


def _types(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: field.type for field in structs.fields(struct)}


PLAIN_SETTINGS: Final[Mapping[str, Any]] = MappingProxyType(
    {name: kind for name, kind in _types(Settings).items() if name in ("drain", "tracing")}
)
"""The settings that stand alone, with their types."""

SECTIONS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "consumer": MappingProxyType({**configurable_options(), "model": Text}),
        "topic": MappingProxyType(_types(TopicSettings)),
        "web": MappingProxyType(_types(WebSettings)),
    }
)
"""The settings of each section but `[backend]`, with their types. `consumer` and `topic` are by name."""


def _safe(field: str, value: object) -> str:
    if is_secret(field):
        return HIDDEN
    return repr(redact(value) if isinstance(value, str) else value)
