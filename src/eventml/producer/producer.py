"""The producers: publish events and send requests, from coroutines and from blocking code."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from functools import cache
from itertools import count, islice, repeat
from types import MappingProxyType
from typing import Any, Literal, ParamSpec, Self, TypeVar

import anyio

from eventml import records
from eventml.backends.base import Backend
from eventml.codec import Encoder, Format, shorten
from eventml.errors import OutputError, RequestTimeoutError
from eventml.producer.coalescing import RECORDS_PER_WRITE, Coalescer
from eventml.producer.requests import Requester
from eventml.records import Record
from eventml.runtime import Tracing, predictor_of, read_reply, reply_topic

P = ParamSpec("P")
T = TypeVar("T")

KeyOf = Callable[[Any], str | bytes | None]
"""A function that returns an event's key, or None for no key."""


class Producer:
    """Publishes events to a backend and sends requests, while its context `running` is entered.

    An event's id is the `id` given, else the value of its topic's `id_field`, else a prefix of this producer
    and a counter.

    Args:
        source: Name of the bus, sent as the source of its events.
        id_fields: By topic, the field of an event that is its id.
        formats: By topic, the format that its events are encoded in; JSON for other topics.
        output_types: By topic and predictor, the types of its outputs by topic, for replies to requests.

    Attributes:
        backend: The connected backend.
        tracing: The tracer, or None if tracing is off.
        pid: The process that it belongs to. In a process forked from that one it cannot be used.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        source: str,
        id_fields: Mapping[str, str],
        formats: Mapping[str, Format],
        output_types: Mapping[tuple[str, str], Mapping[str, Any]],
        tracing: Tracing | None,
    ) -> None:
        self.backend = backend
        self._output_types = output_types
        self.tracing = tracing
        self.pid = os.getpid()
        self._source = source
        self._id_fields = id_fields
        self._formats = formats
        self._encoders = {"json": Encoder("json"), "msgpack": Encoder("msgpack")}
        self._headers = cache(self._make_headers)
        self._new_ids = map(f"{secrets.token_hex(6)}-{{}}".format, count(1))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Publish and request while the context is entered. Leaving it waits for writes in progress."""
        async with (
            Coalescer(self.backend).running() as self._coalescer,
            Requester(self.backend).running() as self._requester,
        ):
            yield self

    async def publish(
        self,
        topic: str,
        event: Any,
        *,
        key: str | bytes | None = None,
        id: str | None = None,  # noqa: A002 - the attribute's name in CloudEvents
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Publish one event. Returns when the broker has stored it. Concurrent calls share one write.

        Args:
            topic: Topic to publish to.
            event: A msgspec Struct, dataclass, dict, or anything else that msgspec encodes. None, with a key,
                says that there is no event of the key any more: a tombstone where the backend has these
                (`Capabilities.tombstones`), elsewhere `null`. A handler of `Event | None` gets None.
            key: Events with the same key keep their order, if the backend keeps an order per key.
            id: The event's id, unique within the topic.
            headers: Further CloudEvents attributes (such as `ce_subject`) or headers.

        Raises:
            OutputError: The event cannot be encoded, or has no value in its topic's id field; the topic, the
                key, the id or a header is not text.
            PublishError: The broker refused the event, or the topic is full (FullError).
            UnavailableError: The broker cannot be reached; the event may or may not have arrived.
            NotOpenError: The bus is not open.
        """
        if id is not None and not records.is_text(id):
            raise OutputError(f"an event's id is text, not {shorten(id)}")
        _check_headers(headers)
        [record] = self._records(topic, [event], [key], self._ids(topic, [event]) if id is None else [id])
        with self._sending("publish", topic, record.id) as sending:
            added = {**(sending.headers if sending else {}), **(headers or {})}
            await self._coalescer.publish(_with(record, added) if added else record)

    async def publish_many(
        self,
        topic: str,
        events: Iterable[Any],
        *,
        key: KeyOf | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Publish many events in few writes, in their order.

        The events are taken from the iterable as they are written, so a full topic holds an endless
        generator back. If a write fails, the events of earlier writes have been published.

        Args:
            topic: Topic to publish to.
            events: The events, as for `publish`.
            key: A function that returns an event's key.
            headers: As for `publish`, for all of them.

        Returns:
            The number of events published.

        Raises:
            OutputError: As for `publish`.
            PublishError: As for `publish`.
            UnavailableError: As for `publish`.
            NotOpenError: As for `publish`.
        """
        _check_headers(headers)
        with self._sending("publish", topic) as sending:
            published, stream = 0, iter(events)
            added = {**(sending.headers if sending else {}), **(headers or {})}
            shared = MappingProxyType({**self._headers(topic), **added}) if added else self._headers(topic)
            while chunk := list(islice(stream, RECORDS_PER_WRITE)):
                keys = repeat(None) if key is None else map(key, chunk)
                await self.backend.publish(self._records(topic, chunk, keys, self._ids(topic, chunk), shared))
                published += len(chunk)
            if sending:
                sending.wrote(published)
            return published

    async def request(
        self,
        topic: str,
        event: Any,
        *,
        timeout: float = 10.0,  # noqa: ASYNC109 - a cancel scope could not give the error its advice
        predictor: str | None = None,
        key: str | bytes | None = None,
        output_type: Any = None,
    ) -> Any:
        """Publish one event and wait for its prediction.

        The event is published like any other: its prediction also goes to the predictor's output topic, and
        if it fails it becomes a dead letter. It always gets a new id, whatever the topic's `id_field`, so
        that the same event requested twice gets two replies. A reply that arrives after the timeout is
        dropped.

        Args:
            topic: Topic that the predictor reads from.
            event: As for `publish`.
            timeout: How long to wait for the reply in seconds, including publishing.
            predictor: Name of the predictor to reply; by default the first one that does.
            key: As for `publish`.
            output_type: Type to decode the prediction to. By default the output type of the predictor, if it
                is registered on this bus, else plain Python objects.

        Returns:
            The prediction, or None if the predictor returned no output for the event.

        Raises:
            PredictionError: The predictor failed on this event; the message has the reason.
            RequestTimeoutError: No reply arrived in time.
            DecodeError: The reply does not fit the output type.
            OutputError: As for `publish`.
            PublishError: As for `publish`.
            UnavailableError: As for `publish`.
            NotOpenError: The bus is not open, or was closed before the reply arrived.
        """
        headers = self._headers(topic, predictor, request=True)
        [request] = self._records(topic, [event], [key], [next(self._new_ids)], headers)
        with self._sending("request", topic, request.id) as sending:
            if sending:
                request = _with(request, sending.headers)
            with anyio.move_on_after(timeout):
                reply = await self._requester.request(request, self._coalescer.publish)
                types = self._output_types.get((topic, predictor_of(reply.record)), {})
                return read_reply(reply, output_type, types)
            reader = f"predictor {predictor!r}" if predictor else "a predictor"
            here = (
                ""
                if self.backend.capabilities.shared
                else " in this process, as no other one reaches its bus"
            )
            raise RequestTimeoutError(
                f"no reply to request {request.id} on {topic!r} within {timeout:g} s. Check that a worker of "
                f"{reader} that reads {topic!r} is running{here}, and how large its lag is (eventml lag); or "
                "raise timeout. A reply that arrives later is dropped"
            )

    def _sending(
        self, operation: Literal["publish", "request"], topic: str, id_: str | None = None
    ) -> AbstractContextManager[Any]:
        """The span of a call, or None if tracing is off."""
        return nullcontext() if self.tracing is None else self.tracing.sending(operation, topic, id_)

    def _records(
        self,
        topic: str,
        events: Sequence[Any],
        keys: Iterable[str | bytes | None],
        ids: Iterable[str],
        headers: Mapping[str, str] | None = None,
    ) -> list[Record]:
        headers, encoder = headers or self._headers(topic), self._encoder(topic)
        values = encoder.encode_all(events)
        if self.backend.capabilities.tombstones and encoder.null in values:
            values = [records.TOMBSTONE if value == encoder.null else value for value in values]
        return [
            Record(topic, value, None if key is None else _encoded(key), id_, headers)
            for value, key, id_ in zip(values, keys, ids, strict=False)
        ]

    def _encoder(self, topic: str) -> Encoder:
        return self._encoders[self._formats.get(topic, "json")]

    def _ids(self, topic: str, events: Sequence[Any]) -> list[str]:
        field = self._id_fields.get(topic)
        if field is not None:
            return [str(_field_of(event, field, topic)) for event in events]
        return list(islice(self._new_ids, len(events)))

    def _make_headers(
        self, topic: str, predictor: str | None = None, *, request: bool = False
    ) -> Mapping[str, str]:
        if not (topic and records.is_text(topic)):
            raise OutputError(f"a topic's name is text, not {shorten(topic)}")
        headers = {
            records.SPEC_VERSION: "1.0",
            records.TYPE: topic,
            records.SOURCE: self._source,
            records.CONTENT_TYPE: self._encoder(topic).content_type,
        }
        if request:
            headers[records.REPLY_TO] = reply_topic(topic)
        if predictor is not None:
            headers[records.REPLY_FROM] = predictor
        return MappingProxyType(headers)


def _with(record: Record, headers: Mapping[str, str]) -> Record:
    return Record(record.topic, record.value, record.key, record.id, {**record.headers, **headers})


def _encoded(key: str | bytes) -> bytes:
    if not records.is_key(key):
        raise OutputError(f"an event's key is text or bytes, not {shorten(key)}")
    return key.encode() if isinstance(key, str) else key


def _check_headers(headers: Mapping[str, str] | None) -> None:
    if headers is not None and not records.are_headers(headers):
        raise OutputError(f"an event's headers are texts by name, not {shorten(headers)}")


def _field_of(event: Any, field: str, topic: str) -> Any:
    try:
        value = event[field] if isinstance(event, dict) else getattr(event, field)
    except (KeyError, AttributeError) as exc:
        raise OutputError(f"topic.{topic}.id_field: the event has no field {field!r}") from exc
    if value is None:
        raise OutputError(f"topic.{topic}.id_field: the event's {field!r} is None, and no id")
    return value
