"""Signatures: how the functions that an app registers can be called, and what their annotations are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, get_type_hints

from eventml.errors import RegistrationError

_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def function_name(function: Callable[..., Any]) -> str:
    """The name of a function, of the one in a partial, or of the class of an instance."""
    named = function.func if isinstance(function, partial) else function
    return str(getattr(named, "__name__", type(named).__name__))


def functions_of(called: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The function that is called, and the one that it wraps, which is itself if it wraps none.

    Of a partial it is the function in it, of an instance the method `__call__`.
    """
    while isinstance(called, partial):
        called = called.func
    if not (inspect.isroutine(called) or isinstance(called, type) or hasattr(called, "__wrapped__")):
        called = type(called).__call__
    return called, inspect.unwrap(called)


def parameters_of(name: str, function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters that a call may fill, the event's first.

    Raises:
        RegistrationError: There are none, or Python does not know them.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as exc:
        raise RegistrationError(
            f"{name}: its signature cannot be read ({exc}); register a function that calls it"
        ) from exc
    bound = function.keywords if isinstance(function, partial) else {}
    parameters = [p for p in signature.parameters.values() if p.kind not in _VARIADIC and p.name not in bound]
    if not parameters:
        raise RegistrationError(f"{name}: a handler's first parameter takes the event, or the list of events")
    return parameters


def check_call(name: str, function: Callable[..., Any], by_name: Collection[str] = ()) -> None:
    """Raise RegistrationError unless a function takes the event by position, these by name, and returns."""
    if any(inspect.isasyncgenfunction(f) or inspect.isgeneratorfunction(f) for f in functions_of(function)):
        raise RegistrationError(f"{name}: the function must return its outputs, not yield them")
    try:
        inspect.signature(function).bind(None, **dict.fromkeys(by_name))
    except ValueError:
        return  # a builtin may have no signature
    except TypeError as exc:
        others = f", and {' and '.join(by_name)} by name" if by_name else ""
        raise RegistrationError(
            f"{name}: it cannot be called with the event by position{others}: {exc}; write the event's "
            "parameter before any *, and the others behind any /"
        ) from exc


def type_hints(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function as types. Raises RegistrationError if they cannot be evaluated.

    That of `model`, unless it is the event, is left out if its type is imported for type checkers only:
    nothing depends on it, and a process that loads no model then does without the model's library.
    """
    try:
        try:
            return get_type_hints(function)
        except NameError:
            first = [one for one in inspect.signature(function).parameters if one != "self"][:1]
            own = {k: hint for k, hint in function.__annotations__.items() if k != "model" or [k] == first}
            return get_type_hints(SimpleNamespace(__annotations__=own, __wrapped__=function))
    except NameError as exc:
        raise RegistrationError(
            f"{name}: its annotations cannot be read ({exc}); define or import their types at the top of the "
            "module, not in a function and not under TYPE_CHECKING. If the event's type exists in a function "
            "only, annotate `list`, or nothing for single events, and add event_type=... to the decorator"
        ) from exc
    except Exception as exc:  # an annotation in quotes may be any expression
        raise RegistrationError(
            f"{name}: its annotations cannot be read ({type(exc).__name__}: {exc}); correct them"
        ) from exc
