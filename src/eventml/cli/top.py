"""`eventml top`: show a running service live, from the metrics on its operations port."""

from __future__ import annotations

import http.client
import math
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import msgspec
import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from eventml.bus import import_bus
from eventml.cli.buses import BusArgument, find, seconds
from eventml.cli.output import UsageError, format_table, print_text
from eventml.deploy.workers import HostPort, parse_host_port
from eventml.errors import MissingExtraError, UnavailableError
from eventml.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

Labels: TypeAlias = frozenset[tuple[str, str]]

_TIMEOUT: Final = 5.0  # seconds for the operations port to answer
_HANDLERS: Final = (
    *("handler", "lag", "in flight", "in/s", "out/s", "dead", "lost", "retries", "batch", "p50", "p99"),
)
_WORKERS: Final = ("worker", "state", "up", "restarts", "in flight", "oldest", "models")


class Snapshot(msgspec.Struct, frozen=True):
    """The metrics of a service at one moment, or their increase between two."""

    at: float  # seconds, of a monotonic clock
    samples: Mapping[tuple[str, Labels], float]  # by name and labels

    def since(self, before: Snapshot) -> Snapshot:
        """Return the increase of each counter; its value if it was reset. A histogram is reset as a whole."""
        samples = self.samples.items()
        reset = {_series(sample) for sample, value in samples if value < before.samples.get(sample, 0)}
        earlier = {one: value for one, value in before.samples.items() if _series(one) not in reset}
        return Snapshot(self.at, {sample: value - earlier.get(sample, 0) for sample, value in samples})

    def sum(self, name: str, **labels: str) -> float | None:
        """Return the sum of the samples of a metric that have these labels; None if there are none."""
        values = [
            value for (metric, has), value in self.samples.items() if metric == name and labels.items() <= has
        ]
        return sum(values) if values else None

    def label_values(self, name: str, label: str, **labels: str) -> list[str]:
        """Return the values of a label in the samples of a metric that have these labels, sorted."""
        found = (dict(has) for (metric, has) in self.samples if metric == name and labels.items() <= has)
        return sorted({has[label] for has in found if label in has})


def _series(sample: tuple[str, Labels]) -> tuple[str, Labels]:
    """The name and the labels of a sample, without the bound of a histogram's bucket."""
    name, labels = sample
    return name, frozenset(label for label in labels if label[0] != "le")


def top(
    bus: BusArgument,
    at: Annotated[
        str, typer.Option(metavar="[HOST:]PORT", help="Address of the service's operations port.")
    ] = str(HostPort()),
    every: Annotated[float, seconds(0.2, "Time between two updates.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one update and exit.")] = False,
) -> None:
    """Show a running service live: its workers, lag, rates and latencies.

    Rates and latencies are those since the last update. Ctrl-C exits.
    """
    name, address, console = find(import_bus, bus).name, parse_host_port(at), Console()
    before = _fetch(name, address)
    if once or not console.is_terminal:
        time.sleep(every)
        print_text(render(name, address, before, _fetch(name, address)))
        return
    view = "waiting for the first update"
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            problem = ""
            try:
                time.sleep(every)
                now = _fetch(name, address)
                view, before = render(name, address, before, now), now
            except UnavailableError as exc:
                problem = f"{printable(str(exc))}\n\n"
            except KeyboardInterrupt:
                return
            live.update(Text(f"{problem}{view}", no_wrap=True), refresh=True)


def _fetch(bus: str, address: HostPort) -> Snapshot:
    """Fetch the metrics of the service of a bus; refuse any port that is not its own."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT)
    try:
        connection.request("GET", "/metrics", headers={"Accept": "text/plain"})
        body = connection.getresponse().read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as exc:
        raise UnavailableError(
            f"no service answers at {address} ({exc}); the log of `eventml run ... --workers N` names its "
            "operations port: pass that as --at"
        ) from exc
    finally:
        connection.close()
    try:
        snapshot = parse_metrics(body, time.monotonic())
        [found] = snapshot.label_values("eventml_info", "bus")
    except ValueError as exc:
        raise UsageError(
            f"{address} is not an operations port of eventml: it answers {body.splitlines()[:1]}"
        ) from exc
    if found != bus:
        raise UsageError(f"{address} belongs to the bus {found!r}, not {bus!r}; name another port with --at")
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


def render(bus: str, address: HostPort, before: Snapshot, now: Snapshot) -> str:
    """Return what is shown for two snapshots: a line about the service, its handlers and its workers."""
    handlers = now.label_values("eventml_events_received_total", "handler")
    workers = now.label_values("eventml_worker_state", "worker")
    ready = sum(bool(now.sum("eventml_worker_state", worker=name, state="ready")) for name in workers)
    rolling = now.sum("eventml_rolling_restarts_total") or 0
    return "\n\n".join(
        [
            f"{bus} at {address}: {ready} of {len(workers)} workers ready, {rolling:.0f} rolling restarts",
            format_table(_HANDLERS, [handler_row(before, now, name) for name in handlers]),
            format_table(_WORKERS, [worker_row(now, name) for name in workers]),
        ]
    )


def handler_row(before: Snapshot, now: Snapshot, name: str) -> list[str]:
    """Return the numbers of a handler; rates and latencies are those of the time between two snapshots."""
    rise, seconds = now.since(before), max(now.at - before.at, 1e-9)
    received = rise.sum("eventml_events_received_total", handler=name) or 0
    published = rise.sum("eventml_events_published_total", handler=name) or 0
    calls = rise.sum("eventml_batch_size_count", handler=name) or 0
    in_calls = rise.sum("eventml_batch_size_sum", handler=name) or 0
    bucket = "eventml_latency_seconds_bucket"
    bounds = rise.label_values(bucket, "le", handler=name)
    latencies = {float(bound): rise.sum(bucket, handler=name, le=bound) or 0 for bound in bounds}
    return [
        name,
        format_number(now.sum("eventml_lag", handler=name)),
        format_number(now.sum("eventml_events_in_flight", handler=name)),
        format_number(received / seconds),
        format_number(published / seconds),
        format_number(now.sum("eventml_dead_letters_total", handler=name)),
        format_number(now.sum("eventml_records_lost_total", handler=name)),
        format_number(now.sum("eventml_retries_total", handler=name)),
        format_number(in_calls / calls if calls else None),
        format_seconds(quantile(latencies, 0.5)),
        format_seconds(quantile(latencies, 0.99)),
    ]


def worker_row(now: Snapshot, name: str) -> list[str]:
    """Return the state and the numbers of a worker."""
    states = now.label_values("eventml_worker_state", "state", worker=name)
    current = [s for s in states if now.sum("eventml_worker_state", worker=name, state=s)]
    connected = now.sum("eventml_worker_connected", worker=name)
    state = "+".join(current) if connected else f"{'+'.join(current)}, no broker"
    for handler in now.label_values("eventml_broker_failing_seconds", "handler", worker=name):
        if (failing := now.sum("eventml_broker_failing_seconds", worker=name, handler=handler) or 0) >= 1:
            state += f", {handler} fails for {format_seconds(failing)}"
    for handler in now.label_values("eventml_handler_breaker_open", "handler", worker=name):
        if now.sum("eventml_handler_breaker_open", worker=name, handler=handler):
            state += f", {handler} has stopped: most of its events fail"
    models = (dict(labels) for (metric, labels) in now.samples if metric == "eventml_model_info")
    return [
        name,
        state,
        str(timedelta(seconds=int(now.sum("eventml_worker_uptime_seconds", worker=name) or 0))),
        format_number(now.sum("eventml_worker_restarts_total", worker=name)),
        format_number(now.sum("eventml_events_in_flight", worker=name)),
        format_seconds(now.sum("eventml_oldest_in_flight_seconds", worker=name)),
        ", ".join(sorted(f"{m['handler']} {m['version']}" for m in models if m["worker"] == name)),
    ]


def quantile(buckets: Mapping[float, float], q: float) -> float | None:
    """Return a quantile of a histogram, interpolated in its bucket as Prometheus' `histogram_quantile` does.

    `buckets` are cumulative counts by upper bound, and `q` is from 0 to 1. The quantile of an empty histogram
    is None, and one above the highest finite bound is that bound.
    """
    ordered = sorted(buckets.items())
    if not ordered or ordered[-1][1] <= 0:
        return None
    rank, low, below = q * ordered[-1][1], 0.0, 0.0
    for bound, count in ordered:
        if count >= rank and count > below:
            return low if math.isinf(bound) else low + (bound - low) * (rank - below) / (count - below)
        low, below = bound, count
    return low


def format_number(number: float | None) -> str:
    """Return a number without fractions, or "-" if it is not known."""
    return "-" if number is None else f"{number:,.0f}"


def format_seconds(seconds: float | None) -> str:
    """Return a time in milliseconds below a second and in seconds above, or "-" if it is not known."""
    if seconds is None:
        return "-"
    return f"{seconds:,.1f}s" if seconds >= 1 else f"{round(seconds * 1000, 2):.3g}ms"
