"""The overview and the page of models: made of a snapshot, and of nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from eventml import config
from eventml.deploy.console.bus_graph import draw_topology, topology
from eventml.deploy.console.html import Html, count, duration, page, part, table
from eventml.deploy.console.numbers import STAGES, HandlerNumbers, format_bound, loaded_models, worker_numbers
from eventml.deploy.console.records import format_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.bus import Bus
    from eventml.deploy.console.collector import Collector, Tick
    from eventml.deploy.console.history import Mark

_HANDLERS: Final = (
    *("handler", "model", "in/s", "out/s", "lag", "p50", "p99", "batch", "dead letters left"),
    "where the time goes",
)
_MODELS: Final = ("handler", "model", "version", "role", "worker", "since", "why a newer one is refused")
_WORKERS: Final = ("worker", "state", "models", "up", "restarts", "in flight", "memory")
_BAR: Final = 160  # pixels
_MARKS: Final = 8
_REASONS: Final = 10


class Overview:
    """The overview of a bus, and what of it changes with each snapshot."""

    def __init__(self, bus: Bus, collector: Collector) -> None:
        self._bus = bus
        self._nodes = topology(bus)
        self._collector = collector
        self.topics = [one.name for one in self._nodes.values() if one.kind in ("topic", "dead letters")]

    def page(self, tick: Tick) -> bytes:
        """Return the page."""
        return page(self._bus.name, "./", part("overview", **tick.once(self._fragments)))

    def message(self, tick: Tick) -> bytes:
        """Return the parts that change and the newest point, as a server-sent event."""
        return tick.once(self._message)

    def _message(self, tick: Tick) -> bytes:
        history = self._collector.history
        newest, marks = history.points("5m", tick.epoch)[-1:], history.marks("5m", tick.epoch)
        data = {"fragments": tick.once(self._fragments), "point": [*newest, None][0], "marks": marks}
        return b"data: %b\n\n" % msgspec.json.encode(data, enc_hook=str)

    def _fragments(self, tick: Tick) -> dict[str, Html]:
        """Return the parts that change, by their ids."""
        found = self._collector.history.marks("24h", tick.epoch)[-_MARKS:]
        return {
            "state": self._state(tick),
            "topology": part("topology", svg=draw_topology(self._nodes, tick.handlers)),
            "handlers": _handlers(tick),
            "marks": part("marks", items=_items(found)) if found else Html(""),
            "workers": _workers(tick),
        }

    def _state(self, tick: Tick) -> Html:
        status, workers = tick.now.status, worker_numbers(tick.now.status)
        ready = sum(one.ready for one in workers)
        reasons = [part("item", text=reason) for reason in status.unready[:_REASONS]]
        return part(
            "state",
            kind="bad" if reasons or ready < len(workers) else "good",
            ready=ready,
            all=len(workers),
            backend=config.redact(self._bus.settings.backend.url),
            restarts=sum(one.restarts for one in workers),
            reasons=part("reasons", items=reasons) if reasons else "",
        )

    def models_page(self, tick: Tick) -> bytes:
        """Return the page of models: the version of each handler, since when, and its challengers."""
        rows = []
        for name, handler in self._bus.handlers.items():
            for worker in tick.now.status.workers:
                report = worker.handlers.get(name)
                if report is None or report.model is None:
                    continue
                updates = int(report.totals.get("model_updates", [0])[0])
                role = f"challenger of {handler.champion}" if handler.champion else "in use"
                started = f"the start, {duration(worker.uptime)} ago"
                since = f"{updates} updates since {started}" if updates else started
                rows.append((name, *report.model, role, worker.name, since, report.model_refused or "-"))
        marks = self._collector.history.marks("24h", tick.epoch)
        changed = _items([mark for mark in marks if ": model " in mark.text])
        models = table("Models", _MODELS, rows, text=len(_MODELS))
        content = part("models", table=models, changes=changed or part("item", text="none"))
        return page(self._bus.name, "models", content)


def _items(marks: Sequence[Mark]) -> list[Html]:
    return [part("mark", at=format_time(mark.at), text=mark.text) for mark in reversed(marks)]


def _handlers(tick: Tick) -> Html:
    models = loaded_models(tick.now.status)
    rows = []
    for one in tick.handlers:
        rates, bounds = (
            map(count, (one.received, one.published, one.lag)),
            map(format_bound, (one.p50, one.p99)),
        )
        batch = "-" if one.batch is None else count(one.batch)
        model = models.get(one.handler, "-")
        rows.append((one.handler, model, *rates, *bounds, batch, count(one.left), _stages(one)))
    return part("handlers", table=table("Handlers", _HANDLERS, rows, text=2))


def _workers(tick: Tick) -> Html:
    rows = []
    for one in worker_numbers(tick.now.status):
        state = part("worker-state", kind="good" if one.ready else "bad", state=one.state)
        models, in_flight = ", ".join(one.models) or "-", count(one.in_flight)
        memory = "?" if one.memory is None else f"{one.memory / 1e6:,.0f} MB"
        rows.append((one.worker, state, models, duration(one.up), one.restarts, in_flight, memory))
    return part("workers", table=table("Workers", _WORKERS, rows, text=3))


def _stages(one: HandlerNumbers) -> Html:
    """A bar of the time of each stage for a batch, without waiting in `receive`."""
    values = {stage: getattr(one, stage) or 0.0 for stage in STAGES[1:]}
    total, x, bars = sum(values.values()) or 1.0, 0.0, []
    for stage, value in values.items():
        bars.append(part("stage", stage=stage, x=x, width=value / total * _BAR))
        x += value / total * _BAR
    label = ", ".join(f"{stage} {duration(value)}" for stage, value in values.items())
    return part("stages", label=label, bars=bars)
