"""Walking what a model is made of."""

from __future__ import annotations

import sys
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LEAVES: Final = (
    str,
    bytes,
    bytearray,
    int,
    float,
    complex,
    type(None),
    type,
    FunctionType,
    BuiltinFunctionType,
    ModuleType,
)


def reachable(root: Any) -> Iterator[Any]:
    """Every object that `root` is made of, itself included, each once.

    Follows attributes, containers, object arrays, partial functions and bound methods. Not what
    compiled types hide, and not into functions, classes and modules.
    """
    # The objects are kept, not only their ids: an id is free again once its object is gone.
    seen: dict[int, Any] = {}
    waiting = [root]
    while waiting:
        one = waiting.pop()
        if issubclass(type(one), _LEAVES) or id(one) in seen:
            continue
        seen[id(one)] = one
        yield one
        waiting.extend(_parts(one))


def _parts(one: Any) -> Iterable[Any]:
    # By `type`: `isinstance` asks the object, and a proxy answers with what it stands for, or raises.
    kind = type(one)
    parts: list[Any] = []
    if issubclass(kind, dict):
        parts += [*one.keys(), *one.values()]
    elif issubclass(kind, list | tuple | set | frozenset):
        parts += one
    elif issubclass(kind, partial):
        parts += [one.func, *one.args, *one.keywords.values()]
    elif issubclass(kind, MethodType):
        parts.append(one.__self__)
    elif "numpy" in sys.modules and issubclass(kind, sys.modules["numpy"].ndarray) and one.dtype == object:
        parts += one.ravel().tolist()
    return [*parts, *attributes(one).values()]


def attributes(one: Any) -> dict[str, Any]:
    """The instance's own attributes. Runs no code of its class, unlike `vars` on a proxy."""
    try:
        own = object.__getattribute__(one, "__dict__")
    except AttributeError:
        return {}
    return own if isinstance(own, dict) else {}
