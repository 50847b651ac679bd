"""Resources of a handler: its model is loaded and its lifespans are entered before it runs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from anyio import to_thread

from eventml import models
from eventml.codec import Decoder, Format
from eventml.errors import RegistrationError
from eventml.handlers import Handler
from eventml.models import Model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AsyncExitStack


class LoadedHandler(msgspec.Struct, frozen=True):
    """A handler that is ready to run.

    Attributes:
        handler: The handler, with its final options.
        model: Its model, loaded; None if it has none.
        resources: Its arguments beside the events, by parameter name: the model and values of lifespans.
        format: The format of its outputs.
        decoder: Decoder of its events; None for one that decodes each record in the format that it names.
    """

    handler: Handler
    model: Model | None
    resources: Mapping[str, Any]
    format: Format = "json"
    decoder: Decoder | None = None


async def enter_lifespans(
    stack: AsyncExitStack, handlers: Sequence[Handler], lifespans: Mapping[str, Callable[[], Any]]
) -> dict[str, Any]:
    """Enter each lifespan that a handler has a parameter for, once. Returns their values by name.

    Args:
        stack: Leaves the lifespans, the last one first.
        handlers: The handlers.
        lifespans: The bus's lifespans, by name.

    Raises:
        RegistrationError: a handler has a parameter that no lifespan is named like.
    """
    values: dict[str, Any] = {}
    for handler in handlers:
        for name in handler.resource_names:
            if name == "model" or name in values:
                continue
            if name not in lifespans:
                raise RegistrationError(
                    f"{handler.name}: its parameter {name!r} has no value; define a lifespan of that name "
                    "with @bus.lifespan, or give the parameter a default"
                )
            entered = lifespans[name]()
            if isinstance(entered, AbstractContextManager):
                values[name] = stack.enter_context(entered)
            else:
                values[name] = await stack.enter_async_context(entered)
    return values


async def load_handler(
    handler: Handler, resources: Mapping[str, Any], output_format: Format
) -> LoadedHandler:
    """Load the handler's model, and collect its resources.

    Args:
        handler: The handler.
        resources: The values of the lifespans, by name.
        output_format: The format of its outputs.

    Raises:
        ModelError: the model cannot be loaded.
    """
    own = {name: resources[name] for name in handler.resource_names if name != "model"}
    model: Model | None = None
    if handler.model is not None:
        # In a thread: loading a large model must not stop the heartbeats of handlers that run already.
        model = await to_thread.run_sync(partial(models.load, handler.model, name=handler.name))
        own["model"] = model.object
    return LoadedHandler(handler, model, own, output_format)
