"""The pages that change with each snapshot: the overview, one for each handler, and the models."""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
from collections.abc import Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import urlencode

import msgspec
from msgspec import Meta

from eventml import config
from eventml.bus import Bus
from eventml.deploy.console.bus_graph import draw_topology, topology
from eventml.deploy.console.collector import Collector, Tick
from eventml.deploy.console.distributions import Distribution, distribution
from eventml.deploy.console.numbers import (
    STAGES,
    HandlerNumbers,
    increase,
    loaded_models,
    worker_numbers,
)
from eventml.deploy.console.templates import TITLES, render, render_blocks
from eventml.deploy.workers import ServiceStatus, WorkerStatus, handler_totals

_TEMPLATES: Final = {"/": "overview", "/handler": "handler", "/models": "models"}
_BAR: Final = 160  # pixels


class Stage(NamedTuple):
    """The time of a stage for a batch, its share without waiting for events, and its place in a bar."""

    stage: str
    seconds: float
    share: float
    x: float
    width: float


class Version(NamedTuple):
    """A version of a model that a predictor uses, or that is tried beside it.

    Attributes:
        age: Seconds since the first worker has used it.
        events: How many it was called for since the start.
        note: Why a newer version is refused, or the canary is worse.
    """

    role: str
    model: str
    version: str
    age: float
    workers: list[str]
    distribution: Distribution | None
    events: float
    note: str = ""
    p50: float | None = None
    p99: float | None = None


class BatchCost(msgspec.Struct):
    """Seconds of a call with a batch of a size."""

    size: Annotated[int, Meta(gt=0)]
    seconds: Annotated[float, Meta(gt=0)]


class Examination(msgspec.Struct):
    """What `eventml doctor --json` has measured, or why its file cannot be read."""

    predictor: str
    batches: list[BatchCost] = []
    model: tuple[str, ...] = ()
    advice: dict[str, Any] = {}
    error: str = ""


class _DoctorFile(msgspec.Struct):
    examination: Examination
    advice: dict[str, Any]


class LivePages:
    """The pages of a bus that are made of a snapshot, and what of them changes with the next one."""

    def __init__(self, bus: Bus, collector: Collector) -> None:
        self._bus = bus
        self._nodes = topology(bus)
        self._collector = collector
        self.topics = [one.name for one in self._nodes.values() if one.kind in ("topic", "dead letters")]

    def find(self, path: str, query: Mapping[str, str]) -> tuple[str, str] | None:
        """Return the path of a page and the name of its handler, if it has one; None if there is none."""
        name = query.get("name", "") if path == "/handler" else ""
        return (
            (path, name)
            if path in _TEMPLATES and (path != "/handler" or name in self._bus.handlers)
            else None
        )

    def page(self, path: str, name: str) -> str:
        """Return a page."""
        live = f"live?{urlencode({'path': path, 'name': name})}"
        head = {"bus": self._bus.name, "path": path, "live": live, "title": TITLES.get(path, name)}
        values = self._of_page(self._collector.tick(), name)
        examinations = self._examinations() if path == "/models" else []
        return render(_TEMPLATES[path], **head, **values, examinations=examinations)

    def messages(self, path: str, name: str) -> Iterator[bytes]:
        """Yield the parts of a page that change and the newest point, as server-sent events."""
        tick: Tick | None = self._collector.tick()
        while tick is not None:
            yield tick.once(self._message, path, name)
            tick = self._collector.next_tick(tick.number)

    def _message(self, tick: Tick, path: str, name: str) -> bytes:
        history = self._collector.history
        newest, marks = history.points("5m", tick.epoch)[-1:], history.marks("5m", tick.epoch)
        fragments = render_blocks(_TEMPLATES[path], self._of_page(tick, name))
        data = {"fragments": fragments, "point": [*newest, None][0], "marks": marks}
        return b"data: %b\n\n" % msgspec.json.encode(data)

    def _of_page(self, tick: Tick, name: str) -> dict[str, Any]:
        values = tick.once(self._values)
        if name:
            one = next((one for one in tick.handlers if one.handler == name), None)
            values = {**values, "name": name, "handler": self._bus.configured_handler(name), "one": one}
        return values

    def _values(self, tick: Tick) -> dict[str, Any]:
        """Return what the templates show of a snapshot."""
        status, workers = tick.now.status, worker_numbers(tick.now.status)
        marks = self._collector.history.marks("24h", tick.epoch)
        distributions = self._distributions(tick)
        return {
            "backend": config.redact(self._bus.settings.backend.url),
            "bars": _stages,
            "changes": [mark for mark in marks if ": model " in mark.text],
            "distributions": distributions,
            "drawing": draw_topology(self._nodes, tick.handlers),
            "handlers": tick.handlers,
            "marks": marks,
            "models": loaded_models(status),
            "ready": sum(one.ready for one in workers),
            "status": status,
            "versions": self._versions(tick, distributions),
            "workers": workers,
        }

    def _distributions(self, tick: Tick) -> dict[str, Distribution | None]:
        """Return the predictions of the last five minutes by handler; those of canaries by `canary NAME`."""
        earlier, now = (handler_totals(one.status) for one in (tick.earlier, tick.now))
        found: dict[str, Distribution | None] = dict.fromkeys(self._bus.handlers)
        for worker in tick.now.status.workers:
            for name, report in worker.handlers.items():
                rise = increase(earlier.get(name, {}), now[name])
                for key, counted in (name, "predictions"), (f"canary {name}", "canary_predictions"):
                    found[key] = distribution(rise.get(counted, ()), report.profile)
        return found

    def _versions(
        self, tick: Tick, distributions: Mapping[str, Distribution | None]
    ) -> dict[str, list[Version]]:
        """Return the versions that each predictor uses, with those of its canary and its challengers."""
        totals, found = handler_totals(tick.now.status), dict[str, list[Version]]()
        numbers = {one.handler: one for one in tick.handlers}
        for name, handler in self._bus.handlers.items():
            versions = found.setdefault(handler.champion or name, [])
            for model, own in _workers_by_model(tick.now.status, name, "model"):
                reports, events = [one.handlers[name] for one in own], totals[name].get("completed", [0])[0]
                notes = {one.model_refused for one in reports} - {""}
                version = Version(
                    f"challenger {name.rpartition('.')[2]}" if handler.champion else "champion",
                    *model,
                    max(one.model_age for one in reports),
                    [one.name for one in own],
                    distributions[name],
                    events,
                )
                p50, p99 = numbers[name].p50, numbers[name].p99
                versions.append(version._replace(note=", ".join(sorted(notes)), p50=p50, p99=p99))
            for model, own in _workers_by_model(tick.now.status, name, "canary"):
                share = max(one.handlers[name].canary_share for one in own)
                role, age = f"canary, {share:.4g} of the keys", max(one.uptime for one in own)
                events = totals[name].get("canary_events", [0])[0]
                shown = distributions[f"canary {name}"]
                versions.append(Version(role, *model, age, [one.name for one in own], shown, events))
        return found

    def _examinations(self) -> list[Examination]:
        found = []
        for name in self._bus.settings.console.doctor:
            try:
                read = msgspec.json.decode(Path(name).read_bytes(), type=_DoctorFile)
                found.append(msgspec.structs.replace(read.examination, advice=read.advice))
            except (OSError, msgspec.MsgspecError) as exc:
                text = f"console.doctor: {name} is no file that eventml doctor --json has written: {exc}"
                found.append(Examination(name, error=text))
        return found


def _workers_by_model(
    status: ServiceStatus, handler: str, role: Literal["model", "canary"]
) -> list[tuple[tuple[str, str], list[WorkerStatus]]]:
    """Return the models that a handler has in a role, each with the workers that have loaded it."""
    found = dict[tuple[str, str], list[WorkerStatus]]()
    for worker in status.workers:
        report = worker.handlers.get(handler)
        if report is not None and (model := getattr(report, role)) is not None:
            found.setdefault(model, []).append(worker)
    return sorted(found.items(), key=itemgetter(0))


def _stages(one: HandlerNumbers) -> list[Stage]:
    """The stages of a handler for a bar, without waiting in `receive`."""
    values = {stage: getattr(one, stage) or 0.0 for stage in STAGES[1:]}
    total, x, found = sum(values.values()) or 1.0, 0.0, []
    for stage, seconds in values.items():
        width = round(seconds / total * _BAR, 1)
        found.append(Stage(stage, seconds, seconds / total, round(x, 1), width))
        x += width
    return found
