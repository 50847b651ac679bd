"""The columns of a predictor's output: their names and kinds."""

from __future__ import annotations

import types
from dataclasses import is_dataclass
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import msgspec

from eventml.codec import to_builtin

if TYPE_CHECKING:
    from collections.abc import Sequence

Kind = Literal["int", "float", "bool", "text", "json"]

VALUE: Final = "value"
"""The column of a predictor that returns bare numbers or texts."""

OURS: Final = ("id", "prediction_id", "predictor", "model", "model_version")
"""The columns that every prediction has: an output's field of such a name becomes `output_<name>`."""

_KINDS: Final[dict[Any, Kind]] = {int: "int", float: "float", bool: "bool", str: "text"}


class Field(msgspec.Struct, frozen=True):
    """One column of the output.

    Attributes:
        name: The column's.
        source: The attribute of an output that it is; empty for the output itself.
        kind: What it holds. What JSON has no form for (times, decimals, bytes) is the text that it is on
            a stream; a list or an object is JSON.
    """

    name: str
    source: str
    kind: Kind


class Schema(msgspec.Struct, frozen=True):
    """The columns of the output, and whether ids are integers or text."""

    fields: tuple[Field, ...]


def of_type(output_type: Any) -> Schema | None:
    """The columns of an annotated output; None where the annotation does not tell."""
    if output_type in _KINDS:
        return Schema((Field(VALUE, "", _KINDS[output_type]),))
    try:
        fields = [(f.encode_name, f.name, f.type) for f in msgspec.structs.fields(output_type)]
    except TypeError:
        if not (is_dataclass(output_type) or is_typeddict(output_type)):
            return None
        fields = [(name, name, hint) for name, hint in get_type_hints(output_type).items()]
    return Schema(tuple(Field(_name(shown), name, kind_of(kind)) for shown, name, kind in fields))


def of_values(values: Sequence[Any]) -> Schema | None:
    """The columns of outputs without an annotation: by the first; None where all are None."""
    first = next((value for value in values if value is not None), None)
    if first is None:
        return None
    if isinstance(first, dict) and all(isinstance(name, str) for name in first):
        return Schema(tuple(Field(_name(name), name, _kind([value])) for name, value in first.items()))
    found = of_type(type(first))
    if found is not None and found.fields[0].source:
        return found
    return Schema((Field(VALUE, "", _kind(values)),))


def _kind(values: Sequence[Any]) -> Kind:
    kinds: set[Kind] = {_KINDS.get(type(value), "json") for value in values if value is not None}
    if kinds == {"int", "float"}:
        return "float"
    return kinds.pop() if len(kinds) == 1 else "json"


def kind_of(annotation: Any) -> Kind:
    """The kind of a field by its type: `float | None` and `Annotated[float, ...]` are floats too."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = {kind_of(one) for one in get_args(annotation) if one is not type(None)}
        if kinds == {"int", "float"}:
            return "json"  # a column of floats would make 2.0 of 2
        return kinds.pop() if len(kinds) == 1 else "json"
    if get_origin(annotation) is Literal:
        kinds = {_KINDS.get(type(value), "json") for value in get_args(annotation)}
        return kinds.pop() if len(kinds) == 1 else "json"
    if annotation in _KINDS:
        return _KINDS[annotation]
    return "text" if getattr(annotation, "__name__", "") in _TEXTUAL else "json"


_TEXTUAL: Final = {"datetime", "date", "time", "timedelta", "Decimal", "UUID", "bytes", "bytearray"}


def plain(values: Sequence[Any], kind: Kind) -> Sequence[Any]:
    """The values as their kind has them, None left as it is: what the stream's JSON would say."""
    expected = {"int": int, "float": float, "bool": bool, "text": str}.get(kind)
    if expected is not None and set(map(type, values)) <= {expected, type(None)}:
        return values
    builtin = [
        value if value is None else msgspec.to_builtins(value, enc_hook=to_builtin) for value in values
    ]
    if kind == "float":
        return [float(value) if type(value) is int else value for value in builtin]
    return builtin


def _name(field: str) -> str:
    return f"output_{field}" if field in OURS else field
