"""What a handler needs before it can run: its model, loaded, and its lifespans, entered."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from anyio import to_thread

from eventml import models
from eventml.errors import RegistrationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AsyncExitStack

    from eventml.codec import Decoder, Format
    from eventml.handlers import Handler
    from eventml.models import Model


class LoadedHandler(msgspec.Struct, frozen=True):
    """A handler with all that it needs to run.

    Attributes:
        handler: What runs, its options final.
        model: Its model, loaded.
        resources: What it takes beside the events, by parameter name.
        format: How its outputs are encoded.
        decoder: Decoder of its events; None to decode records in the format that each names.
    """

    handler: Handler
    model: Model | None
    resources: Mapping[str, Any]
    format: Format = "json"
    decoder: Decoder | None = None


async def enter_lifespans(
    stack: AsyncExitStack, handlers: Sequence[Handler], lifespans: Mapping[str, Callable[[], Any]]
) -> dict[str, Any]:
    """Enter each lifespan that a handler wants, once. The stack leaves them, last first.

    Raises:
        RegistrationError: a handler has a parameter that nothing gives it.
    """
    values: dict[str, Any] = {}
    for handler in handlers:
        for name in handler.wants:
            if name == "model" or name in values:
                continue
            if name not in lifespans:
                raise RegistrationError(
                    f"{handler.name}: nothing gives it {name!r}; define a lifespan of that name with "
                    "@bus.lifespan, or give the parameter a default"
                )
            entered = lifespans[name]()
            if isinstance(entered, AbstractContextManager):
                values[name] = stack.enter_context(entered)
            else:
                values[name] = await stack.enter_async_context(entered)
    return values


async def load_handler(handler: Handler, resources: Mapping[str, Any], format: Format) -> LoadedHandler:  # noqa: A002 - its word
    """Load the handler's model, and give it what it wants.

    Raises:
        ModelError: the model cannot be loaded.
    """
    wanted = {name: resources[name] for name in handler.wants if name != "model"}
    model: Model | None = None
    if handler.model is not None:
        # In a thread: reading a large model must not stop the heartbeats of what runs already.
        model = await to_thread.run_sync(partial(models.load, handler.model, name=handler.name))
        wanted["model"] = model.object
    return LoadedHandler(handler, model, wanted, format)
