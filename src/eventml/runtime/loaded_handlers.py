"""Handlers that are ready to run: models loaded and checked, lifespans entered."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from functools import partial
from typing import Any

import msgspec
from anyio import to_thread
from msgspec import structs

from eventml import models
from eventml.codec import Decoder, Format
from eventml.errors import RegistrationError
from eventml.handlers import Handler
from eventml.models import Model
from eventml.runtime.model_versions.golden_rows import GoldenRows, check_golden_rows, read_golden_rows
from eventml.runtime.predictions import Profile, profile_of


class LoadedHandler(msgspec.Struct):
    """A handler that is ready to run. Its worker sets `model` when a new version takes over.

    Attributes:
        handler: The handler, with its final options.
        model: Its model, loaded; None if it has none.
        lifespans: The values of the lifespans that it has parameters for, by parameter name.
        decoder: Decoder of its events.
        formats: The formats of its outputs, by topic.
        canary: The model of its canary, loaded; None if it has none, or where it answers for none.
        profile: The predictions that are recorded for it, or for the predictor that it is a challenger of.
    """

    handler: Handler
    model: Model | None
    lifespans: Mapping[str, Any]
    decoder: Decoder
    formats: Mapping[str, Format] = {}
    canary: Model | None = None
    profile: Profile = Profile()

    @property
    def resources(self) -> dict[str, Any]:
        """The handler's arguments beside the events, by parameter name."""
        return resources(self.model, self.lifespans)


def resources(model: Model | None, lifespans: Mapping[str, Any]) -> dict[str, Any]:
    """A handler's arguments beside the events, by parameter name: its model, and values of lifespans."""
    return dict(lifespans) if model is None else {**lifespans, "model": model.object}


async def load_handlers(
    stack: AsyncExitStack,
    handlers: Sequence[Handler],
    lifespans: Mapping[str, Callable[[], Any]],
    codecs: Sequence[tuple[Decoder, Mapping[str, Format]]],
) -> list[LoadedHandler]:
    """Enter the lifespans that the handlers have parameters for, each once, and load the handlers' models.

    Closing `stack` leaves the lifespans, the last one first. `codecs` are the decoders of the handlers'
    events and the formats of their outputs, in their order.

    Raises:
        RegistrationError: a handler has a parameter, and there is no lifespan of its name.
        ModelError: a model cannot be loaded, or fails its golden rows.
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
    loaded, profiles = [], dict[str, Profile]()
    for handler, (decoder, formats) in zip(handlers, codecs, strict=True):
        own = {name: values[name] for name in handler.resource_names if name != "model"}
        rows = await _golden_rows(handler)
        model = None if handler.model is None else await load_model(handler, own, rows)
        if handler.champion in profiles:
            profiles[handler.name] = profiles[handler.champion]
        else:
            profiles[handler.name] = profile_of(rows[1], handler.outputs.values())
        loaded.append(LoadedHandler(handler, model, own, decoder, formats, profile=profiles[handler.name]))
    return loaded


async def _golden_rows(handler: Handler) -> GoldenRows:
    """The golden rows of a handler, read in a thread; none if it has no file of them."""
    path = handler.options.golden
    return ([], []) if path is None else await to_thread.run_sync(read_golden_rows, path, handler)


async def load_model(handler: Handler, lifespans: Mapping[str, Any], rows: GoldenRows | None = None) -> Model:
    """Load the model of a handler, and check it on the handler's golden rows, which are read if not given.

    In a thread: loading a large model must not stop the heartbeats of handlers that run already. It cannot be
    stopped, so a worker that is stopped meanwhile leaves it behind.

    Raises:
        ModelError: it cannot be loaded, or fails a golden row.
        RegistrationError: `model_poll` is set, and the model cannot change.
    """
    assert handler.model is not None  # noqa: S101 - for the type checker
    load = partial(models.load, handler.model, name=handler.name)
    model = await to_thread.run_sync(load, abandon_on_cancel=True)
    if (
        handler.options.model_poll is not None
        and not handler.champion
        and not models.can_change(handler.model)
    ):
        raise RegistrationError(
            f"{handler.name}: model_poll: its model is pinned, or made by a function, and cannot change "
            "while the worker runs; omit model_poll, or name a file without a pin, or a name in a registry"
        )
    if handler.options.golden is not None:
        checked = model if model.compared is None else structs.replace(model, object=model.compared)
        rows = rows or await _golden_rows(handler)
        await check_golden_rows(handler, model, resources(checked, lifespans), rows)
    # The original is not kept.
    return model if model.compared is None else structs.replace(model, compared=None)


async def load_canary(handler: Handler, model: Model | None, lifespans: Mapping[str, Any]) -> Model | None:
    """Load the model of a handler's canary, as `load_model` does, without golden rows: they are of `model`.

    None if there is none, or, with a warning, if it has the version of `model`: an alias may be moved to it.
    """
    if handler.canary is None or model is None:
        return None
    options = structs.replace(handler.options, golden=None, model_poll=None)
    other = structs.replace(handler, model=handler.canary.model, canary=None, options=options)
    canary = await load_model(other, lifespans)
    if canary.version != model.version:
        return canary
    warnings.warn(f"its canary is not used: it is version {model.version}, as its model is", stacklevel=2)
    return None
