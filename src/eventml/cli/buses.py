"""The bus that a command works with, and the arguments and options that several commands take."""

from __future__ import annotations

import inspect
import re
import traceback
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from eventml import config
from eventml.bus import Bus, import_bus
from eventml.cli.output import UsageError, print_message
from eventml.errors import AppNotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from types import TracebackType

T = TypeVar("T")

BusArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:BUS",
        help="Module of the app and the name of the bus in it, such as examples.rides.app:bus.",
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

_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

NO_HANDLERS: Final = "the bus has no handlers; import the modules that define them in its module"


def seconds(minimum: float, text: str) -> Any:
    """Return an option that takes a time in seconds, for `Annotated`."""
    return typer.Option(metavar="SECONDS", min=minimum, help=text)


def parse_time(text: str) -> datetime | timedelta:
    """Return an age such as 90s, 15m, 2h or 3d, or a time in ISO 8601, which is UTC if it has no offset.

    Raises:
        typer.BadParameter: the text is neither.
    """
    try:
        if age := _AGE.fullmatch(text):
            return timedelta(**{_UNITS[age[2]]: float(age[1])})
        parsed = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as exc:
        raise typer.BadParameter(
            f"{text!r} is neither an age, such as 90s, 15m, 2h or 3d, nor a time, such as 2024-06-01T12:30"
        ) from exc
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


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
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*shared.values(), *own)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # what typer reads
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def load_bus(target: str, backend: str | None, overrides: Mapping[str, Any] | None = None) -> Bus:
    """Import the bus at `MODULE:BUS` and configure it. Raises what `find` and `configure` raise."""
    bus = find(import_bus, target)
    configure(bus, backend, overrides)
    return bus


def bus_of_topic(topic: str, backend: str | None, id_field: str | None = None) -> Bus:
    """Make a bus without an app, to publish to one topic or to read it. Raises what `configure` raises."""
    bus = Bus("cli")
    bus.topic(topic, id_field=id_field)
    configure(bus, backend)
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
        print_message(f"importing the module {target.partition(':')[0]!r} failed", "error")
        raise typer.Exit(1) from None


def _package(trace: TracebackType) -> str:
    return str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
