"""Outputs of a handler: they are checked, and become records that name their input, predictor and model.

JSON has no NaN, so a NaN would arrive as null, unnoticed; and a list that is one short, zipped with its
inputs, would give every event its neighbour's prediction. Streams, web services and batch jobs all check
here.
"""

from __future__ import annotations

import math
from contextlib import suppress
from functools import lru_cache
from itertools import repeat
from operator import attrgetter
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    NamedTuple,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import msgspec

from eventml import records
from eventml.backends.base import Completion
from eventml.codec import Encoder, shorten
from eventml.errors import OutputError, Reject
from eventml.event_types import to_builtin
from eventml.frames import outputs_to_list
from eventml.handlers import Handler
from eventml.models import Model
from eventml.records import Delivery, Record
from eventml.runtime.failures import CallResults, Failed
from eventml.runtime.tracing import HandlerTracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

T = TypeVar("T")

_PLAIN: Final = {str, int, bool, bytes, float, type(None)}


class Prediction(msgspec.Struct, frozen=True):
    """The event that a predictor publishes for a bare number, or for a row of an array of numbers.

    Attributes:
        input: The id of the event that was predicted from.
        value: The number; or the row of numbers, if the array has two dimensions.
    """

    input: str
    value: Any


class Outputs:
    """Makes completions of one predictor's outputs.

    An output has its input's key, so that its order per key is kept, and the id
    `<input id>/<predictor>@<model version>`, which is the same if the event is handled again.

    Args:
        model: The predictor's model, if it has one.
        source: The bus's name: the outputs' `ce_source`.
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
        headers = output_headers(handler, topic, source, encoder.content_type)
        if model is not None:
            headers |= {records.MODEL: model.name, records.MODEL_VERSION: model.version}
        self._headers = MappingProxyType(headers)
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
        return each_alone(outputs, lambda part: self.completions(deliveries[part], outputs[part]))

    def encode(self, deliveries: Sequence[Delivery], outputs: Sequence[Any]) -> list[Completion]:
        """The completions of a batch in which each delivery has an output, which is not checked.

        Raises:
            OutputError: an output cannot be encoded.
        """
        topic, suffix, headers = self._topic, self.suffix, self._headers
        values = self._encoder.encode_all(outputs)
        all_headers: Iterable[Mapping[str, str]] = repeat(headers, len(deliveries))
        if self._tracing is not None:
            all_headers = self._tracing.output_headers(headers, [d.record.headers for d in deliveries])
        return [
            Completion(d, (Record(topic, value, d.record.key, f"{d.record.id}/{suffix}", own_headers),))
            for d, value, own_headers in zip(deliveries, values, all_headers, strict=True)
        ]


def output_headers(handler: Handler, topic: str, source: str, content_type: str) -> dict[str, str]:
    """Headers of the records that a predictor publishes to a topic."""
    return {
        records.SPEC_VERSION: "1.0",
        records.TYPE: topic,
        records.SOURCE: source,
        records.CONTENT_TYPE: content_type,
        records.PREDICTOR: handler.name,
    }


def output_event_type(handler: Handler) -> Any:
    """The type of the events that a predictor publishes: `Prediction` if it returns numbers."""
    type_ = handler.output_type
    if type_ is Any:
        type_ = get_type_hints(handler.function).get("return", Any)
        return Prediction if hasattr(type_, "tolist") or hasattr(type_, "to_list") else Any
    numbers = type_ in (bool, int, float) or get_origin(type_) is list or hasattr(type_, "tolist")
    return Prediction if numbers else type_


class CheckedOutputs(NamedTuple):
    """The outputs of one call that passed the checks.

    Attributes:
        values: One for each event, in their order; None if an event has no output.
        are_numbers: Whether the values are plain numbers, or rows of them, and not objects with fields.
        complete: Whether no value is None.
    """

    values: Sequence[Any]
    are_numbers: bool
    complete: bool


class OutputChecks:
    """The checks of one handler's outputs."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler.name
        self._output_type = handler.output_type
        self._takes_frames = handler.frame is not None
        type_: Any = handler.output_type
        # `isinstance` works neither with `Any`, which is a class, nor with a TypedDict.
        has_instances = isinstance(type_, type) and type_ is not Any and not is_typeddict(type_)
        self._expected: Any = type_ if has_instances else object

    def check(self, outputs: Any, inputs: int) -> CheckedOutputs:
        """Check the outputs for a batch of so many inputs: a list, an array, a Series, a frame or a table.

        Raises:
            OutputError: there is not one output for each event, or one is of a wrong type or not finite.
            Reject: one is nested too deep, as a part of an event that it repeats.
        """
        values = outputs
        if not isinstance(outputs, list):
            values = outputs_to_list(outputs, self._output_type, check_index=self._takes_frames)
        self.check_length(values, inputs)
        try:
            if _are_numbers(values):
                return self._check_numbers(values)
            return CheckedOutputs(values, are_numbers=False, complete=self._check_objects(values))
        except RecursionError:
            raise Reject(f"{self._handler} returned an output that is nested too deep") from None

    def check_each(self, outputs: Sequence[Any]) -> list[Any]:
        """As `check`, for outputs of single events: the values, with `Failed` in the place of a bad one."""
        return each_alone(outputs, lambda part: self.check(outputs[part], len(outputs[part])).values)

    def check_length(self, outputs: Any, inputs: int) -> None:
        """Raise OutputError unless there is an output for every event."""
        if len(outputs) != inputs:
            raise OutputError(
                f"{self._handler} returned {len(outputs)} outputs for {inputs} events; return one for each, "
                "in their order, and None in the place of one that has no output"
            )

    def _check_numbers(self, outputs: Sequence[Any]) -> CheckedOutputs:
        if issubclass(self._expected, msgspec.Struct) and self._expected is not Prediction:
            raise OutputError(
                f"{self._handler} returned numbers where its annotation says {self._expected.__name__}"
            )
        values = [value.tolist() if hasattr(value, "tolist") else value for value in outputs]
        if all_finite(values):
            return CheckedOutputs(values, are_numbers=True, complete=True)  # None is not a number
        for position, value in enumerate(values):
            if isinstance(value, str | bytes | dict) or not _is_finite(value):
                raise OutputError(
                    f"{self._handler}: output {position} is not a finite number: {shorten(value)}"
                )
        return CheckedOutputs(values, are_numbers=True, complete=None not in values)

    def _check_objects(self, outputs: Sequence[Any]) -> bool:
        """Check objects, type by type. Returns whether none is None."""
        types: set[Any] = set(map(type, outputs))
        for type_ in types - {type(None)}:
            if not issubclass(type_, self._expected):
                raise OutputError(
                    f"{self._handler} returned a {type_.__name__} where its annotation says "
                    f"{self._expected.__name__}"
                )
            same = outputs if len(types) == 1 else [output for output in outputs if type(output) is type_]
            fields = _float_fields(type_)
            if fields is None:
                for output in same:
                    if not _is_finite(output):
                        raise OutputError(f"{self._handler}: not a finite number in {shorten(output)}")
            else:
                self._check_fields(same, fields)
        return type(None) not in types

    def _check_fields(self, outputs: Sequence[Any], fields: list[str]) -> None:
        for field in fields:
            get = attrgetter(field)
            if all_finite(map(get, outputs)):
                continue
            for output in outputs:
                number = get(output)
                if number is not None and not all_finite((number,)):
                    raise OutputError(f"{self._handler}: {field} is not a finite number in {shorten(output)}")


def each_alone(outputs: Sequence[Any], convert: Callable[[slice], Sequence[T]]) -> list[T | Failed]:
    """Convert outputs of single events, so that a bad one fails alone.

    All are converted at once if none has failed; one by one otherwise, or if `convert` refuses one.
    An output that is `Failed` stays so.
    """
    if Failed not in set(map(type, outputs)):
        with suppress(OutputError, Reject):
            return list(convert(slice(0, len(outputs))))
    results: list[T | Failed] = []
    for position, output in enumerate(outputs):
        if isinstance(output, Failed):
            results.append(output)
            continue
        try:
            results += convert(slice(position, position + 1))
        except (OutputError, Reject) as exc:
            results.append(Failed(exc))
    return results


def all_finite(numbers: Iterable[Any]) -> bool:
    """Whether all are finite numbers. For numbers near the largest float the answer may be False."""
    try:
        # A sum of numbers is finite only if each of them is; it is the cheapest check of them all.
        return math.isfinite(sum(numbers))
    except (TypeError, OverflowError):
        return False


def _are_numbers(outputs: Sequence[Any]) -> bool:
    first = next((output for output in outputs if output is not None), None)
    return isinstance(first, int | float | list) or hasattr(first, "tolist")


@lru_cache(maxsize=256)
def _float_fields(type_: type) -> list[str] | None:
    """The fields of a struct that hold floats, if all its fields hold plain values; None if not."""
    try:
        fields = msgspec.structs.fields(type_)
    except TypeError:
        return None
    types = {field.encode_name: set(get_args(field.type)) or {field.type} for field in fields}
    if not all(kinds <= _PLAIN for kinds in types.values()):
        return None
    return [field.name for field in fields if float in types[field.encode_name]]


def _is_finite(value: Any) -> bool:
    """Whether every float in a value of any shape is finite.

    Raises:
        OutputError: the value contains an object that cannot be encoded.
    """
    if isinstance(value, float):
        return math.isfinite(value)
    if value is None or isinstance(value, str | int | bytes):
        return True
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_finite, value))
    try:
        return _is_finite(msgspec.to_builtins(value, enc_hook=to_builtin))
    except (TypeError, ValueError) as exc:
        raise OutputError(f"cannot encode {shorten(value)}: {exc}") from exc
