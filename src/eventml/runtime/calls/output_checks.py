"""Checks of a handler's outputs: one for each event, of the right type, finite.

JSON has no NaN, so a NaN would arrive as null, unnoticed; and a list that is one short, zipped with its
inputs, would give every event its neighbour's prediction. Streams, web services and batch jobs all check
here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeVar, get_args, is_typeddict

import msgspec

from eventml.codec import shorten
from eventml.errors import OutputError, Reject
from eventml.event_types import fields_of, is_list_type, to_builtin
from eventml.frames import outputs_to_list
from eventml.handlers import Handler
from eventml.runtime.failures.classification import Failed

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


def bare_prediction(value: Any) -> Any:
    """Return the number of a `Prediction` in JSON, and any other output as it is."""
    fields = Prediction.__struct_fields__
    return value["value"] if isinstance(value, dict) and tuple(value) == fields else value


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
        type_ = handler.output_type
        self._lists_objects = is_list_type(type_) and not {bool, int, float} & set(get_args(type_))
        types: tuple[Any, ...] = tuple(handler.outputs.values())
        # `isinstance` works neither with `Any`, which is a class, nor with a TypedDict.
        has_instances = all(isinstance(t, type) and t is not Any and not is_typeddict(t) for t in types)
        self._expected: tuple[type, ...] = types if types and has_instances else (object,)
        self._shown = " or ".join(type_.__name__ for type_ in self._expected)

    def check(self, outputs: Any, inputs: int) -> CheckedOutputs:
        """Check the outputs for a batch of so many inputs: a list, an array, a Series, a frame or a table.

        Raises:
            OutputError: there is not one output for each event, or one is of a wrong type or not finite.
            Reject: one is nested too deep, as a part of an event that it repeats.
        """
        values = self.as_list(outputs)
        self.check_length(values, inputs)
        return self.check_values(values)

    def as_list(self, outputs: Any) -> Any:
        """The outputs for a batch, as a list if they are an array or a frame. Raises as `check` does."""
        if isinstance(outputs, list):
            return outputs
        return outputs_to_list(outputs, self._output_type, check_index=self._takes_frames)

    def check_values(self, values: Sequence[Any]) -> CheckedOutputs:
        """As `check`, for a list that is long enough."""
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
        if all(issubclass(type_, msgspec.Struct) for type_ in self._expected) and self._expected != (
            Prediction,
        ):
            raise OutputError(f"{self._handler} returned numbers where its annotation says {self._shown}")
        values = [value.tolist() if hasattr(value, "tolist") else value for value in outputs]
        if all_finite(values):
            return CheckedOutputs(values, are_numbers=True, complete=True)  # None is not a number
        for position, value in enumerate(values):
            if isinstance(value, list) and all_finite(value):
                continue
            if not self._lists_objects and _has_objects(value):
                raise OutputError(
                    f"{self._handler}: output {position} has an object where the first one is a number or a "
                    f"list of numbers: {shorten(value)}; for several outputs annotate a list of their type"
                )
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
                    f"{self._handler} returned a {type_.__name__} where its annotation says {self._shown}"
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


def _has_objects(value: Any) -> bool:
    """Whether it is an object with fields, or a list in which there are some."""
    if isinstance(value, list):
        return not _PLAIN.issuperset(map(type, value)) and any(map(_has_objects, value))
    type_: Any = type(value)
    return _is_object_type(type_)


@lru_cache(maxsize=256)
def _is_object_type(type_: Any) -> bool:
    return issubclass(type_, dict) or fields_of(type_) is not None


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
