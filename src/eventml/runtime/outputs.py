"""What a handler returned, as records that name their input, their predictor and its model."""

from __future__ import annotations

from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from eventml import records
from eventml.backends.base import Completion
from eventml.errors import OutputError
from eventml.frames import outputs_to_list
from eventml.records import Record
from eventml.runtime.checks import OutputChecks, all_finite
from eventml.runtime.items import Deferred, Failed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.codec import Encoder
    from eventml.handlers import Handler
    from eventml.models import Model
    from eventml.records import Delivery
    from eventml.runtime.tracing import HandlerTracing


class Prediction(msgspec.Struct, frozen=True):
    """What a bare number becomes when a predictor returns an array.

    Attributes:
        input: The id of the event that was predicted from.
        value: The number, or the row of numbers where the array has two dimensions.
    """

    input: str
    value: Any


class Outputs:
    """Turns one predictor's outputs into completions.

    An output has its input's key, so that the order per key goes on, and the id
    `<input id>/<predictor>@<model version>`, which repeats when the work is repeated.
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
        self._output_type = handler.output_type
        self._of_frames = handler.frame is not None
        self._checks = OutputChecks(handler.name, handler.output_type)
        self._suffix = handler.name if model is None else f"{handler.name}@{model.version}"
        self._headers = MappingProxyType(_headers(handler, topic, model, source, encoder.content_type))
        self._tracing = tracing

    @property
    def suffix(self) -> str:
        """What an output's id adds to its input's."""
        return self._suffix

    def completions(self, deliveries: Sequence[Delivery], outputs: Any) -> list[Completion]:
        """A completion for each delivery; its output is None where the handler gave none.

        Raises:
            OutputError: the outputs do not fit the inputs, or cannot be encoded. Nothing is completed.
        """
        outputs = outputs_to_list(outputs, self._output_type, check_index=self._of_frames)
        self._checks.length(outputs, len(deliveries))
        if _numbers(outputs):
            if self._output_type is not Prediction:
                self._checks.may_be_numbers()
            predictions = _predictions(deliveries, outputs, self._checks)
            kinds = set(map(type, predictions))
            return self._complete(deliveries, predictions, all_answered=type(None) not in kinds)
        kinds = self._checks.values(outputs)
        return self._complete(deliveries, outputs, all_answered=type(None) not in kinds)

    def each(
        self, deliveries: Sequence[Delivery], outputs: Sequence[Any]
    ) -> list[Completion | Failed | Deferred]:
        """As `completions`, for outputs that came one by one: a bad one fails alone."""
        if {Failed, Deferred}.isdisjoint(map(type, outputs)):
            with suppress(OutputError):
                return list[Completion | Failed | Deferred](self.completions(deliveries, outputs))
        return [
            self._each_one(delivery, output) for delivery, output in zip(deliveries, outputs, strict=True)
        ]

    def _each_one(self, delivery: Delivery, output: Any) -> Completion | Failed | Deferred:
        return output if isinstance(output, Failed | Deferred) else self.one(delivery, output)

    def one(self, delivery: Delivery, output: Any) -> Completion | Failed:
        """The completion of a single delivery, or why its output does not fit."""
        try:
            return self.completions([delivery], [output])[0]
        except OutputError as exc:
            return Failed(exc)

    def _complete(
        self, deliveries: Sequence[Delivery], outputs: Sequence[Any], *, all_answered: bool
    ) -> list[Completion]:
        topic, suffix, headers = self._topic, self._suffix, self._headers
        if all_answered and self._tracing is not None:
            carried = self._tracing.carried(headers, [d.record.headers for d in deliveries])
            return [
                Completion(d, (Record(topic, value, d.record.key, f"{d.record.id}/{suffix}", its_own),))
                for d, value, its_own in zip(
                    deliveries, self._encoder.encode_all(outputs), carried, strict=True
                )
            ]
        if all_answered:
            return [
                Completion(d, (Record(topic, value, d.record.key, f"{d.record.id}/{suffix}", headers),))
                for d, value in zip(deliveries, self._encoder.encode_all(outputs), strict=True)
            ]
        answered = [(d, o) for d, o in zip(deliveries, outputs, strict=True) if o is not None]
        silent = [Completion(d) for d, o in zip(deliveries, outputs, strict=True) if o is None]
        if not answered:
            return silent
        return silent + self._complete(*zip(*answered, strict=True), all_answered=True)


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


def _numbers(outputs: Sequence[Any]) -> bool:
    first = next((output for output in outputs if output is not None), None)
    return isinstance(first, int | float | list) or hasattr(first, "tolist")


def _predictions(
    deliveries: Sequence[Delivery], outputs: Sequence[Any], checks: OutputChecks
) -> list[Prediction | None]:
    values = [value.tolist() if hasattr(value, "tolist") else value for value in outputs]
    if not all_finite(values):
        checks.numbers(values)
    return [
        None if value is None else Prediction(delivery.record.id, value)
        for delivery, value in zip(deliveries, values, strict=True)
    ]
