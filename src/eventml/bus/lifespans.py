"""What handlers need while they run, as a generator that yields it once."""

from __future__ import annotations

import inspect
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from eventml.errors import RegistrationError

if TYPE_CHECKING:
    from collections.abc import Callable


def read_lifespan(function: Callable[[], Any]) -> Callable[[], Any]:
    """The context manager, plain or async, that a generator function is.

    Raises:
        RegistrationError: it is no generator function.
    """
    if inspect.isasyncgenfunction(function):
        return asynccontextmanager(function)
    if inspect.isgeneratorfunction(function):
        return contextmanager(function)
    raise RegistrationError(f"{function.__name__}: a lifespan yields, once, what handlers take")
