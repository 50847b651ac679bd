"""The pages that change with each snapshot: the overview, one for each handler, and the models."""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
import math
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

import msgspec
from msgspec import Meta, structs

from eventml import config
from eventml.bus import Bus
from eventml.deploy.console.bus_graph import draw_topology, topology
from eventml.deploy.console.collector import Collector, Tick
from eventml.deploy.console.numbers import (
    STAGES,
    HandlerNumbers,
    Snapshot,
    format_count,
    increase,
    loaded_models,
    quantile,
    worker_numbers,
)
from eventml.deploy.console.templates import TITLES, render, render_blocks
from eventml.deploy.workers import ServiceStatus, WorkerStatus, handler_totals
from eventml.runtime import Profile

_TEMPLATES: Final = {"/": "overview", "/handler": "handler", "/models": "models"}
_BAR: Final = 160  # pixels, of the stages
_BUCKET: Final = 10  # pixels, of a distribution
_Advice = dict[str, float | list[str] | None]


class BatchCost(msgspec.Struct):
    """Seconds of a call with a batch of a size."""

    size: Annotated[int, Meta(gt=0)]
    seconds: Annotated[float, Meta(gt=0)]


class Examination(msgspec.Struct):
    """What `eventml doctor --json` has measured, or why its file cannot be read."""

    predictor: str
    batches: list[BatchCost] = []
    model: tuple[str, ...] = ()
    advice: _Advice = {}
    error: str = ""


class _DoctorFile(msgspec.Struct):
    examination: Examination
    advice: _Advice


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
            "versions": self._versions(tick),
            "workers": workers,
        }

    def _distributions(self, tick: Tick) -> dict[str, dict[str, Any] | None]:
        """Return the predictions of the last five minutes by handler; those of canaries by `canary NAME`."""
        earlier, now = (handler_totals(one.status) for one in (tick.earlier, tick.now))
        found: dict[str, dict[str, Any] | None] = dict.fromkeys(self._bus.handlers)
        for worker in sorted(tick.now.status.workers, key=lambda one: one.uptime)[::-1]:
            for name, report in worker.handlers.items():
                rise = increase(earlier.get(name, {}), now[name])
                for key, counted in (name, "predictions"), (f"canary {name}", "canary_predictions"):
                    found[key] = distribution(rise.get(counted, ()), report.profile)
        return found

    def _versions(self, tick: Tick) -> dict[str, list[dict[str, Any]]]:
        """Return the versions that each predictor uses, with those of its canary and its challengers."""
        found = dict[str, list[dict[str, Any]]]()
        for name, handler in self._bus.handlers.items():
            versions = found.setdefault(handler.champion or name, [])
            for version, own in _workers_by_model(tick.now.status, name, "model"):
                reports, part = [one.handlers[name] for one in own], _part(tick, name, own)
                version["role"] = f"challenger {name.rpartition('.')[2]}" if handler.champion else "champion"
                version |= {"age": max(one.model_age for one in reports), "numbers": part.handlers[0]}
                version["distribution"] = self._distributions(part)[name]
                version["events"] = sum(one.totals.get("completed", [0])[0] for one in reports)
                version["note"] = ", ".join(sorted({one.model_refused for one in reports} - {""}))
                versions.append(version)
            for version, own in _workers_by_model(tick.now.status, name, "canary"):
                share = max(one.handlers[name].canary_share for one in own)
                version |= {"role": f"canary, {share:.4g} of the keys", "age": max(one.uptime for one in own)}
                version["events"] = sum(one.handlers[name].totals.get("canary_events", [0])[0] for one in own)
                version["distribution"] = self._distributions(_part(tick, name, own)).get(f"canary {name}")
                versions.append({**version, "numbers": None, "note": ""})
        return found

    def _examinations(self) -> list[Examination]:
        found = []
        for name in self._bus.settings.console.doctor:
            try:
                with Path(name).open("rb") as opened:  # what is cut cannot be decoded
                    read = msgspec.json.decode(opened.read(1_000_000), type=_DoctorFile)
                found.append(structs.replace(read.examination, advice=read.advice))
            except (OSError, ValueError, RecursionError) as exc:
                why, file = getattr(exc, "strerror", exc), Path(name).name  # as anybody may see the page
                what = "cannot be read" if isinstance(exc, OSError) else "is not from eventml doctor --json"
                found.append(Examination(file, error=f"console.doctor: {file} {what}: {why}"))
        return found


def _part(tick: Tick, name: str, workers: Sequence[WorkerStatus]) -> Tick:
    """Return what a tick has of a handler in the processes of these workers."""
    chosen, parts = {(one.name, one.pid) for one in workers}, list[Snapshot]()
    for at in (tick.earlier, tick.before, tick.now):
        found = [one for one in at.status.workers if (one.name, one.pid) in chosen]
        own = [structs.replace(w, handlers={n: h for n, h in w.handlers.items() if n == name}) for w in found]
        parts.append(structs.replace(at, status=structs.replace(at.status, workers=own, ended={})))
    return Tick(tick.number, parts[0], parts[1], parts[2], tick.epoch)


def _workers_by_model(
    status: ServiceStatus, handler: str, role: Literal["model", "canary"]
) -> list[tuple[dict[str, Any], list[WorkerStatus]]]:
    """Return the models that a handler has in a role, each with the workers that have loaded it."""
    found = dict[tuple[str, str], list[WorkerStatus]]()
    for worker in status.workers:
        report = worker.handlers.get(handler)
        if report is not None and (model := getattr(report, role)) is not None:
            found.setdefault(model, []).append(worker)
    return [
        ({"model": name, "version": version, "workers": [one.name for one in own]}, own)
        for (name, version), own in sorted(found.items(), key=itemgetter(0))
    ]


def _stages(one: HandlerNumbers) -> list[dict[str, Any]]:
    """The stages of a handler: their times for a batch, and a bar of them without waiting in `receive`."""
    times = {stage: getattr(one, stage) for stage in STAGES[1:]}
    total, x, found = sum(filter(None, times.values())) or 1.0, 0.0, []
    for stage, seconds in times.items():
        share = (seconds or 0.0) / total
        width = round(share * _BAR, 1)
        found.append({"stage": stage, "seconds": seconds, "share": share, "x": round(x, 1), "width": width})
        x += width
    return found


def distribution(counted: Sequence[float], profile: Profile) -> dict[str, Any] | None:
    """Return the distribution of predictions, counted as in `Totals`; None if there are none.

    It has a label in words, where the first bucket begins and the last one ends, and a bar for each bucket
    between: the shares of the predictions of now and of the recorded ones, by the highest bar.
    """
    total = sum(counted[:-1])
    if total < 1 or len(counted) != len(profile.bounds) + 2:
        return None
    now = [count / total for count in counted[:-1]]
    all_recorded = sum(profile.counts)
    recorded = [count / (all_recorded or 1) for count in profile.counts] or [0.0] * len(now)
    used = [n for n, both in enumerate(zip(now, recorded, strict=True)) if any(both)]
    first, last = used[0], used[-1]
    highest = max(*now, *recorded)
    shown = zip(now[first : last + 1], recorded[first : last + 1], strict=True)
    bars = [
        {"x": _BUCKET * n, "now": round(one / highest, 3), "recorded": round(other / highest, 3)}
        for n, (one, other) in enumerate(shown)
    ]
    median = _median(counted, profile)
    label = f"{format_count(total)} predictions of the last five minutes, half of them {median}"
    if all_recorded:
        differ = sum(abs(a - b) for a, b in zip(now, recorded, strict=True)) / 2
        median = _median([*profile.counts, 0.0], profile)
        label += f"; {format_count(all_recorded)} are recorded, half of them {median}; "
        label += f"the two differ by {differ:.0%}"
    bounds = [-math.inf, *profile.bounds, math.inf]
    low = f"above {bounds[first]:g}" if first else f"to {bounds[1]:g}"
    high = f"to {bounds[last + 1]:g}" if bounds[last + 1] < math.inf else f"above {bounds[last]:g}"
    ends = {"low": low, "high": high, "width": _BUCKET * len(bars)}
    return {"bars": bars, "label": label, "is_compared": bool(all_recorded), **ends}


def _median(histogram: Sequence[float], profile: Profile) -> str:
    bound = quantile(histogram, 0.5, profile.bounds)
    return f"above {profile.bounds[-1]:g}" if bound == math.inf else f"at most {bound:g}"
