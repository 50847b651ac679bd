"""`eventml top`: a running service, live, over its operations port."""

from __future__ import annotations

import http.client
import time
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from eventml.cli.buses import import_bus
from eventml.cli.options import BusArgument
from eventml.cli.reporting import Refusal, reporting
from eventml.cli.watching import handler_lines, read_look, worker_lines
from eventml.deploy.workers import HostPort, parse_host_port
from eventml.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from eventml.cli.watching import HandlerLine, Look, WorkerLine

_WITHIN: Final = 5.0  # seconds for the port to answer
_WIDTH: Final = 80
_COLOURS: Final = {"ready": "green", "draining": "yellow", "starting": "yellow", "waiting": "yellow"}


@reporting()
def top(
    bus: BusArgument,
    at: Annotated[str, typer.Option("--at", metavar="[HOST:]PORT", help="Its operations port.")] = str(
        HostPort()
    ),
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.2, help="The time between two looks.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show one look and end.")] = False,
) -> None:
    """Watch a running service: its workers, groups, rates and latencies.

    Rates and latencies are those of the time between two looks. Ctrl-C ends it.
    """
    name, address, console = import_bus(bus).name, parse_host_port(at), Console()
    before = _look(name, address)
    if once or not console.is_terminal:
        time.sleep(every)
        plain = Console(width=_WIDTH) if not console.is_terminal else console
        plain.print(render(name, address, before, _look(name, address)))
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        shown: RenderableType = Text("looking ...")
        while True:
            try:
                time.sleep(every)
                now = _look(name, address)
            except UnavailableError as exc:
                live.update(Group(Text(str(exc), "bold red"), shown), refresh=True)
                continue
            except KeyboardInterrupt:
                return
            shown = render(name, address, before, now)
            live.update(shown, refresh=True)
            before = now


def render(bus: str, address: HostPort, before: Look, now: Look) -> RenderableType:
    """The view, no wider than 80 columns."""
    handlers, workers = handler_lines(before, now), worker_lines(now)
    ready = sum("ready" in worker.state for worker in workers)
    head = Text.assemble(
        (f" {bus}", "bold"),
        f" at {address}   ",
        (f"{ready} of {len(workers)} workers ready", "green" if ready == len(workers) else "bold red"),
        f"   {sum(worker.restarts for worker in workers):.0f} restarts",
        f"   {now.sum('eventml_rolling_restarts_total') or 0:.0f} rolling restarts",
    )
    return Group(head, Text(), _handlers(handlers), Text(), _workers(workers))


def _handlers(lines: Sequence[HandlerLine]) -> Table:
    columns = ("lag", "in hand", "in/s", "out/s", "dead", "retried", "batch", "p50", "p99")
    table = _table("handler", columns)
    for line in lines:
        table.add_row(
            Text(line.name),
            "?" if line.lag is None else short(line.lag),
            short(line.in_flight),
            short(line.received),
            short(line.published),
            Text(short(line.dead_letters), "red" if line.dead_letters else ""),
            short(line.retries),
            "-" if line.batch is None else short(line.batch),
            seconds(line.p50),
            seconds(line.p99),
        )
    return table


def _workers(lines: Sequence[WorkerLine]) -> Table:
    table = _table("worker", ("state", "up", "restarts", "in hand", "oldest"))
    table.add_column("models", overflow="ellipsis", no_wrap=True, ratio=1)
    for line in lines:
        state = line.state if line.connected else f"{line.state}, no broker"
        table.add_row(
            Text(line.name),
            Text(state, _COLOURS.get(line.state, "bold red") if line.connected else "bold red"),
            duration(line.uptime),
            short(line.restarts),
            short(line.in_flight),
            seconds(line.oldest) if line.in_flight else "-",
            Text(", ".join(line.models)),
        )
    return table


def _table(first: str, columns: Sequence[str]) -> Table:
    table = Table(box=None, width=_WIDTH, padding=(0, 1), header_style="bold")
    table.add_column(first, overflow="ellipsis", no_wrap=True, min_width=10)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def short(number: float) -> str:
    """A number in six characters at most: 999.9k, 12.3M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e3 if unit == 'k' else size):.1f}{unit}"
    return f"{number:,.0f}"


def seconds(value: float | None) -> str:
    """A latency, in milliseconds below a second."""
    if value is None:
        return "-"
    if value < 1:
        return f"{round(value * 1000, 2):.3g}ms"
    return f"{value:.3g}s" if value < 1000 else duration(value)  # noqa: PLR2004 - as many digits fit


def duration(value: float) -> str:
    """A time in its two largest units."""
    for size, unit, smaller, rest in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if value >= size:
            return f"{int(value // size)}{unit}{int(value % size // smaller):02d}{rest}"
    return f"{value:.0f}s"


def _look(bus: str, address: HostPort) -> Look:
    """Look at the service's metrics.

    Raises:
        UnavailableError: nobody answers there.
        Refusal: another bus does, or something else.
    """
    connection = http.client.HTTPConnection(address.host, address.port, timeout=_WITHIN)
    try:
        connection.request("GET", "/metrics", headers={"Accept": "text/plain"})
        answer = connection.getresponse()
        body = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as exc:
        raise UnavailableError(
            f"no service answers at {address} ({exc}); `eventml run ... --workers N` says where its "
            "operations port is: name it with --at"
        ) from exc
    finally:
        connection.close()
    try:
        look = read_look(body, time.monotonic())
    except ValueError:
        look = None
    found = [] if look is None or answer.status != http.client.OK else look.labels("eventml_info", "bus")
    if look is None or not found:
        raise Refusal(f"{address} is no operations port of eventml: {body.splitlines()[:1]}")
    if found != [bus]:
        raise Refusal(f"at {address} is the bus {found[0]!r}, not {bus!r}; name another port with --at")
    return look
