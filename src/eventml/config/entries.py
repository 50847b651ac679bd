"""Entries: one setting as one source gives it, checking its value, and the words of error messages."""

from __future__ import annotations

import difflib
import json
import math
import re
import types
from typing import TYPE_CHECKING, Any, Final, Union, get_args, get_origin

import msgspec
from msgspec import inspect

from eventml.config.urls import HIDDEN, InvalidValueError, is_secret, redact

if TYPE_CHECKING:
    from collections.abc import Iterable

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_MAX_SHOWN: Final = 80  # characters of a value in a message
_BOUNDS: Final = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


class Entry(msgspec.Struct, frozen=True):
    """A setting as one source gives it, not yet checked.

    Attributes:
        path: Path of the setting, such as `("consumer", "duration", "max_batch")`.
        value: Value in the source.
        source: Name of the file or variable, for messages.
        text: Whether the source has only text, which is converted to the field's type.
        secret: Whether to hide the value in messages, whatever the setting's name.
        expanded: Whether variables have been replaced already: a `${` in the value is literal.
    """

    path: tuple[str, ...]
    value: object
    source: str
    text: bool = False
    secret: bool = False
    expanded: bool = False

    @property
    def shown(self) -> str:
        """The value as shown in a message, hidden if it is a secret."""
        return HIDDEN if self.secret or is_secret(self.path[-1]) else show(self.value)

    def problem(self, reason: str) -> str:
        """One line of an error message: the path, the reason and the source."""
        return f"{dotted(self.path)}: {reason} (from {self.source})"


def convert(entry: Entry, kind: Any) -> Any:
    """The entry's value as the field's type, `kind`. An optional field cannot be set to None.

    Raises:
        InvalidValueError: The value has another type, or is out of bounds.
    """
    kind = without_none(kind)
    try:
        value = msgspec.convert(entry.value, kind, strict=not entry.text)
    except msgspec.ValidationError as exc:
        raise InvalidValueError(f"expected {expected(kind)}, got {_got(entry, exc)}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidValueError(f"expected a finite {expected(kind)}, got {entry.shown}")
    return value


def dotted(path: tuple[str, ...]) -> str:
    """The path as TOML writes it: `topic."rides.started".codec`."""
    return ".".join(part if _BARE_KEY.fullmatch(part) else json.dumps(part) for part in path)


def unknown(name: str, known: Iterable[str]) -> str:
    """Reason for refusing an unknown name, with the most similar known name."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"unknown, did you mean {close[0]}?"
    return f"unknown, expected one of {', '.join(names)}" if names else "unknown"


def show(value: object) -> str:
    """A TOML value for a message: shortened, and without passwords in URLs."""
    match value:
        case str():
            text = redact(value)
            return json.dumps(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…")
        case bool():
            return str(value).lower()
        case dict():
            return "a table"
        case list():
            return "an array"
        case _:
            return str(value)


def expected(kind: Any) -> str:
    """The values that a type accepts, in words: `int >= 1`."""
    return _words(inspect.type_info(kind))


def _words(info: inspect.Type) -> str:  # noqa: PLR0911 - one for each kind of type
    match info:
        case inspect.IntType() | inspect.FloatType():
            name = "int" if isinstance(info, inspect.IntType) else "float"
            bounds = [
                f"{sign} {bound}" for at, sign in _BOUNDS.items() if (bound := getattr(info, at)) is not None
            ]
            return " ".join([name, " and ".join(bounds)]).strip()
        case inspect.StrType():
            return "text, not empty" if info.min_length else "text"
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType():
            return " or ".join(map(show, info.values))
        case inspect.EnumType():
            return " or ".join(show(member.value) for member in info.cls)
        case inspect.UnionType():
            return " or ".join(map(_words, info.types))
        case inspect.DictType() | inspect.StructType():
            return "a table"
        case inspect.ListType() | inspect.VarTupleType() | inspect.TupleType() | inspect.SetType():
            return "an array"
        case _:
            return type(info).__name__.removesuffix("Type").lower()


def _got(entry: Entry, error: msgspec.ValidationError) -> str:
    # For a nested value msgspec's message says where in it the wrong part is.
    nested = isinstance(entry.value, dict | list) and not entry.secret and not is_secret(entry.path[-1])
    return f"{entry.shown}: {error}" if nested else entry.shown


def without_none(kind: Any) -> Any:
    """The type without None: A for `A | None`."""
    if get_origin(kind) in {Union, types.UnionType}:
        return Union[tuple(arg for arg in get_args(kind) if arg is not type(None))]  # noqa: UP007 - built, not written
    return kind
