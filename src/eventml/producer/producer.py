"""Writing to a bus, and asking over it, from coroutines."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import asynccontextmanager
from itertools import count, islice, repeat
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import anyio

from eventml import records
from eventml.codec import Encoder
from eventml.errors import OutputError, RequestTimeoutError
from eventml.producer.coalescing import Coalescer, coalescing
from eventml.producer.requests import Requester, requesting
from eventml.records import Record
from eventml.runtime import predictor_of, read_reply, reply_topic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from eventml.backends.base import Backend
    from eventml.codec import Format
    from eventml.runtime import Tracing


KeyOf = Callable[[Any], str | bytes | None]
"""Gives an event's key; None where it has none."""

OutputTypeOf = Callable[[str, str], Any]

_WRITE = 1_000  # records in one write of publish_many: what a caller may hold in memory


class Producer:
    """Publishes events to a backend. Made by `producing`.

    An event's id is the one given, else its topic's `id_field`, else this producer's prefix and a counter.
    """

    def __init__(
        self,
        backend: Backend,
        coalescer: Coalescer,
        requester: Requester,
        *,
        source: str,
        id_fields: Mapping[str, str],
        formats: Mapping[str, Format],
        output_type_of: OutputTypeOf,
        tracing: Tracing | None = None,
    ) -> None:
        self._backend = backend
        self._coalescer = coalescer
        self._requester = requester
        self._output_type_of = output_type_of
        self._tracing = tracing
        self._source = source
        self._id_fields = id_fields
        self._formats = formats
        self._encoders = {"json": Encoder("json"), "msgpack": Encoder("msgpack")}
        self._headers: dict[str, Mapping[str, str]] = {}
        self._request_headers: dict[tuple[str, str | None], Mapping[str, str]] = {}
        self._prefix = secrets.token_hex(6)
        self._counter = count(1)

    async def publish(
        self,
        topic: str,
        event: Any,
        *,
        key: str | bytes | None = None,
        id: str | None = None,  # noqa: A002 - CloudEvents' word
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Publish one event. Returns when the broker has it. Concurrent calls share one write.

        Args:
            topic: Where to.
            event: Anything msgspec encodes.
            key: Events of one key keep their order, where the backend keeps any.
            id: Unique among the topic's events.
            headers: Further CloudEvents attributes (`ce_subject`) or headers.

        Raises:
            OutputError: the event cannot be encoded, or lacks its topic's id field.
            PublishError: the broker refused it, or has no room for it (FullError).
            UnavailableError: the broker cannot be reached; the event may or may not have arrived.
        """
        [record] = self._records(topic, [event], [key], self._ids(topic, [event]) if id is None else [id])
        if self._tracing is None:
            await self._coalescer.publish(_with(record, headers) if headers else record)
            return
        with self._tracing.sending("publish", topic, record.id) as sending:
            await self._coalescer.publish(_with(record, {**sending.headers, **(headers or {})}))

    async def publish_many(self, topic: str, events: Iterable[Any], *, key: KeyOf | None = None) -> int:
        """Publish many events in few writes, in their order. Returns how many there were.

        The events are drawn as they are written, so an endless generator is held back by a full
        topic. Should a write fail, those before it have been published.

        Args:
            topic: Where to.
            events: What to publish.
            key: Gives an event's key.

        Raises:
            OutputError, PublishError, UnavailableError: as `publish`.
        """
        if self._tracing is None:
            return await self._publish_all(topic, events, key)
        with self._tracing.sending("publish", topic) as sending:
            published = await self._publish_all(topic, events, key, sending.headers)
            sending.wrote(published)
            return published

    async def _publish_all(
        self, topic: str, events: Iterable[Any], key: KeyOf | None, headers: Mapping[str, str] | None = None
    ) -> int:
        published, stream = 0, iter(events)
        shared = self._headers_of(topic)
        if headers:
            shared = MappingProxyType({**shared, **headers})
        while chunk := list(islice(stream, _WRITE)):
            keys = repeat(None) if key is None else map(key, chunk)
            await self._backend.publish(self._records(topic, chunk, keys, self._ids(topic, chunk), shared))
            published += len(chunk)
        return published

    async def request(
        self,
        topic: str,
        event: Any,
        *,
        timeout: float = 10.0,  # noqa: ASYNC109 - it is an answer's, and the error says what to look at
        predictor: str | None = None,
        key: str | bytes | None = None,
        output_type: Any = None,
    ) -> Any:
        """Publish one event and wait for what a predictor makes of it.

        The event takes the way of any other: its prediction goes to the predictor's own topic too, and
        a failed one to the dead letters. Its id is always a new one, whatever the topic's `id_field`:
        who asks twice gets two answers. An answer that comes after the timeout is dropped.

        Args:
            topic: Where predictors read.
            event: As for `publish`.
            timeout: How long to wait for the answer, in seconds, publishing included.
            predictor: The one that is to answer; by default the first that does.
            key: As for `publish`.
            output_type: What to decode the answer to. By default the type that the predictor is
                annotated with, where this bus has it registered, else plain Python.

        Returns:
            The prediction; None where the predictor gave no output.

        Raises:
            PredictionError: the predictor failed on this event; says why.
            RequestTimeoutError: there was no answer in time.
            DecodeError: the answer is not of that type.
            OutputError, PublishError, UnavailableError: as `publish`.
        """
        headers = self._request_headers.get((topic, predictor))
        if headers is None:
            headers = self._make_request_headers(topic, predictor)
        value = self._encoder(topic).encode(event)
        request = Record(topic, value, _encoded(key), self._next_id(), headers)
        if self._tracing is None:
            return await self._ask(request, timeout, predictor, output_type)
        with self._tracing.sending("request", topic, request.id) as sending:
            return await self._ask(_with(request, sending.headers), timeout, predictor, output_type)

    async def _ask(
        self,
        request: Record,
        timeout: float,  # noqa: ASYNC109 - as above
        predictor: str | None,
        output_type: Any,
    ) -> Any:
        topic = request.topic
        with anyio.move_on_after(timeout) as scope:
            reply = await self._requester.ask(request, self._coalescer.publish)
            if output_type is None:
                output_type = self._output_type_of(topic, predictor_of(reply.record))
            return read_reply(reply, output_type)
        assert scope.cancelled_caught  # noqa: S101 - for the type checker: a scope ends by returning or here
        whose = f"predictor {predictor!r}" if predictor else "a predictor"
        raise RequestTimeoutError(
            f"no answer to request {request.id} on {topic!r} within {timeout:g} s. Look whether a worker of "
            f"{whose} that reads {topic!r} is running, and how far behind it is (eventml lag); or raise "
            "timeout. An answer that comes now is dropped"
        )

    def _records(
        self,
        topic: str,
        events: Sequence[Any],
        keys: Iterable[str | bytes | None],
        ids: Iterable[str],
        headers: Mapping[str, str] | None = None,
    ) -> list[Record]:
        encoder = self._encoder(topic)
        headers = headers or self._headers_of(topic)
        return [
            Record(topic, value, key.encode() if isinstance(key, str) else key, id_, headers)
            for value, key, id_ in zip(encoder.encode_all(events), keys, ids, strict=False)
        ]

    def _encoder(self, topic: str) -> Encoder:
        return self._encoders[self._formats.get(topic, "json")]

    def _ids(self, topic: str, events: Sequence[Any]) -> list[str]:
        field = self._id_fields.get(topic)
        if field is not None:
            return [str(_get(event, field, topic)) for event in events]
        prefix = self._prefix
        return [f"{prefix}-{number}" for number in islice(self._counter, len(events))]

    def _next_id(self) -> str:
        return f"{self._prefix}-{next(self._counter)}"

    def _headers_of(self, topic: str) -> Mapping[str, str]:
        headers = self._headers.get(topic)
        if headers is None:
            headers = self._headers[topic] = MappingProxyType(
                {
                    records.SPEC_VERSION: "1.0",
                    records.TYPE: topic,
                    records.SOURCE: self._source,
                    records.CONTENT_TYPE: self._encoder(topic).content_type,
                }
            )
        return headers

    def _make_request_headers(self, topic: str, predictor: str | None) -> Mapping[str, str]:
        headers = {**self._headers_of(topic), records.REPLY_TO: reply_topic(topic)}
        if predictor is not None:
            headers[records.REPLY_FROM] = predictor
        self._request_headers[topic, predictor] = MappingProxyType(headers)
        return self._request_headers[topic, predictor]


def _with(record: Record, headers: Mapping[str, str]) -> Record:
    return Record(record.topic, record.value, record.key, record.id, {**record.headers, **headers})


def _encoded(key: str | bytes | None) -> bytes | None:
    return key.encode() if isinstance(key, str) else key


def _get(event: Any, field: str, topic: str) -> Any:
    try:
        return event[field] if isinstance(event, dict) else getattr(event, field)
    except (KeyError, AttributeError) as exc:
        raise OutputError(f"topic.{topic}.id_field: the event has no field {field!r}") from exc


@asynccontextmanager
async def producing(
    backend: Backend,
    *,
    source: str,
    id_fields: Mapping[str, str],
    formats: Mapping[str, Format],
    output_type_of: OutputTypeOf,
    tracing: Tracing | None = None,
) -> AsyncIterator[Producer]:
    """A producer on a connected backend. Leaving it waits for the writes that were begun.

    Args:
        backend: Connected.
        source: The bus's name, which events carry as their source.
        id_fields: By topic, the field that is an event's id.
        formats: By topic, how its events are encoded.
        output_type_of: What the events are that a predictor of a topic makes, by both names.
        tracing: Is told of each call; None where nobody is.
    """
    async with coalescing(backend) as coalescer, requesting(backend) as requester:
        yield Producer(
            backend,
            coalescer,
            requester,
            source=source,
            id_fields=id_fields,
            formats=formats,
            output_type_of=output_type_of,
            tracing=tracing,
        )
