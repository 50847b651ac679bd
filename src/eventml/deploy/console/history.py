"""The history of a service's numbers: rings of points in the process, and an optional file that outlives it.

Each ring has a step of its own, so that a day takes as much memory as five minutes. A point is computed from
the totals at both ends of its step, and not from finer points: its rates and quantiles are exact.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sqlite3
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import msgspec

from eventml.deploy.console.numbers import Snapshot, changes, handler_numbers
from eventml.runtime import SECONDS_BUCKETS

log = logging.getLogger("eventml.console")

SPANS: Final = {"5m": (2.0, 300), "1h": (20.0, 3_600), "24h": (300.0, 86_400)}
"""Step and length of each ring, in seconds."""

FIELDS: Final = ("received", "published", "p50", "p99", "lag", "batch")
"""Numbers of a point, of each handler."""

_MARKS: Final = 200
_NEAR: Final = 5.0  # seconds between two marks of one thing, seen by two processes
_EARLY: Final = 1.0  # seconds by which a snapshot may come early and still end a step


class Point(msgspec.Struct, frozen=True):
    """The numbers of all handlers at one time, in seconds since the epoch: by handler, those of `FIELDS`."""

    at: float
    values: dict[str, tuple[float | None, ...]]


class Mark(msgspec.Struct, frozen=True):
    """Something that happened to the service: a restart, a new model, an outage."""

    at: float
    text: str


class History:
    """The points of each ring, oldest first, and the marks of the last day: also those of a file."""

    def __init__(self, file: HistoryFile | None = None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._last: dict[str, Snapshot] = {}  # by ring: the snapshot at the end of the last point
        self._marks: deque[Mark] = deque(maxlen=_MARKS)
        self._points: dict[str, deque[Point]] = {
            span: deque(maxlen=math.ceil(length / step) + 1) for span, (step, length) in SPANS.items()
        }
        for kind, value in file.read() if file else ():
            with contextlib.suppress(msgspec.DecodeError):  # another version has written it
                self._add_earlier(kind, value)

    def _add_earlier(self, kind: str, value: str) -> None:
        """Add a row of a file; a point or a mark that a second process has written too is there once."""
        if kind == "mark":
            mark = msgspec.json.decode(value, type=Mark)
            if not any(one.text == mark.text and mark.at - one.at < _NEAR for one in self._marks):
                self._marks.append(mark)
        elif kind in self._points:
            point, ring = msgspec.json.decode(value, type=Point), self._points[kind]
            whole = all(len(values) == len(FIELDS) for values in point.values.values())
            if whole and not (ring and point.at - ring[-1].at < SPANS[kind][0] - _EARLY):
                ring.append(point)

    def add(self, now: Snapshot, epoch: float) -> None:
        """Add a snapshot, taken at a time in seconds since the epoch, to each ring whose step is over."""
        written: list[tuple[str, float, bytes]] = []
        with self._lock:
            newest = self._last.get("newest", now)
            for text in changes(newest.status, now.status):
                self._marks.append(mark := Mark(epoch, text))
                written.append(("mark", epoch, msgspec.json.encode(mark)))
            self._last["newest"] = now
            for span, (step, _) in SPANS.items():
                before = self._last.setdefault(span, now)
                if now.at - before.at < step - _EARLY:
                    continue
                self._last[span] = now
                numbers = {
                    one.handler: _finite(attrgetter(*FIELDS)(one)) for one in handler_numbers(before, now)
                }
                point = Point(epoch, numbers)
                self._points[span].append(point)
                written.append((span, epoch, msgspec.json.encode(point)))
        if self._file is not None:
            self._file.write(written, epoch)

    def points(self, span: str, epoch: float) -> list[Point]:
        """Return the points of a span, which ends now."""
        with self._lock:
            return [point for point in self._points[span] if point.at > epoch - SPANS[span][1]]

    def marks(self, span: str, epoch: float) -> list[Mark]:
        """Return the marks of a span, which ends now."""
        with self._lock:
            return [mark for mark in self._marks if mark.at > epoch - SPANS[span][1]]


def _finite(values: Iterable[float | None]) -> tuple[float | None, ...]:
    return tuple(SECONDS_BUCKETS[-1] if value == math.inf else value for value in values)


def series(points: Sequence[Point], step: float) -> dict[str, Any]:
    """Return points as columns for charts: times, and by handler and field the values at these times.

    A gap of more than three steps gets a point without values, so that no line is drawn across it.
    """
    filled: list[Point] = []
    for point in points:
        if filled and point.at - filled[-1].at > 3 * step:
            filled.append(Point(filled[-1].at + step, {}))
        filled.append(point)
    columns, unknown = {}, (None,) * len(FIELDS)
    for name in sorted({name for point in points for name in point.values}):
        rows = [one.values.get(name, unknown) for one in filled]
        columns[name] = dict(zip(FIELDS, zip(*rows, strict=True), strict=True))
    return {"at": [round(point.at, 1) for point in filled], "handlers": columns}


class HistoryFile:
    """An SQLite file of points and marks, which several buses may share. It is created if it is missing.

    One warning is logged when it cannot be used; each later call tries again.
    """

    def __init__(self, path: Path, bus: str) -> None:
        self._bus = bus
        self._path = path
        self._broken = False
        self._pruned = 0.0

    def read(self) -> list[tuple[str, str]]:
        """Return the kind and the JSON of each row, oldest first."""
        rows = self._execute([("SELECT kind, value FROM history WHERE bus = ? ORDER BY at", (self._bus,))])
        return [(str(kind), str(value)) for kind, value in rows]

    def write(self, rows: Sequence[tuple[str, float, bytes]], epoch: float) -> None:
        """Write rows, each its kind, time and JSON; delete those that are too old once a minute."""
        steps: list[tuple[str, Sequence[object]]] = [
            ("INSERT INTO history VALUES (?, ?, ?, ?)", (self._bus, kind, at, value.decode()))
            for kind, at, value in rows
            if kind != "5m"  # which would be most of the writes, for what a restart hardly takes
        ]
        if epoch - self._pruned > 60:  # noqa: PLR2004 - a minute
            self._pruned = epoch
            old = [("mark", 86_400), *((span, length) for span, (_, length) in SPANS.items())]
            delete = "DELETE FROM history WHERE bus = ? AND kind = ? AND at < ?"
            steps += [(delete, (self._bus, kind, epoch - length)) for kind, length in old]
        if steps:
            self._execute(steps)

    def _execute(self, steps: Sequence[tuple[str, Sequence[object]]]) -> list[tuple[Any, ...]]:
        create = "CREATE TABLE IF NOT EXISTS history (bus TEXT, kind TEXT, at REAL, value TEXT)"
        try:
            with contextlib.closing(sqlite3.connect(self._path, timeout=1)) as database, database:
                database.execute(create)
                found = [row for sql, values in steps for row in database.execute(sql, values).fetchall()]
        except sqlite3.Error as exc:
            if not self._broken:
                log.warning("console.history: %s: %s; the history is kept in memory only", self._path, exc)
            self._broken = True
            return []
        self._broken = False
        return found
