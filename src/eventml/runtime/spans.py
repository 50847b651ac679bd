"""Tracing with OpenTelemetry: spans as its messaging conventions define them, context in W3C's format.

Records carry the context in the headers of CloudEvents' distributed tracing extension: `ce_traceparent` and
`ce_tracestate`. Where these are missing, plain `traceparent` and `tracestate` are read, which
instrumentations of other clients write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from eventml.handlers import Handler
from eventml.models import Model
from eventml.runtime.failures.exceptions import describe

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_CE_PREFIX: Final = "ce_"
_NAMES: Final = sorted(_PROPAGATOR.fields)
_KINDS: Final = {"publish": SpanKind.PRODUCER, "request": SpanKind.CLIENT}


class Spans:
    """Implements `Tracing` with the tracer provider of the app; `system` is as in `find_tracing`."""

    def __init__(self, system: str) -> None:
        self._tracer = trace.get_tracer("eventml")
        self._system = system

    @contextmanager
    def sending(self, operation: str, topic: str, id_: str | None = None) -> Iterator[SendingSpan]:
        attributes = _attributes(self._system, topic, "send", operation)
        if id_ is not None:
            attributes["messaging.message.id"] = id_
        name, kind = f"{operation} {topic}", _KINDS[operation]
        with _current_span(self._tracer, name, kind=kind, attributes=attributes) as span:
            yield SendingSpan(span)

    def handling(self, handler: Handler, model: Model | None) -> HandlerSpans:
        return HandlerSpans(self._tracer, self._system, handler, model)


class SendingSpan:
    """Implements `Sending`."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self.headers: Mapping[str, str] = MappingProxyType(_headers(span.get_span_context()))

    def wrote(self, records: int) -> None:
        self._span.set_attribute("messaging.batch.message_count", records)


class HandlerSpans:
    """Implements `HandlerTracing`.

    Each call for a batch is one span. If all its inputs have the same context (a single event, or the events
    of one `publish_many`), the span continues that trace; otherwise it begins a new one, with a link to each
    context.
    """

    def __init__(self, tracer: trace.Tracer, system: str, handler: Handler, model: Model | None) -> None:
        self._tracer = tracer
        self._topic = handler.topic
        self._system = system
        self._attributes = {
            "messaging.consumer.group.name": handler.options.group,
            "eventml.handler": handler.name,
        }
        if model is not None:
            self._attributes |= {"eventml.model": model.name, "eventml.model.version": model.version}

    @contextmanager
    def processing(self, inputs: Sequence[Mapping[str, str]]) -> Iterator[Callable[[Exception], None]]:
        contexts = [_context(headers) for headers in _distinct(inputs).values()]
        valid = [context for context in contexts if context is not None]
        # Never the current context: a span around the worker is not the parent of its batches.
        parent = _within(valid[0]) if len(contexts) == 1 and valid else Context()
        attributes = _attributes(self._system, self._topic, "process", "process") | self._attributes
        with _current_span(
            self._tracer,
            f"process {self._topic}",
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes={**attributes, "messaging.batch.message_count": len(inputs)},
            links=[Link(context) for context in valid],
        ) as span:
            yield partial(_record, span)

    def output_headers(
        self, headers: Mapping[str, str], inputs: Sequence[Mapping[str, str]]
    ) -> Sequence[Mapping[str, str]]:
        batch = trace.get_current_span().get_span_context()
        made: dict[int, Mapping[str, str]] = {}
        for key, found in _distinct(inputs).items():
            context = _context(found)
            # The parent of an output is the batch's span if that is in the input's trace.
            if context is None or context.trace_id == batch.trace_id:
                context = batch
            made[key] = MappingProxyType({**headers, **_headers(context)})
        return [made[id(found)] for found in inputs]

    def dead_letter(self, input: Mapping[str, str], error: Exception, topic: str) -> None:  # noqa: A002
        context = _context(input)
        span = self._tracer.start_span(
            f"dead_letter {topic}",
            context=Context() if context is None else _within(context),
            kind=SpanKind.PRODUCER,
            attributes=_attributes(self._system, topic, "send", "dead_letter") | self._attributes,
        )
        _record(span, error)
        span.end()


def _distinct(inputs: Sequence[Mapping[str, str]]) -> dict[int, Mapping[str, str]]:
    """The distinct mappings, by identity: records of one producer share theirs."""
    return {id(headers): headers for headers in inputs}


def _context(headers: Mapping[str, str]) -> SpanContext | None:
    """The trace context in a record's headers; None if there is none or it is not valid."""
    for prefix in (_CE_PREFIX, ""):
        if f"{prefix}traceparent" in headers:
            carrier = {name: headers[prefix + name] for name in _NAMES if prefix + name in headers}
            found = trace.get_current_span(_PROPAGATOR.extract(carrier, Context())).get_span_context()
            return found if found.is_valid else None
    return None


def _within(context: SpanContext) -> Context:
    return trace.set_span_in_context(NonRecordingSpan(context), Context())


def _headers(context: SpanContext) -> dict[str, str]:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, _within(context))
    return {_CE_PREFIX + name: value for name, value in carrier.items()}


def _attributes(system: str, topic: str, type_: str, operation: str) -> dict[str, Any]:
    return {
        "messaging.system": system,
        "messaging.destination.name": topic,
        "messaging.operation.type": type_,
        "messaging.operation.name": operation,
    }


@contextmanager
def _current_span(tracer: trace.Tracer, name: str, **options: Any) -> Iterator[Span]:
    """A span in which an exception sets `error.type`; OpenTelemetry itself records the rest."""
    with tracer.start_as_current_span(name, **options) as span:
        try:
            yield span
        except Exception as exc:
            span.set_attribute("error.type", type(exc).__qualname__)
            raise


def _record(span: Span, error: Exception) -> None:
    span.record_exception(error)
    span.set_status(Status(StatusCode.ERROR, describe(error)))
    span.set_attribute("error.type", type(error).__qualname__)
