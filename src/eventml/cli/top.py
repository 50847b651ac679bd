"""`eventml top`: show a running service live, from the metrics on its operations port."""

from __future__ import annotations

import http.client
import math
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import msgspec
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from eventml.cli.buses import BusArgument, find_bus
from eventml.cli.output import UsageError, handle_errors
from eventml.deploy.workers import HostPort, parse_host_port
from eventml.errors import MissingExtraError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import RenderableType

Labels: TypeAlias = frozenset[tuple[str, str]]

_TIMEOUT: Final = 5.0  # seconds for the operations port to answer
_WIDTH: Final = 80  # columns
_COLOURS: Final = {"ready": "green", "draining": "yellow", "starting": "yellow", "waiting": "yellow"}


class Snapshot(msgspec.Struct, frozen=True):
    """The metrics of a service at one moment.

    Attributes:
        at: Time of a monotonic clock, in seconds.
        samples: Value of each sample by its name and labels.
    """

    at: float
    samples: Mapping[tuple[str, Labels], float]

    def sum(self, name: str, **labels: str) -> float | None:
        """Return the sum of the samples of a metric that have these labels; None if there are none."""
        wanted = set(labels.items())
        values = [value for (found, has), value in self.samples.items() if found == name and wanted <= has]
        return sum(values) if values else None

    def label_values(self, name: str, label: str) -> list[str]:
        """Return the values of a label of a metric, sorted."""
        values = (dict(labels).get(label) for found, labels in self.samples if found == name)
        return sorted({value for value in values if value is not None})


class HandlerRow(msgspec.Struct, frozen=True):
    """One handler, over the time between two snapshots.

    Rates are in events per second, latencies in seconds, `batch` in events per call. None is "unknown", or
    that nothing was handled in that time.
    """

    name: str
    lag: float | None
    in_flight: float
    received: float
    published: float
    dead_letters: float
    retries: float
    p50: float | None
    p99: float | None
    batch: float | None


class WorkerRow(msgspec.Struct, frozen=True):
    """One worker at the time of a snapshot; times are in seconds."""

    name: str
    state: str
    connected: bool
    uptime: float
    restarts: float
    in_flight: float
    oldest: float
    models: Sequence[str]


@handle_errors()
def top(
    bus: BusArgument,
    at: Annotated[
        str, typer.Option("--at", metavar="[HOST:]PORT", help="Address of the service's operations port.")
    ] = str(HostPort()),
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.2, help="Time between two updates.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one update and exit.")] = False,
) -> None:
    """Show a running service live: its workers, lag, rates and latencies.

    Rates and latencies are those since the last update. Ctrl-C exits.
    """
    name, address, console = find_bus(bus).name, parse_host_port(at), Console()
    before = _fetch(name, address)
    if once or not console.is_terminal:
        time.sleep(every)
        plain = Console(width=_WIDTH) if not console.is_terminal else console
        plain.print(render(name, address, before, _fetch(name, address)))
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        shown: RenderableType = Text("waiting for the first update")
        while True:
            try:
                time.sleep(every)
                now = _fetch(name, address)
            except UnavailableError as exc:
                live.update(Group(Text(str(exc), "bold red"), shown), refresh=True)
                continue
            except KeyboardInterrupt:
                return
            shown = render(name, address, before, now)
            live.update(shown, refresh=True)
            before = now


def _fetch(bus: str, address: HostPort) -> Snapshot:
    """Fetch the metrics of the service of a bus.

    Raises:
        UnavailableError: nothing answers at the address.
        UsageError: it is the operations port of another bus, or no operations port.
    """
    connection = http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT)
    try:
        connection.request("GET", "/metrics", headers={"Accept": "text/plain"})
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as exc:
        raise UnavailableError(
            f"no service answers at {address} ({exc}); the log of `eventml run ... --workers N` names its "
            "operations port: pass that as --at"
        ) from exc
    finally:
        connection.close()
    try:
        snapshot = parse_metrics(body, time.monotonic())
    except ValueError:
        snapshot = Snapshot(0.0, {})
    found = snapshot.label_values("eventml_info", "bus") if response.status == http.client.OK else []
    if not found:
        raise UsageError(
            f"{address} is not an operations port of eventml: it answers {body.splitlines()[:1]}"
        )
    if found != [bus]:
        raise UsageError(
            f"{address} belongs to the bus {found[0]!r}, not {bus!r}; name another port with --at"
        )
    return snapshot


def parse_metrics(text: str, at: float) -> Snapshot:
    """Parse metrics in the text format of Prometheus, taken at a time of a monotonic clock.

    Raises:
        MissingExtraError: prometheus_client is not installed.
        ValueError: the text has another format.
    """
    try:
        from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise MissingExtraError("metrics", "`eventml top`") from exc
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return Snapshot(at, {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples})


def handler_rows(before: Snapshot, now: Snapshot) -> list[HandlerRow]:
    """Return a row for each handler, by name, over the time between two snapshots."""
    return [
        _handler(before, now, name) for name in now.label_values("eventml_events_received_total", "handler")
    ]


def worker_rows(now: Snapshot) -> list[WorkerRow]:
    """Return a row for each worker, by name."""
    return [_worker(now, name) for name in now.label_values("eventml_worker_state", "worker")]


def _handler(before: Snapshot, now: Snapshot, name: str) -> HandlerRow:
    def increase(metric: str) -> float:
        return _increase(before, now, metric, name)

    seconds, calls = max(now.at - before.at, 1e-9), increase("eventml_batch_size_count")
    latencies = _buckets(before, now, "eventml_latency_seconds_bucket", name)
    return HandlerRow(
        name=name,
        lag=now.sum("eventml_lag", handler=name),
        in_flight=now.sum("eventml_events_in_flight", handler=name) or 0.0,
        received=increase("eventml_events_received_total") / seconds,
        published=increase("eventml_events_published_total") / seconds,
        dead_letters=now.sum("eventml_dead_letters_total", handler=name) or 0.0,
        retries=now.sum("eventml_retries_total", handler=name) or 0.0,
        p50=quantile(latencies, 0.5),
        p99=quantile(latencies, 0.99),
        batch=increase("eventml_batch_size_sum") / calls if calls else None,
    )


def _worker(now: Snapshot, name: str) -> WorkerRow:
    states, models = [], []
    for (metric, labels), value in now.samples.items():
        label = dict(labels)
        if metric == "eventml_worker_state" and value and label["worker"] == name:
            states.append(label["state"])
        elif metric == "eventml_model_info" and label["worker"] == name:
            models.append(f"{label['handler']} {label['version']}")
    return WorkerRow(
        name=name,
        state="+".join(sorted(states, key=lambda state: state != "ready")),
        connected=bool(now.sum("eventml_worker_connected", worker=name)),
        uptime=now.sum("eventml_worker_uptime_seconds", worker=name) or 0.0,
        restarts=now.sum("eventml_worker_restarts_total", worker=name) or 0.0,
        in_flight=now.sum("eventml_events_in_flight", worker=name) or 0.0,
        oldest=now.sum("eventml_oldest_in_flight_seconds", worker=name) or 0.0,
        models=sorted(models),
    )


def _increase(before: Snapshot, now: Snapshot, metric: str, handler: str) -> float:
    """Return the increase of a counter; its value if it is lower than before: the service was restarted."""
    earlier, later = before.sum(metric, handler=handler) or 0.0, now.sum(metric, handler=handler) or 0.0
    return later - earlier if later >= earlier else later


def _buckets(before: Snapshot, now: Snapshot, metric: str, handler: str) -> list[tuple[float, float]]:
    """Return the upper bound of each bucket of a histogram, and the increase of its cumulative count."""
    increases: dict[float, float] = defaultdict(float)
    restarted = (now.sum(metric, handler=handler) or 0.0) < (before.sum(metric, handler=handler) or 0.0)
    for (found, labels), value in now.samples.items():
        if found == metric and ("handler", handler) in labels:
            earlier = 0.0 if restarted else before.samples.get((found, labels), 0.0)
            increases[float(dict(labels)["le"])] += value - earlier
    return list(increases.items())


def quantile(buckets: Iterable[tuple[float, float]], q: float) -> float | None:
    """Return a quantile of a histogram, interpolated in its bucket as Prometheus' `histogram_quantile` does.

    Args:
        buckets: Upper bound and cumulative count of each bucket.
        q: The quantile, from 0 to 1.

    Returns:
        None if the histogram is empty. Above the highest finite bound, that bound.
    """
    ordered = sorted(buckets)
    if not ordered or ordered[-1][1] <= 0:
        return None
    rank, low, below = q * ordered[-1][1], 0.0, 0.0
    for bound, count in ordered:
        if count >= rank and count > below:
            return low if math.isinf(bound) else low + (bound - low) * (rank - below) / (count - below)
        low, below = bound, count
    return low


def render(bus: str, address: HostPort, before: Snapshot, now: Snapshot) -> RenderableType:
    """Return what is shown for two snapshots, at most 80 columns wide."""
    handlers, workers = handler_rows(before, now), worker_rows(now)
    ready = sum("ready" in worker.state for worker in workers)
    head = Text.assemble(
        (f" {bus}", "bold"),
        f" at {address}   ",
        (f"{ready} of {len(workers)} workers ready", "green" if ready == len(workers) else "bold red"),
        f"   {sum(worker.restarts for worker in workers):.0f} restarts",
        f"   {now.sum('eventml_rolling_restarts_total') or 0:.0f} rolling restarts",
    )
    return Group(head, Text(), _handler_table(handlers), Text(), _worker_table(workers))


def _handler_table(rows: Sequence[HandlerRow]) -> Table:
    columns = ("lag", "in flight", "in/s", "out/s", "dead", "retries", "batch", "p50", "p99")
    table = _table("handler", columns)
    for row in rows:
        table.add_row(
            Text(row.name),
            "?" if row.lag is None else format_number(row.lag),
            format_number(row.in_flight),
            format_number(row.received),
            format_number(row.published),
            Text(format_number(row.dead_letters), "red" if row.dead_letters else ""),
            format_number(row.retries),
            "-" if row.batch is None else format_number(row.batch),
            format_seconds(row.p50),
            format_seconds(row.p99),
        )
    return table


def _worker_table(rows: Sequence[WorkerRow]) -> Table:
    table = _table("worker", ("state", "up", "restarts", "in flight", "oldest"))
    table.add_column("models", overflow="ellipsis", no_wrap=True, ratio=1)
    for row in rows:
        state = row.state if row.connected else f"{row.state}, no broker"
        table.add_row(
            Text(row.name),
            Text(state, _COLOURS.get(row.state, "bold red") if row.connected else "bold red"),
            format_duration(row.uptime),
            format_number(row.restarts),
            format_number(row.in_flight),
            format_seconds(row.oldest) if row.in_flight else "-",
            Text(", ".join(row.models)),
        )
    return table


def _table(first: str, columns: Sequence[str]) -> Table:
    table = Table(box=None, width=_WIDTH, padding=(0, 1), header_style="bold")
    table.add_column(first, overflow="ellipsis", no_wrap=True, min_width=10)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def format_number(number: float) -> str:
    """Return a number in at most six characters, such as 999.9k or 12.3M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e3 if unit == 'k' else size):.1f}{unit}"
    return f"{number:,.0f}"


def format_seconds(value: float | None) -> str:
    """Return a latency in milliseconds below a second, in seconds above."""
    if value is None:
        return "-"
    if value < 1:
        return f"{round(value * 1000, 2):.3g}ms"
    return f"{value:.3g}s" if value < 1000 else format_duration(value)  # noqa: PLR2004 - four digits do not fit


def format_duration(value: float) -> str:
    """Return a time in its two largest units, such as 1h05m."""
    for size, unit, smaller, rest in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if value >= size:
            return f"{int(value // size)}{unit}{int(value % size // smaller):02d}{rest}"
    return f"{value:.0f}s"
