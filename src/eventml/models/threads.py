"""Limiting a model to one thread, and walking the objects that a model consists of.

A worker calls its model with batches of a few hundred events, thousands of times a minute. At that
size, distributing work to threads costs more than the work: `n_jobs=4` made a forest of 100 trees 5 times
slower at 1 row and 3 times slower at 256 rows, and four OpenMP threads blocked boosting for seconds when the
cores were busy. One thread per worker, and more workers, are faster and steadier.
"""

from __future__ import annotations

import sys
import threading
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_NUMBERS_AND_TEXT: Final = (str, bytes, bytearray, int, float, complex, type(None))
_LEAVES: Final = (*_NUMBERS_AND_TEXT, type, FunctionType, BuiltinFunctionType, ModuleType)

_limited = threading.local()


def single_threaded() -> None:
    """Limit numeric libraries to one thread, permanently. Call it in each thread that predicts.

    BLAS (linear models, numpy) is limited for the whole process, OpenMP (histogram boosting, nearest
    neighbours, k-means) only for the calling thread. Call it after the model is loaded: a library that is
    loaded later is not limited. The first call in a thread takes milliseconds; further calls cost nothing.

    Not promised: the limit of BLAS, if another running thread has set a limit with threadpoolctl
    before; its recent versions let only one thread decide.

    Without threadpoolctl (part of the extra `sklearn`) this does nothing; set `OMP_NUM_THREADS=1`
    in the environment then.
    """
    if getattr(_limited, "done", False):
        return
    _limited.done = True
    try:
        import threadpoolctl  # type: ignore[import-untyped]  # noqa: PLC0415 - untyped; optional
    except ImportError:
        return
    threadpoolctl.threadpool_limits(limits=1)


def use_one_job(model: Any) -> None:
    """Set `n_jobs=None` on every scikit-learn estimator inside `model`, in place.

    The estimators are found by walking the object, because `get_params` returns the unfitted template of an
    ensemble and not its fitted estimators.
    """
    base = sys.modules.get("sklearn.base")
    if base is None:
        return
    for one in reachable(model):
        if issubclass(type(one), base.BaseEstimator) and attributes(one).get("n_jobs") is not None:
            one.n_jobs = None


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
        waiting.extend(_parts(one))


def _parts(one: Any) -> list[Any]:
    # By `type`: `isinstance` asks the object, and a proxy returns the class it wraps, or raises.
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
    """The attributes of the instance, without running code of its class, unlike `vars` on a proxy."""
    try:
        own = object.__getattribute__(one, "__dict__")
    except AttributeError:
        return {}
    return own if isinstance(own, dict) else {}
