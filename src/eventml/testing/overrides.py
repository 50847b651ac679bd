"""Temporary settings, models and lifespans for a bus under test."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from eventml import config
from eventml.errors import ConfigError
from eventml.models import Artefact, Model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import msgspec

    from eventml.bus import Bus
    from eventml.handlers import Handler

_BACKOFF: Final = 0.001  # seconds: the number of retries stays, the waits between them are short


@contextmanager
def overriding(
    bus: Bus,
    *,
    url: str,
    options: msgspec.Struct,
    drain: float,
    models: Mapping[str, Any],
    lifespans: Mapping[str, Any],
    raised: list[tuple[str, Exception]],
) -> Iterator[None]:
    """Replace a bus's settings, models and lifespans while the context is entered.

    Args:
        bus: The bus; it is restored on exit.
        url: URL of the in-memory hub to use.
        options: Settings of the in-memory hub.
        drain: The bus's `drain`, in seconds.
        models: Replacements of models, by the handler's name.
        lifespans: Replacements of lifespans' values, by the lifespan's name.
        raised: A list that each exception raised by a handler is appended to, with the handler's name.

    Raises:
        ConfigError: there is no handler with a model, or no lifespan, of a given name.
    """
    handlers, settings, own = dict(bus.handlers), bus._settings, dict(bus.lifespans)  # noqa: SLF001 - to restore them
    _check(bus.name, models, {n for n, h in handlers.items() if h.model is not None}, "handler with a model")
    _check(bus.name, lifespans, own, "lifespan")
    backend = config.BackendSettings(url=url, options=options)
    try:
        bus.configure(config.Settings(backend=backend, drain=drain))
        for name, handler in handlers.items():
            bus.handlers[name] = _overridden(handler, models, raised)
        for name, value in lifespans.items():
            bus.lifespans[name] = _lifespan_of(value)
        yield
    finally:
        bus.handlers.update(handlers)
        bus.lifespans.update(own)
        bus._settings = settings  # noqa: SLF001 - as above


def _check(bus: str, given: Mapping[str, Any], known: Mapping[str, Any] | set[str], what: str) -> None:
    if unknown := [name for name in given if name not in known]:
        there_are = ", ".join(sorted(known)) or "none"
        raise ConfigError(f"bus {bus!r} has no {what} named {unknown[0]!r}; there are: {there_are}")


def _lifespan_of(value: Any) -> Callable[[], Any]:
    return lambda: nullcontext(value)


def _overridden(handler: Handler, models: Mapping[str, Any], raised: list[tuple[str, Exception]]) -> Handler:
    options = handler.options
    return replace(
        handler,
        function=_recording(handler, raised),
        model=_model(handler, models[handler.name]) if handler.name in models else handler.model,
        options=replace(
            options,
            backoff=min(options.backoff, _BACKOFF),
            max_backoff=min(options.max_backoff, 10 * _BACKOFF),
        ),
    )


def _model(handler: Handler, stand_in: Any) -> Any:
    if isinstance(stand_in, Model | Artefact):
        return stand_in
    return Model(object=stand_in, name=handler.name, version="test")


def _recording(handler: Handler, raised: list[tuple[str, Exception]]) -> Callable[..., Any]:
    function = handler.function

    @wraps(function)
    async def call_async(*args: Any, **kwargs: Any) -> Any:
        try:
            return await function(*args, **kwargs)
        except Exception as exc:
            raised.append((handler.name, exc))
            raise

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as exc:
            raised.append((handler.name, exc))
            raise

    return call_async if handler.is_async else call
