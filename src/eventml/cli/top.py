"""`eventml top`: show a running service live, from the metrics on its operations port."""

from __future__ import annotations

import http.client
import math
import time
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import msgspec
import typer
from rich.console import Console

from eventml.bus import import_bus
from eventml.cli.buses import BusArgument, find, seconds
from eventml.cli.output import JsonOption, UsageError, print_json, print_text, redraw
from eventml.cli.tables import format_table
from eventml.deploy.workers import HostPort, parse_host_port
from eventml.errors import MissingExtraError, UnavailableError
from eventml.printable import cut, printable
from eventml.runtime import SECONDS_BUCKETS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Labels: TypeAlias = frozenset[tuple[str, str]]

_TIMEOUT: Final = 5.0  # seconds for the operations port to answer
_LEAST_IMPORTANT: Final = (  # a narrow terminal leaves them out, in this order
    *("skipped", "duplicate", "stale", "complete", "call", "batch", "oldest", "retries"),
    *("in flight", "out/s", "models", "up", "restarts"),
)


class Snapshot(msgspec.Struct, frozen=True):
    """The metrics of a service at one moment, or their increase between two."""

    at: float  # seconds, of a monotonic clock
    samples: Mapping[tuple[str, Labels], float]  # by name and labels
    unready: Sequence[str] = ()  # why the service is not ready: the first lines of its own answer

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

    def mean(self, histogram: str, **labels: str) -> float | None:
        """Return the mean of the values of a histogram that have these labels; None if there are none."""
        count = self.sum(f"{histogram}_count", **labels)
        return (self.sum(f"{histogram}_sum", **labels) or 0) / count if count else None

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
    as_json: JsonOption = False,
) -> None:
    """Show a running service live: its workers, lag, rates and latencies.

    Rates and latencies count since the last update, and latencies are upper bounds. Ctrl-C exits.
    With `--json`, one update is printed: numbers by column, times in seconds.
    """
    name, address, console = find(import_bus, bus).name, parse_host_port(at), Console()
    before = _fetch(name, address)
    time.sleep(every)
    if as_json:
        now = _fetch(name, address)
        handlers, workers = rows(before, now)
        found = {"bus": name, "unready": now.unready, "handlers": handlers, "workers": workers}
        print_json(found)
        return
    if once or not console.is_terminal:
        width = console.width if console.is_terminal else None
        print_text(render(name, address, before, _fetch(name, address), width))
        return
    view = ""

    def update(width: int) -> str:
        nonlocal before, view
        try:
            now = _fetch(name, address)
        except UnavailableError as exc:
            return f"{printable(str(exc))}\n\n{view}"
        view, before = render(name, address, before, now, width), now
        return view

    redraw(update, every)


def _fetch(bus: str, address: HostPort) -> Snapshot:
    """Fetch the metrics of the service of a bus; refuse any port that is not its own."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        reasons = answer.read().decode(errors="replace").splitlines()[:5]
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
    return msgspec.structs.replace(snapshot, unready=[] if answer.status == HTTPStatus.OK else reasons)


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


def render(bus: str, address: HostPort, before: Snapshot, now: Snapshot, width: int | None = None) -> str:
    """Return what is shown for two snapshots: the service, handlers and workers, in columns that fit."""
    handlers, workers = rows(before, now)
    ready = sum(row["state"].startswith("ready") and "no broker" not in row["state"] for row in workers)
    rolling = now.sum("eventml_rolling_restarts_total") or 0
    title = f"{bus} at {address}: {ready} of {len(workers)} workers ready, {rolling:.0f} rolling restarts"
    explained = (
        "since the start: dead, lost, retries (dead letters replayed since are counted)\n"
        f"in the last {now.at - before.at:.1f} s: in/s, out/s, batch; half of the latencies ≤ p50, 99% ≤ p99"
    )
    tables = [
        "\n".join(format_table([*found[0]], list(map(format_row, found)), _LEAST_IMPORTANT, width))
        for found in (handlers, workers)
        if found
    ]
    reasons = [f"not ready: {printable(cut(reason))}" for reason in now.unready]
    return "\n\n".join(["\n".join([title, *reasons]), *tables[:1], explained, *tables[1:]])


def rows(before: Snapshot, now: Snapshot) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of the handlers and those of the workers: values by column."""
    handlers = now.label_values("eventml_events_received_total", "handler")
    workers = now.label_values("eventml_worker_state", "worker")
    return [handler_row(before, now, name) for name in handlers], [worker_row(now, name) for name in workers]


def format_row(row: Mapping[str, Any]) -> list[str]:
    """Return the cells of a row."""
    return [_FORMATS.get(column, format_number)(value) for column, value in row.items()]


def handler_row(before: Snapshot, now: Snapshot, name: str) -> dict[str, Any]:
    """Return the numbers of a handler; rates and latencies are those of the time between two snapshots."""
    rise, seconds = now.since(before), max(now.at - before.at, 1e-9)
    bucket = "eventml_latency_seconds_bucket"
    bounds = rise.label_values(bucket, "le", handler=name)
    latencies = {float(bound): rise.sum(bucket, handler=name, le=bound) or 0 for bound in bounds}
    return {
        "handler": name,
        "lag": now.sum("eventml_lag", handler=name),
        "in flight": now.sum("eventml_events_in_flight", handler=name),
        "in/s": (rise.sum("eventml_events_received_total", handler=name) or 0) / seconds,
        "out/s": (rise.sum("eventml_events_published_total", handler=name) or 0) / seconds,
        "dead": now.sum("eventml_dead_letters_total", handler=name),
        "lost": now.sum("eventml_records_lost_total", handler=name),
        "retries": now.sum("eventml_retries_total", handler=name),
        "batch": rise.mean("eventml_batch_size", handler=name),
        "p50": quantile(latencies, 0.5),
        "p99": quantile(latencies, 0.99),
        "call": rise.mean("eventml_stage_seconds", handler=name, stage="call"),
        "complete": rise.mean("eventml_stage_seconds", handler=name, stage="complete"),
        "stale": now.sum("eventml_events_stale_total", handler=name),
        "duplicate": now.sum("eventml_events_duplicate_total", handler=name),
        "skipped": now.sum("eventml_events_skipped_total", handler=name),
    }


def worker_row(now: Snapshot, name: str) -> dict[str, Any]:
    """Return the state and the numbers of a worker."""
    states = now.label_values("eventml_worker_state", "state", worker=name)
    state = "+".join(s for s in states if now.sum("eventml_worker_state", worker=name, state=s))
    if not now.sum("eventml_worker_connected", worker=name):
        state += ", no broker"
    for handler in now.label_values("eventml_broker_failing_seconds", "handler", worker=name):
        if (failing := now.sum("eventml_broker_failing_seconds", worker=name, handler=handler) or 0) >= 1:
            state += f", {handler} fails for {format_seconds(failing)}"
    for handler in now.label_values("eventml_handler_breaker_open", "handler", worker=name):
        if now.sum("eventml_handler_breaker_open", worker=name, handler=handler):
            state += f", {handler} has stopped: most of its events fail"
    models = (dict(labels) for (metric, labels) in now.samples if metric == "eventml_model_info")
    return {
        "worker": name,
        "state": state,
        "up": now.sum("eventml_worker_uptime_seconds", worker=name),
        "restarts": now.sum("eventml_worker_restarts_total", worker=name),
        "in flight": now.sum("eventml_events_in_flight", worker=name),
        "oldest": now.sum("eventml_oldest_in_flight_seconds", worker=name),
        "models": sorted(f"{m['handler']} {m['version']}" for m in models if m["worker"] == name),
    }


def quantile(buckets: Mapping[float, float], q: float) -> float | None:
    """Return the upper bound of the bucket of a quantile: all that a histogram says about it for certain.

    `buckets` are cumulative counts by upper bound, and `q` is from 0 to 1. The quantile of an empty histogram
    is None.
    """
    highest = max(buckets.values(), default=0)
    found = (bound for bound, count in sorted(buckets.items()) if count and count >= q * highest)
    return next(found, None)


def format_bound(seconds: float | None) -> str:
    """Return the bound of a quantile: "≤25ms", or ">300s" if it is above the highest finite bound."""
    if seconds is None:
        return "-"
    return f"≤{format_seconds(seconds)}" if math.isfinite(seconds) else f">{SECONDS_BUCKETS[-1]:g}s"


def format_number(number: float | None) -> str:
    """Return a number without fractions, or "-" if it is not known."""
    return "-" if number is None else f"{number:,.0f}"


def format_seconds(seconds: float | None) -> str:
    """Return a time in milliseconds below a second and in seconds above, or "-" if it is not known."""
    if seconds is None:
        return "-"
    return f"{seconds:,.1f}s" if seconds >= 1 else f"{round(seconds * 1000, 2):.3g}ms"


_FORMATS: Final[dict[str, Callable[[Any], str]]] = {
    **dict.fromkeys(("handler", "worker", "state"), str),
    **dict.fromkeys(("p50", "p99"), format_bound),
    **dict.fromkeys(("call", "complete", "oldest"), format_seconds),
    "up": lambda seconds: str(timedelta(seconds=int(seconds or 0))),
    "models": ", ".join,
}
