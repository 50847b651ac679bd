"""`eventml top`, which shows a running service live, and `eventml ui`, its console.

Both read the status on the operations ports of the service.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Final

import anyio
import typer
from msgspec import to_builtins
from rich.console import Console
from rich.text import Text

from eventml.bus import Bus, import_bus, stop_on_signals
from eventml.cli.buses import BackendOption, BusArgument, find, load_bus, seconds
from eventml.cli.output import (
    JsonOption,
    UsageError,
    format_table,
    print_json,
    print_text,
    redraw,
    start_logging,
)
from eventml.deploy.console import (
    Snapshot,
    fetch_status,
    format_age,
    format_bound,
    format_count,
    format_memory,
    format_seconds,
    handler_numbers,
    open_console,
    remote_status,
    worker_numbers,
)
from eventml.deploy.workers import HostPort, parse_host_port, serve_status
from eventml.errors import ConfigError, UnavailableError
from eventml.printable import cut, printable
from eventml.runtime import task_group

_LEAST_IMPORTANT: Final = (  # a narrow terminal leaves them out, in this order
    *("skipped", "duplicate", "stale", "complete", "call", "batch", "oldest", "retries", "memory", "trend"),
    *("in flight", "out/s", "models", "up", "restarts"),
)
_HANDLER: Final = (
    *("handler", "lag", "in flight", "in/s", "trend", "out/s", "dead", "left", "lost", "retries", "batch"),
    *("p50", "p99", "call", "complete", "stale", "duplicate", "skipped"),
)
_WORKER: Final = ("worker", "state", "up", "restarts", "in flight", "oldest", "memory", "models")
_BARS: Final = "▁▂▃▄▅▆▇█"
_TREND: Final = 20  # rates of a sparkline
_REASONS: Final = 5  # why a service is not ready


def top(
    bus: BusArgument,
    at: Annotated[
        str, typer.Option(metavar="[HOST:]PORT", help="Address of the service's operations port.")
    ] = str(HostPort()),
    every: Annotated[float, seconds(0.2, "Time between two updates.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one update and exit.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a running service live: its workers, lag, rates and latencies.

    Rates and latencies count since the last update, and latencies are upper bounds. `q` or Ctrl-C exits.
    With `--json`, one update is printed: numbers by column, times in seconds.
    """
    name, address, console = find(import_bus, bus).name, parse_host_port(at), Console()
    before = _snapshot(name, address)
    time.sleep(every)
    if not once and not as_json and console.is_terminal:
        redraw(_live(name, address, before), every)
        return
    now = _snapshot(name, address)
    if as_json:
        handlers, workers = handler_numbers(before, now), worker_numbers(now.status)
        print_json({"bus": name, "unready": now.status.unready, "handlers": handlers, "workers": workers})
    else:
        print_text(render(name, address, before, now, console.width if console.is_terminal else None))


def _live(name: str, address: HostPort, before: Snapshot) -> Callable[[int], Text]:
    """Return what renders the service for a width, each time from a new snapshot."""
    view, trends = "", dict[str, deque[float]]()

    def live(width: int) -> Text:
        nonlocal before, view
        problem = ""
        try:
            now = _snapshot(name, address)
        except UnavailableError as exc:
            problem = f"not ready: {printable(str(exc))}\n\n"
        else:
            for one in handler_numbers(before, now):
                trends.setdefault(one.handler, deque(maxlen=_TREND)).append(one.received or 0)
            view = render(name, address, before, now, width, trends)
            before = now
        shown = Text(f"{problem}{view}\n\nq: quit")
        shown.highlight_regex(r"(?m)^not ready: .*$|[^ ]+, no broker", "bold red")
        return shown

    return live


def _snapshot(bus: str, address: HostPort) -> Snapshot:
    try:
        return Snapshot(time.monotonic(), fetch_status(bus, address))
    except ConfigError as exc:
        raise UsageError(str(exc)) from exc


def render(
    bus: str,
    address: HostPort,
    before: Snapshot,
    now: Snapshot,
    width: int | None = None,
    trends: Mapping[str, deque[float]] | None = None,
) -> str:
    """Return the text for two snapshots: the service, handlers and workers, in columns that fit.

    `trends` are the last rates of each handler; without any, they are not shown.
    """
    status, workers = now.status, worker_numbers(now.status)
    ready = sum(one.ready for one in workers)
    title = (
        f"{bus} at {address}: {ready} of {len(workers)} workers ready, "
        f"{status.rolling_restarts} rolling restarts"
    )
    explained = (
        "since the start: dead, lost, retries (dead letters replayed since are counted)\n"
        f"in the last {now.at - before.at:.1f} s: in/s, out/s, batch; half of the latencies ≤ p50, 99% ≤ p99"
    )
    handlers = [{**to_builtins(one), "trend": ""} for one in handler_numbers(before, now)]
    for row in handlers:
        row["trend"] = sparkline(trends.get(row["handler"], ())) if trends else ""
    columns = [column for column in _HANDLER if trends or column != "trend"]
    tables = [
        "\n".join(format_table(names, [format_row(row, names) for row in rows], _LEAST_IMPORTANT, width))
        for names, rows in ((columns, handlers), (_WORKER, [to_builtins(one) for one in workers]))
        if rows
    ]
    reasons = [f"not ready: {printable(cut(reason))}" for reason in status.unready[:_REASONS]]
    return "\n\n".join(["\n".join([title, *reasons]), *tables[:1], explained, *tables[1:]])


def sparkline(rates: Iterable[float]) -> str:
    """Return rates as bars, the highest one as the full bar."""
    values = [*rates]
    highest = max(values, default=0) or 1
    return "".join(_BARS[round(value / highest * (len(_BARS) - 1))] for value in values)


def format_row(row: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """Return the cells of a row in these columns."""
    return [_FORMATS.get(column, format_count)(row[column]) for column in columns]


_FORMATS: Final[dict[str, Callable[[Any], str]]] = {
    **dict.fromkeys(("handler", "worker", "state", "trend"), str),
    **dict.fromkeys(("p50", "p99"), format_bound),
    **dict.fromkeys(("call", "complete", "oldest"), format_seconds),
    "batch": lambda size: format_count(size, "-"),
    "memory": format_memory,
    "up": format_age,
    "models": ", ".join,
}


log = logging.getLogger("eventml")


def ui(
    bus: BusArgument,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[HOST:]PORT", help="Address of an operations port of the service. Repeat it for more."
        ),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(
            metavar="[HOST:]PORT", help="Serve the console on this address; by default of loopback."
        ),
    ] = "9465",
    backend: BackendOption = None,
) -> None:
    """Serve the console of a bus that runs elsewhere.

    It reads the numbers from the operations ports of the service, and dead letters and records from the
    broker. SIGTERM or SIGINT stops it.
    """
    start_logging()
    ports = [parse_host_port(one) for one in at or [str(HostPort())]]
    anyio.run(_serve, load_bus(bus, backend), ports, parse_host_port(listen))


async def _serve(bus: Bus, ports: list[HostPort], address: HostPort) -> None:
    status = remote_status(bus.name, ports)
    with serve_status(status, address, open_pages=open_console(bus)):
        async with task_group() as tasks:
            tasks.start_soon(stop_on_signals, tasks.cancel_scope.cancel, tasks.cancel_scope.cancel)
            await anyio.sleep_forever()
