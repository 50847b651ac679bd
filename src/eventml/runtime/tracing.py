"""Tracing: what the runtime tells of an event's way, and to whom, if to anybody.

A protocol in two parts. Where tracing is off there is None in their place, and a batch costs one look
at that. `spans.py` implements both with OpenTelemetry, and is imported only where tracing is on.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal, Protocol

from eventml.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from eventml.handlers import Handler
    from eventml.models import Model

Operation = Literal["publish", "request"]


class Sending(Protocol):
    """A publish call under way.

    Attributes:
        headers: What its records carry: the trace context, `ce_traceparent` and `ce_tracestate`.
    """

    @property
    def headers(self) -> Mapping[str, str]: ...

    def wrote(self, records: int) -> None:
        """Say how many records it was, once that is known."""
        ...


class Tracing(Protocol):
    """Tells of a bus's producers and handlers."""

    def sending(
        self,
        operation: Operation,
        topic: str,
        id: str | None = None,  # noqa: A002 - CloudEvents' word
    ) -> AbstractContextManager[Sending]:
        """Around one call that publishes to a topic; `id` is its only record's. What it raises is told."""
        ...

    def handling(self, handler: Handler, model: Model | None) -> HandlerTracing:
        """Tells of one handler's work."""
        ...


class HandlerTracing(Protocol):
    """Tells of one handler's batches. Inputs are known by their headers, wherever they came from."""

    def processing(
        self, inputs: Sequence[Mapping[str, str]]
    ) -> AbstractContextManager[Callable[[Exception], None]]:
        """Around one call for a batch. What it raises is told; so is what the yielded function is given."""
        ...

    def carried(
        self, headers: Mapping[str, str], inputs: Sequence[Mapping[str, str]]
    ) -> Sequence[Mapping[str, str]]:
        """For each input, `headers` and the context in which what came of it continues its trace.

        Inputs that share a mapping share the result. Inside `processing`, it is for that batch.
        """
        ...

    def set_aside(self, input: Mapping[str, str], error: Exception, topic: str) -> None:  # noqa: A002 - its name
        """Tell that an input goes to the dead letters of that topic, and why."""
        ...


def find_tracing(wanted: bool | None, system: str) -> Tracing | None:
    """Who is told; None if nobody is.

    Args:
        wanted: The setting `tracing`. None is "if the app has configured OpenTelemetry by now".
        system: What carries the records: `kafka`, `redis`, `memory`, or `http`.

    Raises:
        MissingExtraError: it is wanted, and OpenTelemetry is not installed.
    """
    if wanted is False or (wanted is None and not _configured()):
        return None
    try:
        from eventml.runtime.spans import Spans  # noqa: PLC0415 - what is off is not loaded
    except ImportError as exc:
        raise MissingExtraError("otel", "the setting tracing") from exc
    return Spans(system)


def _configured() -> bool:
    """Whether somebody has set a tracer provider; without having imported it nobody has."""
    api = sys.modules.get("opentelemetry.trace")
    return api is not None and not isinstance(
        api.get_tracer_provider(), (api.ProxyTracerProvider, api.NoOpTracerProvider)
    )
