"""The overview and the page of models: made of a snapshot, and of nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from eventml.deploy.console.history import SPANS
from eventml.deploy.console.html import Html, count, duration, html, page, size, table
from eventml.deploy.console.numbers import STAGES, HandlerNumbers, format_bound, loaded_models, worker_numbers
from eventml.deploy.console.records import format_time
from eventml.deploy.console.topology import Node, draw_topology

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventml.bus import Bus
    from eventml.deploy.console.collector import Collector, Tick

_CHARTS: Final = {"rate": "Events a second", "latency": "Latency: p50 and p99, in milliseconds", "lag": "Lag"}
_BAR: Final = 160  # pixels
_REASONS: Final = 10


class Overview:
    """The overview of a bus, and what of it changes with each snapshot."""

    def __init__(self, bus: Bus, backend: str, nodes: Mapping[str, Node], collector: Collector) -> None:
        self._bus = bus
        self._backend = backend
        self._nodes = nodes
        self._collector = collector

    def fragments(self, tick: Tick) -> dict[str, Html]:
        """Return the parts of the page by their ids, made once for all pages."""
        found: dict[str, Html] = tick.once("fragments", lambda: self._make(tick))
        return found

    def message(self, tick: Tick) -> bytes:
        """Return the parts and the newest point as a server-sent event."""

        def make() -> bytes:
            newest = self._collector.history.points("5m", tick.epoch)[-1:]
            data = {"fragments": self.fragments(tick), "point": newest[0] if newest else None}
            return b"data: %b\n\n" % msgspec.json.encode(data, enc_hook=str)

        encoded: bytes = tick.once("message", make)
        return encoded

    def page(self, tick: Tick) -> bytes:
        """Return the page."""
        parts = {name: self._part(name, fragment) for name, fragment in self.fragments(tick).items()}
        spans = [html('<option value="{span}">{span}</option>', span=span) for span in SPANS]
        charts = [
            html(
                '<figure><figcaption>{title}</figcaption><div id="chart-{name}"></div></figure>',
                title=title,
                name=name,
            )
            for name, title in _CHARTS.items()
        ]
        content = html(
            "{state}<section><h2>Topology</h2>{topology}</section>{handlers}"
            '<section><h2>History</h2><label>Show the last <select id="span">{spans}</select></label>'
            '<p id="legend"></p><div class="charts" data-charts>{charts}</div>{marks}</section>{workers}',
            spans=spans,
            charts=charts,
            **parts,
        )
        return page(self._bus.name, "Overview", "./", content)

    @staticmethod
    def _part(name: str, fragment: Html) -> Html:
        return html('<div id="{name}">{fragment}</div>', name=name, fragment=fragment)

    def _make(self, tick: Tick) -> dict[str, Html]:
        return {
            "state": self._state(tick),
            "topology": html(
                '<div class="wide" role="region" aria-label="Topology" tabindex="0">{svg}</div>',
                svg=draw_topology(self._nodes, tick.handlers),
            ),
            "handlers": self._handlers(tick),
            "marks": self._marks(tick),
            "workers": _workers(tick),
        }

    def _state(self, tick: Tick) -> Html:
        status, workers = tick.now.status, worker_numbers(tick.now.status)
        ready = sum(one.ready for one in workers)
        reasons = [html("<li>{reason}</li>", reason=reason) for reason in status.unready[:_REASONS]]
        return html(
            '<p class="state {kind}"><b>{ready} of {all} workers ready</b> on {backend}; restarts: {restarts}'
            "</p>{reasons}",
            kind="bad" if reasons or ready < len(workers) else "good",
            ready=ready,
            all=len(workers),
            backend=self._backend,
            restarts=sum(one.restarts for one in workers),
            reasons=html('<ul class="bad">{all}</ul>', all=reasons) if reasons else "",
        )

    def _handlers(self, tick: Tick) -> Html:
        models = loaded_models(tick.now.status)
        columns = ("handler", "model", "in/s", "out/s", "lag", "p50", "p99", "batch", "dead letters left", "")
        rows = [
            (
                one.handler,
                models.get(one.handler, "-"),
                count(one.received),
                count(one.published),
                count(one.lag),
                format_bound(one.p50),
                format_bound(one.p99),
                "-" if one.batch is None else count(one.batch),
                count(one.left),
                _stages(one),
            )
            for one in tick.handlers
        ]
        return html(
            '<section><h2>Handlers</h2>{table}<p class="stages" aria-hidden="true">{keys}</p></section>',
            table=table("Handlers", (*columns[:-1], "where the time goes"), rows, text=2),
            keys=[html('<i class="{stage}"></i>{stage} ', stage=stage) for stage in STAGES[1:]],
        )

    def _marks(self, tick: Tick) -> Html:
        found = self._collector.history.marks("24h", tick.epoch)[-8:]
        items = [html("<li><time>{at}</time> {text}</li>", at=format_time(m.at), text=m.text) for m in found]
        return html("<h3>What has happened</h3><ul>{items}</ul>", items=items[::-1]) if items else Html("")

    def models_page(self, tick: Tick) -> bytes:
        """Return the page of models: the version of each handler, since when, and its challengers."""
        rows, status = [], tick.now.status
        for name, handler in self._bus.handlers.items():
            for worker in status.workers:
                report = worker.handlers.get(name)
                if report is None or report.model is None:
                    continue
                updates = int(report.totals.get("model_updates", [0])[0])
                role = f"challenger of {handler.champion}" if handler.champion else "in use"
                since = (
                    f"{updates} updates since the start"
                    if updates
                    else f"the start, {duration(worker.uptime)} ago"
                )
                rows.append((name, *report.model, role, worker.name, since, report.model_refused or "-"))
        columns = ("handler", "model", "version", "role", "worker", "since", "why a newer one is refused")
        changed = [m for m in self._collector.history.marks("24h", tick.epoch) if ": model " in m.text]
        items = [
            html("<li><time>{at}</time> {t}</li>", at=format_time(m.at), t=m.text) for m in changed[::-1]
        ]
        content = html(
            "<section>{table}</section><section><h2>Changes in the last 24 hours</h2>{changes}</section>",
            table=table("Models", columns, rows, text=len(columns))
            if rows
            else Html("<p>No handler has a model.</p>"),
            changes=html("<ul>{items}</ul>", items=items) if items else Html("<p>None.</p>"),
        )
        return page(self._bus.name, "Models", "models", content)


def _workers(tick: Tick) -> Html:
    rows = [
        (
            one.worker,
            html('<span class="{kind}">{state}</span>', kind="good" if one.ready else "bad", state=one.state),
            ", ".join(one.models) or "-",
            duration(one.up),
            one.restarts,
            count(one.in_flight),
            size(one.memory),
        )
        for one in worker_numbers(tick.now.status)
    ]
    columns = ("worker", "state", "models", "up", "restarts", "in flight", "memory")
    return html("<section><h2>Workers</h2>{table}</section>", table=table("Workers", columns, rows, text=3))


def _stages(one: HandlerNumbers) -> Html:
    """A bar of the time of each stage for a batch, without waiting in `receive`."""
    values = {stage: getattr(one, stage) or 0.0 for stage in STAGES[1:]}
    total, x, bars = sum(values.values()), 0.0, []
    for stage, value in values.items():
        width = value / total * _BAR if total else 0.0
        bar = '<rect class="{s}" x="{x:.1f}" width="{w:.1f}" height="12"/>'
        bars.append(Html(bar.format(s=stage, x=x, w=width)))
        x += width
    label = (
        ", ".join(f"{stage} {duration(value)}" for stage, value in values.items()) if total else "no batch"
    )
    return html(
        '<svg class="stages" width="{width}" height="12" role="img" aria-label="{label}">'
        "<title>{label}</title>{bars}</svg>",
        width=_BAR,
        label=label,
        bars=bars,
    )
