"""Declarations: an app's topics and lifespans, and the settings that replace what the code declares."""

from __future__ import annotations

import inspect
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import structs

from eventml.codec import Format
from eventml.config import TopicSettings
from eventml.errors import RegistrationError
from eventml.handlers import Handler

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """A topic as `Bus.topic` declares it. Settings in `[topic."<name>"]` replace `id_field` and `codec`.

    Attributes:
        event_type: Type of its events, for consumers without a handler such as `eventml tail`.
        id_field: Field of an event that is its id.
        codec: Format that its events are encoded in.
    """

    event_type: Any = Any
    id_field: str | None = None
    codec: Format = "json"

    def configured(self, settings: TopicSettings | None) -> Topic:
        """This topic with its settings applied."""
        if settings is None:
            return self
        return structs.replace(
            self, id_field=settings.id_field or self.id_field, codec=settings.codec or self.codec
        )


def configure_handler(handler: Handler, settings: Mapping[str, Any]) -> Handler:
    """The handler with its settings applied: `model`, and fields of `HandlerOptions`."""
    options = {name: value for name, value in settings.items() if name != "model"}
    return structs.replace(
        handler,
        model=settings.get("model", handler.model),
        options=structs.replace(handler.options, **options),
    )


def lifespan_manager(function: Callable[[], Any]) -> Callable[[], Any]:
    """The context manager, plain or async, of a generator function.

    Raises:
        RegistrationError: The function is not a generator function.
    """
    if inspect.isasyncgenfunction(function):
        return asynccontextmanager(function)
    if inspect.isgeneratorfunction(function):
        return contextmanager(function)
    raise RegistrationError(f"{function.__name__}: a lifespan yields once, the value that handlers get")
