"""Tracing: the spans of producers and handlers, if tracing is on.

The protocols here stand between them and OpenTelemetry. Where tracing is off there is None in their place,
which costs a batch one comparison. `spans.py` implements them, and is imported only where tracing is on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

from eventml.errors import MissingExtraError
from eventml.handlers import Handler
from eventml.models import Model

Operation = Literal["publish", "request"]


class Sending(Protocol):
    """A publish call that is being traced."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of its records: the trace context, `ce_traceparent` and `ce_tracestate`."""
        ...

    def wrote(self, records: int) -> None:
        """Record how many records were published."""
        ...


class Tracing(Protocol):
    """Records spans for a bus's producers and handlers."""

    def sending(
        self, operation: Operation, topic: str, id_: str | None = None
    ) -> AbstractContextManager[Sending]:
        """A span around one call that publishes to a topic, one record if `id_` is given.

        An exception in it is recorded.
        """
        ...

    def handling(self, handler: Handler, model: Model | None) -> HandlerTracing:
        """The tracing of one handler."""
        ...


class HandlerTracing(Protocol):
    """Records spans for one handler's batches. An input is identified by its record's headers."""

    def processing(
        self, inputs: Sequence[Mapping[str, str]]
    ) -> AbstractContextManager[Callable[[Exception], None]]:
        """A span around one call for a batch. An exception in it is recorded.

        It yields a function that records the failure of a single event.
        """
        ...

    def output_headers(
        self, headers: Mapping[str, str], inputs: Sequence[Mapping[str, str]]
    ) -> Sequence[Mapping[str, str]]:
        """For each input, `headers` with the trace context for its output. To be called inside `processing`.

        Inputs that share a mapping share the result.
        """
        ...

    def dead_letter(self, input: Mapping[str, str], error: Exception, topic: str) -> None:  # noqa: A002
        """Record that an input is moved to the dead letters in `topic`, and the error."""
        ...


def find_tracing(enabled: bool | None, system: str) -> Tracing | None:
    """The tracing to use; None if it is off.

    Args:
        enabled: The setting `tracing`. None means "on if the app has configured OpenTelemetry by now".
        system: What carries the records: `kafka`, `redis`, `memory`, or `http`.

    Raises:
        MissingExtraError: tracing is on, and OpenTelemetry is not installed.
    """
    if enabled is False or (enabled is None and not _is_configured()):
        return None
    try:
        from eventml.runtime.spans import Spans  # noqa: PLC0415 - loads OpenTelemetry
    except ImportError as exc:
        raise MissingExtraError("otel", "the setting tracing") from exc
    return Spans(system)


def _is_configured() -> bool:
    """Whether the app has set a tracer provider; an app that has not imported OpenTelemetry has not."""
    api = sys.modules.get("opentelemetry.trace")
    return api is not None and not isinstance(
        api.get_tracer_provider(), (api.ProxyTracerProvider, api.NoOpTracerProvider)
    )
