"""One setting from one source, and whether its value will do."""

from __future__ import annotations

import difflib
import json
import math
import re
import types
from typing import TYPE_CHECKING, Any, Final, Union, get_args, get_origin

import msgspec
from msgspec import inspect

from eventml.config.redaction import HIDDEN, hidden, redact

if TYPE_CHECKING:
    from collections.abc import Iterable

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_SHOWN: Final = 80
_BOUNDS: Final = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


class UnusableError(ValueError):
    """Why a value cannot be used; what catches it adds the setting's path and source."""


class Entry(msgspec.Struct, frozen=True):
    """A setting as a source gives it, not yet checked.

    Attributes:
        path: Its place in the settings, such as `("consumer", "duration", "max_batch")`.
        value: What the source says.
        source: The file or variable that says it.
        text: The source can say nothing but text, so the text is converted to the field's type.
        secret: Its value is not to be shown, whatever its name.
        expanded: It stands as it is: a `${` in it is no variable.
    """

    path: tuple[str, ...]
    value: object
    source: str
    text: bool = False
    secret: bool = False
    expanded: bool = False

    @property
    def shown(self) -> str:
        """Its value, for an error message."""
        return HIDDEN if self.secret or hidden(self.path[-1]) else show(self.value)

    def problem(self, what: str) -> str:
        """The line of an error message that says what is wrong with it."""
        return f"{dotted(self.path)}: {what} (from {self.source})"


def value_of(entry: Entry, kind: Any) -> Any:
    """The entry's value as the field's type, `kind`. A field that may be None cannot be set to None.

    Raises:
        UnusableError: it is of another type, or out of bounds.
    """
    kind = _without_none(kind)
    try:
        value = msgspec.convert(entry.value, kind, strict=not entry.text)
    except msgspec.ValidationError as exc:
        raise UnusableError(f"expected {expected(kind)}, got {_got(entry, exc)}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise UnusableError(f"expected a finite {expected(kind)}, got {entry.shown}")
    return value


def dotted(path: tuple[str, ...]) -> str:
    """The path as TOML writes it: `topic."rides.started".codec`."""
    return ".".join(part if _BARE_KEY.fullmatch(part) else json.dumps(part) for part in path)


def unknown(name: str, known: Iterable[str]) -> str:
    """That a name is unknown, and which one may be meant."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"unknown, did you mean {close[0]}?"
    return f"unknown, expected one of {', '.join(names)}" if names else "unknown"


def show(value: object) -> str:
    """A value of TOML, short and without the password of a URL."""
    match value:
        case str():
            text = redact(value)
            return json.dumps(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…")
        case bool():
            return str(value).lower()
        case dict():
            return "a table"
        case list():
            return "an array"
        case _:
            return str(value)


def expected(kind: Any) -> str:
    """What a type accepts, in words: `int >= 1`."""
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


def _got(entry: Entry, why: msgspec.ValidationError) -> str:
    # Only a nested value needs msgspec's own words, which say where in it the fault is.
    nested = isinstance(entry.value, dict | list) and not entry.secret and not hidden(entry.path[-1])
    return f"{entry.shown}: {why}" if nested else entry.shown


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in {Union, types.UnionType}:
        return Union[tuple(arg for arg in get_args(kind) if arg is not type(None))]  # noqa: UP007 - built, not written
    return kind
