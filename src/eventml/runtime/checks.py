"""Checks of what a handler returned, before any of it is published: length, types, finite numbers.

JSON has no NaN, so one would travel as null, unnoticed; and a list one short, zipped with its
inputs, would answer every event with its neighbour's prediction.
"""

from __future__ import annotations

import math
from operator import attrgetter
from typing import TYPE_CHECKING, Any, get_args, is_typeddict

import msgspec

from eventml.codec import shorten, to_builtin
from eventml.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_PLAIN = {str, int, bool, bytes, float, type(None)}


class OutputChecks:
    """The checks of one handler's outputs.

    Args:
        handler: Its name, for the messages.
        output_type: The annotated type of one output; `Any` where there is none.
    """

    def __init__(self, handler: str, output_type: Any) -> None:
        self._handler = handler
        self._expected = output_type if _tells(output_type) else object
        self._float_fields: dict[type, list[str] | None] = {}

    def length(self, outputs: Sequence[Any], inputs: int) -> None:
        """Raises OutputError unless there is an output for every input."""
        if len(outputs) != inputs:
            raise OutputError(
                f"{self._handler} returned {len(outputs)} outputs for {inputs} events; return one for each, "
                "in their order, and None in the place of one that has no output"
            )

    def values(self, outputs: Sequence[Any]) -> set[type]:
        """The outputs' types. Raises OutputError if one is wrong, or holds a number that is not finite."""
        kinds = set(map(type, outputs))
        for kind in kinds - {type(None)}:
            if not issubclass(kind, self._expected):
                raise OutputError(
                    f"{self._handler} returned a {kind.__name__} where its annotation says "
                    f"{self._expected.__name__}"
                )
            same = outputs if len(kinds) == 1 else [output for output in outputs if type(output) is kind]
            fields = self._fields(kind)
            if fields is None:
                self._walk(same)
            else:
                self._columns(same, fields)
        return kinds

    def may_be_numbers(self) -> None:
        """Raises OutputError if numbers were returned where outputs with fields are expected."""
        if issubclass(self._expected, msgspec.Struct):
            raise OutputError(
                f"{self._handler} returned numbers where its annotation says {self._expected.__name__}"
            )

    def numbers(self, values: Sequence[Any]) -> None:
        """Raises OutputError if one is neither finite, nor a row of finite numbers, nor None."""
        for position, value in enumerate(values):
            if isinstance(value, str | bytes | dict) or not finite(value):
                raise OutputError(
                    f"{self._handler}: output {position} is not a finite number: {shorten(value)}"
                )

    def _fields(self, kind: type) -> list[str] | None:
        if kind not in self._float_fields:
            self._float_fields[kind] = float_fields(kind)
        return self._float_fields[kind]

    def _columns(self, outputs: Sequence[Any], fields: list[str]) -> None:
        for field in fields:
            get = attrgetter(field)
            if not all_finite(map(get, outputs)):
                self._look_closely(outputs, field, get)

    def _look_closely(self, outputs: Sequence[Any], field: str, get: Callable[[Any], Any]) -> None:
        for output in outputs:
            number = get(output)
            if number is not None and not all_finite((number,)):
                raise OutputError(f"{self._handler}: {field} is not a finite number in {shorten(output)}")

    def _walk(self, outputs: Sequence[Any]) -> None:
        for output in outputs:
            if not finite(output):
                raise OutputError(f"{self._handler}: not a finite number in {shorten(output)}")


def _tells(output_type: Any) -> bool:
    """Whether an instance can be known by it: not by `Any`, which is a class, nor by a TypedDict."""
    return isinstance(output_type, type) and output_type is not Any and not is_typeddict(output_type)


def float_fields(kind: type) -> list[str] | None:
    """A struct's fields that hold floats, if plain values are all it holds; else None: walk it."""
    try:
        fields = msgspec.structs.fields(kind)
    except TypeError:
        return None
    types = {field.encode_name: set(get_args(field.type)) or {field.type} for field in fields}
    if not all(kinds <= _PLAIN for kinds in types.values()):
        return None
    return [field.name for field in fields if float in types[field.encode_name]]


def all_finite(numbers: Iterable[Any]) -> bool:
    """Whether all are numbers, and finite; of numbers near the largest there is, it may say no."""
    try:
        # A sum of numbers is finite only if each of them is; it is the cheapest look at them all.
        return math.isfinite(sum(numbers))
    except (TypeError, OverflowError):
        return False


def finite(value: Any) -> bool:
    """Whether every float in a value of any shape is finite.

    Raises:
        OutputError: it holds something that cannot be encoded at all.
    """
    if isinstance(value, float):
        return math.isfinite(value)
    if value is None or isinstance(value, str | int | bytes):
        return True
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(finite, value))
    try:
        return finite(msgspec.to_builtins(value, enc_hook=to_builtin))
    except (TypeError, ValueError, RecursionError) as exc:
        raise OutputError(f"cannot encode {shorten(value)}: {exc}") from exc
