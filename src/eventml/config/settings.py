"""What can be set, and its limits. Seconds are floats."""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from eventml.backends.base import Start
from eventml.config.redaction import HIDDEN, hidden, redact

Text = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=0)]
AtLeastOne = Annotated[int, Meta(ge=1)]
AtLeastThree = Annotated[int, Meta(ge=3)]
Seconds = Annotated[float, Meta(ge=0)]
SomeSeconds = Annotated[float, Meta(gt=0)]
Port = Annotated[int, Meta(ge=0, le=65_535)]


class HandlerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `[consumer.<handler>]` says of a predictor or a consumer. None is "as the code says".

    Attributes:
        max_batch: The most events in one call.
        max_wait: How long to wait for a batch to fill, in seconds.
        timeout: How long one call may take, in seconds.
        ordered: Whether events with the same key are handled in their order.
        group: The consumer group.
        start: Where a group that has never read the topic begins.
        model: The path of a model to use in place of the decorator's.
        retries: How often a failing event is tried again before it is set aside.
        backoff: The upper bound of the first wait before a retry, in seconds.
        max_backoff: The upper bound of any such wait, in seconds.
        bisect_for: How long to look for the bad events of a failed batch, in seconds.
        max_deliveries: How often an event may be delivered and not finished before it is set aside.
        max_age: How old an event may be when its turn comes, in seconds.
        when_stale: What becomes of an older one.
        dedupe_window: Among how many finished ids an event's is looked for, to pass over a repeat.
    """

    max_batch: AtLeastOne | None = None
    max_wait: Seconds | None = None
    timeout: SomeSeconds | None = None
    ordered: bool | None = None
    group: Text | None = None
    start: Start | None = None
    model: Text | None = None
    retries: Count | None = None
    backoff: Seconds | None = None
    max_backoff: Seconds | None = None
    bisect_for: Seconds | None = None
    max_deliveries: AtLeastThree | None = None
    max_age: SomeSeconds | None = None
    when_stale: Literal["dead_letter", "drop"] | None = None
    dedupe_window: AtLeastOne | None = None


class TopicSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `[topic."<name>"]` says of a topic. None is "as the code says", or else the backend's default.

    Attributes:
        id_field: The event's field that becomes its id.
        codec: How its events are written. Reading goes by each record's own content type.
        partitions: How many to create the topic with.
        replication: How many copies to create it with.
        retention: How long its records are kept, in seconds.
    """

    id_field: Text | None = None
    codec: Literal["json", "msgpack"] | None = None
    partitions: AtLeastOne | None = None
    replication: AtLeastOne | None = None
    retention: SomeSeconds | None = None


class WebSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `[web]` says of the web service. Limits are each worker's own.

    Attributes:
        host: The address to listen on.
        port: The port to listen on; 0 is any that is free.
        max_body: The largest body of a request, in bytes.
        max_events: The most events in one request.
        max_requests: The most requests in hand at once.
        max_waiting: The most events that wait for one predictor.
        timeout: How long an answer may take, in seconds.
        receive_timeout: How long a request's headers, and then its body, may take to come, in seconds.
        keep_alive: How long a connection stays open without a request, in seconds.
    """

    host: Text = "127.0.0.1"
    port: Port = 8000
    max_body: AtLeastOne = 1_048_576
    max_events: AtLeastOne = 1000
    max_requests: AtLeastOne = 1000
    max_waiting: AtLeastOne = 10_000
    timeout: SomeSeconds = 30.0
    receive_timeout: SomeSeconds = 10.0
    keep_alive: SomeSeconds = 30.0


class BackendSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The backend that was chosen. Its repr shows no password; `url` itself holds it.

    Attributes:
        url: Where it is. Its scheme chose the backend; its query has moved into `options`.
        options: An instance of the backend module's own `Settings`, validated.
    """

    url: str = "memory://"
    options: msgspec.Struct

    @property
    def scheme(self) -> str:
        """What `find_backend` finds its module by."""
        return self.url.partition("://")[0].lower()

    def __repr__(self) -> str:
        return f"BackendSettings(url={redact(self.url)!r}, options={self._safe_options()})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # msgspec's own would show rich the password.
        return [("url", redact(self.url)), ("options", self._safe_options())]

    def _safe_options(self) -> str:
        fields = self.options.__struct_fields__
        shown = (f"{field}={_shown(field, getattr(self.options, field))}" for field in fields)
        return f"{type(self.options).__name__}({', '.join(shown)})"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that is set, from all sources.

    Attributes:
        backend: Where the events are.
        consumer: By the handler's name; only those of which something is said.
        topic: By the topic's name; only those of which something is said.
        web: The web service.
        drain: How long a worker that stops has to finish what is in hand, in seconds.
        tracing: Whether OpenTelemetry is told what becomes of events. None is "if the app has configured it".
    """

    backend: BackendSettings
    consumer: dict[str, HandlerSettings] = {}
    topic: dict[str, TopicSettings] = {}
    web: WebSettings = WebSettings()
    drain: Seconds = 30.0
    tracing: bool | None = None


def _shown(field: str, value: object) -> str:
    if hidden(field):
        return HIDDEN
    return repr(redact(value) if isinstance(value, str) else value)
