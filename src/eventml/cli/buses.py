"""The bus that a command works with: the app's, imported; or one of the command line's own."""

from __future__ import annotations

import difflib
import importlib
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from eventml import config
from eventml.bus import Bus
from eventml.cli.reporting import Refusal, say

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType, TracebackType


def app_bus(place: str, backend: str | None) -> Bus:
    """Import the bus at `MODULE:BUS`, and configure it with the backend that the command line names.

    Raises:
        Refusal: there is no bus there.
        typer.Exit: the module failed; its traceback has been shown.
        ConfigError: the configuration cannot be used.
    """
    bus = import_bus(place)
    configure(bus, backend)
    return bus


def own_bus(topic: str, backend: str | None, id_field: str | None = None) -> Bus:
    """A bus without an app, to publish to a topic or to read it.

    Raises:
        ConfigError: the configuration cannot be used.
    """
    bus = Bus("cli")
    bus.topic(topic)
    configure(bus, backend, {"topic": {topic: {"id_field": id_field}}} if id_field else {})
    return bus


def configure(bus: Bus, backend: str | None, overrides: Mapping[str, Any] | None = None) -> None:
    """Configure the bus, with the strongest say given to the command line."""
    said = {**(overrides or {}), **({"backend": backend} if backend else {})}
    bus.configure(bus.read_settings(said))


def url_of(bus: Bus) -> str:
    """The URL of the bus's backend, fit to be shown."""
    return config.redact(bus.settings.backend.url)


def require_shared(bus: Bus) -> None:
    """Pass if other processes can reach what is on the open bus's backend.

    Raises:
        Refusal: they cannot, so a command is of no use.
    """
    if not bus.backend.capabilities.shared:
        raise Refusal(
            f"a bus on {url_of(bus)} lives in one process: another one, such as this command, cannot reach "
            "its events. Name a backend that processes share, with --backend redis://... or kafka://..., "
            "EVENTML_BACKEND or eventml.toml"
        )


def import_bus(place: str) -> Bus:
    """Import the bus at `MODULE:BUS`, with the current directory on the path as `python -m` has it."""
    module, name = import_at(place, "MODULE:BUS, such as examples.rides.app:bus")
    return _bus_in(module, name)


def import_predictor(place: str) -> tuple[Bus, str]:
    """The bus that the predictor at `MODULE:PREDICTOR` is registered with, and its handler's name.

    Raises:
        Refusal: there is no such predictor, or it is registered with several buses.
        typer.Exit: the module failed; its traceback has been shown.
    """
    module, name = import_at(place, "MODULE:PREDICTOR, such as examples.rides.app:duration")
    buses = list({id(bus): bus for bus in vars(module).values() if isinstance(bus, Bus)}.values())
    function = getattr(module, name, None)
    found = [
        (bus, handler.name)
        for bus in buses
        for handler in bus.handlers.values()
        if (handler.function is function if callable(function) else handler.name == name)
    ]
    if len(found) == 1:
        return found[0]
    known = [handler.name for bus in buses for handler in bus.handlers.values() if handler.to is not None]
    if found:
        names = ", ".join(handler for _, handler in found)
        raise Refusal(f"{place}: registered more than once, as {names}; name the handler, not the function")
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {module.__name__}:{close[0]}?" if close else f"; there are: {', '.join(known)}"
    raise Refusal(
        f"{place}: no predictor of that name is registered with a bus of the module{hint if known else ''}"
    )


def import_at(place: str, expected: str) -> tuple[ModuleType, str]:
    """The module of `MODULE:NAME`, and the name."""
    module_name, _, name = place.partition(":")
    if not module_name or not name:
        raise Refusal(f"{place!r}: expected {expected}")
    if module_name.endswith(".py") or "/" in module_name:
        dotted = module_name.removesuffix(".py").removeprefix("./").replace("/", ".")
        raise Refusal(f"{place!r}: expected a module's name, not a file: {dotted}:{name}")
    here = str(Path.cwd())
    if sys.path[0] != here:
        sys.path.insert(0, here)
    return import_module(module_name), name


def import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        # A module that is there but imports one that is not has failed by itself.
        if exc.name is not None and f"{name}.".startswith(f"{exc.name}."):
            raise Refusal(
                f"no module is named {exc.name!r} (looked in {Path.cwd()} and Python's own path)"
            ) from exc
        _show(name, exc)
    except Exception as exc:  # noqa: BLE001 - an app may fail in any way while it is imported
        _show(name, exc)
    raise typer.Exit(1)


def _show(name: str, error: Exception) -> None:
    """Show the app's part of the traceback: our frames, and the import machinery's, say nothing."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and _is_foreign(trace):
        trace = trace.tb_next
    say("".join(traceback.format_exception(type(error), error, trace)))
    say(f"the module {name!r} failed while it was imported", "error")


def _is_foreign(trace: TracebackType) -> bool:
    module = str(trace.tb_frame.f_globals.get("__name__", ""))
    return module == __name__ or module.partition(".")[0] == "importlib"


def _bus_in(module: ModuleType, name: str) -> Bus:
    found = getattr(module, name, None)
    if isinstance(found, Bus):
        return found
    buses = [known for known, value in vars(module).items() if isinstance(value, Bus)]
    close = difflib.get_close_matches(name, buses, n=1) or (buses if len(buses) == 1 else [])
    hint = f"; did you mean {module.__name__}:{close[0]}?" if close else ""
    what = "it has no such attribute" if found is None else f"that is a {type(found).__name__}, not a Bus"
    raise Refusal(f"{module.__name__}:{name}: {what}{hint}")
