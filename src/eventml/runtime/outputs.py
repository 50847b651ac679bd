"""Outputs of a predictor as records, which name their input, their predictor and its model."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_origin, get_type_hints

from eventml import records
from eventml.backends.base import Completion
from eventml.codec import Encoder
from eventml.handlers import Handler
from eventml.models import Model
from eventml.records import Delivery, Record
from eventml.runtime.failures import CallResults, call_results
from eventml.runtime.output_checks import OutputChecks, Prediction, each_alone
from eventml.runtime.tracing import HandlerTracing

if TYPE_CHECKING:
    from collections.abc import Sequence


class Outputs:
    """Makes completions of one predictor's outputs.

    An output has its input's key, so that its order per key is kept, and the id
    `<input id>/<predictor>@<model version>`, which is the same if the event is handled again.

    Args:
        handler: The predictor.
        topic: The topic of its outputs.
        model: Its model, if it has one.
        source: The bus's name: the outputs' `ce_source`.
        encoder: Encodes the outputs.
        tracing: Gives the outputs their trace context; None if tracing is off.

    Attributes:
        suffix: `<predictor>@<model version>`, or the predictor's name alone if it has no model.
    """

    def __init__(
        self,
        handler: Handler,
        topic: str,
        *,
        model: Model | None,
        source: str,
        encoder: Encoder,
        tracing: HandlerTracing | None = None,
    ) -> None:
        self._topic = topic
        self._encoder = encoder
        self._checks = OutputChecks(handler)
        self._headers = MappingProxyType(_headers(handler, topic, model, source, encoder.content_type))
        self._tracing = tracing
        self.suffix = handler.name if model is None else f"{handler.name}@{model.version}"

    def completions(self, deliveries: Sequence[Delivery], outputs: Any) -> list[Completion]:
        """The completions of a batch, in its order; without an output where the handler returned None.

        Raises:
            OutputError: the outputs do not fit the inputs, or cannot be encoded.
        """
        values, are_numbers, complete = self._checks.check(outputs, len(deliveries))
        if are_numbers:
            values = [
                None if value is None else Prediction(delivery.record.id, value)
                for delivery, value in zip(deliveries, values, strict=True)
            ]
        if complete:
            return self.encode(deliveries, values)
        answered = [(d, value) for d, value in zip(deliveries, values, strict=True) if value is not None]
        encoded = iter(self.encode(*zip(*answered, strict=True)) if answered else ())
        return [
            Completion(delivery) if value is None else next(encoded)
            for delivery, value in zip(deliveries, values, strict=True)
        ]

    def completions_each(self, deliveries: Sequence[Delivery], outputs: Sequence[Any]) -> CallResults:
        """As `completions`, for outputs of single events: a bad one fails alone."""
        return call_results(
            each_alone(outputs, lambda part: self.completions(deliveries[part], outputs[part]))
        )

    def completion(self, delivery: Delivery, output: Any) -> Completion:
        """The completion of a single delivery.

        Raises:
            OutputError: the output cannot be published.
        """
        return self.completions([delivery], [output])[0]

    def encode(self, deliveries: Sequence[Delivery], outputs: Sequence[Any]) -> list[Completion]:
        """The completions of a batch in which each delivery has an output, which is not checked.

        Raises:
            OutputError: an output cannot be encoded.
        """
        topic, suffix, headers = self._topic, self.suffix, self._headers
        values = self._encoder.encode_all(outputs)
        if self._tracing is None:
            return [
                Completion(d, (Record(topic, value, d.record.key, f"{d.record.id}/{suffix}", headers),))
                for d, value in zip(deliveries, values, strict=True)
            ]
        traced = self._tracing.output_headers(headers, [d.record.headers for d in deliveries])
        return [
            Completion(d, (Record(topic, value, d.record.key, f"{d.record.id}/{suffix}", own_headers),))
            for d, value, own_headers in zip(deliveries, values, traced, strict=True)
        ]


def _headers(
    handler: Handler, topic: str, model: Model | None, source: str, content_type: str
) -> dict[str, str]:
    headers = {
        records.SPEC_VERSION: "1.0",
        records.TYPE: topic,
        records.SOURCE: source,
        records.CONTENT_TYPE: content_type,
        records.PREDICTOR: handler.name,
    }
    if model is not None:
        headers |= {records.MODEL: model.name, records.MODEL_VERSION: model.version}
    return headers


def output_event_type(handler: Handler) -> Any:
    """The type of the events that a predictor publishes: `Prediction` if it returns numbers."""
    type_ = handler.output_type
    if type_ is Any:
        type_ = get_type_hints(handler.function).get("return", Any)
        return Prediction if hasattr(type_, "tolist") or hasattr(type_, "to_list") else Any
    numbers = type_ in (bool, int, float) or get_origin(type_) is list or hasattr(type_, "tolist")
    return Prediction if numbers else type_
