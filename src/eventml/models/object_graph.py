"""The objects that a model consists of, found without running code of their classes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, Final

_NUMBERS_AND_TEXT: Final = (str, bytes, bytearray, int, float, complex, type(None))
_LEAVES: Final = (*_NUMBERS_AND_TEXT, type, FunctionType, BuiltinFunctionType, ModuleType)


def reachable(root: Any) -> Iterator[Any]:
    """Every object that `root` consists of, each once, `root` included.

    It follows attributes, containers, object arrays, partial functions and bound methods. It does not follow
    functions, classes and modules, and cannot see inside compiled types.
    """
    # The objects are kept, not only their ids: an id may be reused after its object is deleted.
    seen: dict[int, Any] = {}
    waiting = [root]
    while waiting:
        one = waiting.pop()
        if issubclass(type(one), _LEAVES) or id(one) in seen:
            continue
        seen[id(one)] = one
        yield one
        waiting.extend(parts(one))


def parts(one: Any) -> list[Any]:
    """The elements and the attributes of an object."""
    return [*elements(one), *attributes(one).values()]


def elements(one: Any) -> list[Any]:
    """The elements of a container, an object array, a partial function or a bound method; none of others."""
    # By `type`: `isinstance` asks the object, and a proxy returns the class it wraps, or raises.
    kind = type(one)
    held: list[Any] = []
    if issubclass(kind, dict):
        held += [*one.keys(), *one.values()]
    elif issubclass(kind, list | tuple | set | frozenset):
        held += one
    elif issubclass(kind, partial):
        held += [one.func, *one.args, *one.keywords.values()]
    elif issubclass(kind, MethodType):
        held.append(one.__self__)
    elif "numpy" in sys.modules and issubclass(kind, sys.modules["numpy"].ndarray) and one.dtype == object:
        # A masked array hides the masked elements.
        held += one.view(sys.modules["numpy"].ndarray).ravel().tolist()
    return held


def attributes(one: Any) -> dict[str, Any]:
    """The attributes of the instance, without running code of its class, unlike `vars` on a proxy."""
    try:
        own = object.__getattribute__(one, "__dict__")
    except AttributeError:
        return {}
    return own if isinstance(own, dict) else {}
