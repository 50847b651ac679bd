"""The bus that a command works with, and the arguments and options that several commands take."""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, tzinfo
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Final, TypeVar

import typer

from eventml import config
from eventml.bus import Bus, import_bus, import_predictor
from eventml.cli.output import UsageError, print_message
from eventml.errors import AppNotFoundError
from eventml.handlers import Handler
from eventml.times import parse_time

T = TypeVar("T")

BusArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:BUS",
        help="Module of the app and the name of the bus in it, such as examples.rides.app:bus; or of a "
        "function that returns the bus, such as 'shop.app:make_bus()'.",
    ),
]
PredictorArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:PREDICTOR",
        help="Module of the app and the name of a predictor in it, such as examples.rides.app:duration; or "
        "with its bus, such as shop.app:orders:price, if that bus is in another module.",
    ),
]
TopicArgument = Annotated[str, typer.Argument(metavar="TOPIC", help="Name of the topic.")]
BackendOption = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="URL",
        help="URL of the backend, such as redis://localhost:6379. Overrides all configuration.",
    ),
]

NO_HANDLERS: Final = "the bus has no handlers; import the modules that define them in its module"


def seconds(minimum: float, text: str) -> Any:
    """Return an option that takes a time in seconds, for `Annotated`."""
    return typer.Option(metavar="SECONDS", min=minimum, help=text)


def time_option(text: str, *names: str, parse: Callable[[str, tzinfo], Any] = parse_time) -> Any:
    """Return an option that takes a time, in UTC if it has no offset, for `Annotated`."""

    def parse_in_utc(value: str) -> Any:
        try:
            return parse(value, UTC)
        except ValueError as exc:
            raise typer.BadParameter(str(exc)) from exc

    return typer.Option(*names, metavar="TIME", parser=parse_in_utc, help=text)


def with_options(options: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the parameters of a function to a command, whose first parameter takes the function's result.

    Several commands may share the function. Its annotations are those that typer reads.
    """
    shared = inspect.signature(options).parameters

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**arguments: Any) -> None:
            command(options(**{name: arguments.pop(name) for name in shared}), **arguments)

        _, *own = inspect.signature(command).parameters.values()
        return _with_parameters(run, [*shared.values(), *own])

    return decorate


def reads_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--config` and `--profile` to a command. They set the variables, which worker processes inherit."""
    added = inspect.signature(_set_variables, eval_str=True).parameters

    @wraps(command)
    def run(**arguments: Any) -> None:
        _set_variables(**{name: arguments.pop(name) for name in added})
        command(**arguments)

    return _with_parameters(run, [*inspect.signature(command).parameters.values(), *added.values()])


def _set_variables(
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", exists=True, dir_okay=False, help="Settings; else eventml.toml."
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="The profile: tables [profile.NAME] of the file.")
    ] = None,
) -> None:
    for name, value in ((config.FILE_VARIABLE, config_file), (config.PROFILE_VARIABLE, profile)):
        if value is not None:
            os.environ[name] = str(value)


def _with_parameters(
    run: Callable[..., None], parameters: Sequence[inspect.Parameter]
) -> Callable[..., None]:
    """The function, with these parameters for typer to read."""
    named = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    run.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined] # what typer reads
    return run


def load_bus(target: str, backend: str | None, overrides: Mapping[str, Any] | None = None) -> Bus:
    """Import the bus at `MODULE:BUS` and configure it. Raises what `find` and `configure` raise."""
    bus = find(import_bus, target)
    configure(bus, backend, overrides)
    return bus


def load_predictor(target: str, backend: str | None = None) -> tuple[Bus, Handler]:
    """Import the predictor at `MODULE:PREDICTOR`, and configure its bus, as `load_bus` does."""
    bus, name = find(import_predictor, target)
    configure(bus, backend)
    return bus, bus.configured_handler(name)


def bus_without_app(backend: str | None) -> Bus:
    """Make a bus for any topic, with settings for no bus, not those in [bus.cli]. Raises ConfigError."""
    bus = Bus("cli")
    bus.configure(config.load(overrides={"backend": backend} if backend else {}))
    return bus


def configure(bus: Bus, backend: str | None, overrides: Mapping[str, Any] | None = None) -> None:
    """Configure a bus; the command line overrides files and environment.

    Raises:
        ConfigError: the configuration is not valid.
    """
    bus.configure(bus.read_settings({**(overrides or {}), **({"backend": backend} if backend else {})}))


def backend_url(bus: Bus) -> str:
    """Return the URL of the backend of a configured bus, without its password."""
    return config.redact(bus.settings.backend.url)


@asynccontextmanager
async def open_shared(bus: Bus) -> AsyncIterator[Bus]:
    """Open a configured bus whose events other processes can reach.

    Raises:
        UsageError: they cannot, so the command has nothing to work on.
    """
    async with bus.open():
        if not bus.backend.capabilities.shared:
            raise UsageError(
                f"the backend {backend_url(bus)} lives in one process, and this command is another process "
                "that cannot reach its events. Name a backend that processes share: --backend redis://... or "
                "kafka://..., EVENTML_BACKEND or eventml.toml"
            )
        yield bus


def find(load: Callable[[str], T], target: str) -> T:
    """Call `import_bus` or `import_predictor` with the target that the command line names.

    Raises:
        AppNotFoundError: there is no such bus or predictor.
        typer.Exit: importing the module failed; its traceback has been printed.
    """
    try:
        return load(target)
    except AppNotFoundError:
        raise
    except Exception as exc:  # noqa: BLE001 - an app may fail in any way while it is imported
        trace = exc.__traceback__
        while trace is not None and _package(trace) in {"eventml", "importlib"}:
            trace = trace.tb_next  # the traceback begins in the app
        print_message("".join(traceback.format_exception(type(exc), exc, trace)))
        module, _, name = target.partition(":")
        called = f", or calling {name!r}," if "()" in name else ""
        print_message(f"importing the module {module!r}{called} failed", "error")
        raise typer.Exit(1) from None


def _package(trace: TracebackType) -> str:
    return str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
