"""The collector of a console: takes the numbers of a service once per interval, for all pages.

Those of a service that runs elsewhere are read from the `/status` of its operations ports.
"""

from __future__ import annotations

import http.client
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final, TypeVar

import msgspec

from eventml.deploy.console.history import SPANS, History, series
from eventml.deploy.console.numbers import Snapshot, handler_numbers, merged
from eventml.deploy.workers import HostPort, ServiceStatus, unready_reasons
from eventml.errors import ConfigError, UnavailableError

log = logging.getLogger("eventml.console")

T = TypeVar("T")

INTERVAL: Final = 2.0  # seconds between two snapshots
_COUNT_INTERVAL: Final = 10.0  # seconds between two counts of dead letters
_RECENT: Final = 300.0  # seconds of predictions that are shown
_RECENT_STEP: Final = 20.0  # seconds between two snapshots that are kept for them
_TIMEOUT: Final = 5.0  # seconds for an operations port to answer


class Tick:
    """A snapshot and the numbers since the one before it, at a time in seconds since the epoch.

    `earlier` is a snapshot of five minutes ago, or the first one, and `before` the one before `now`.
    `once` keeps what is computed from a tick.
    """

    def __init__(self, number: int, earlier: Snapshot, before: Snapshot, now: Snapshot, epoch: float) -> None:
        self.number = number
        self.earlier, self.before, self.now = earlier, before, now
        self.epoch = epoch
        self.handlers = handler_numbers(before, now)
        self._made: dict[object, Any] = {}
        self._lock = threading.RLock()

    def once(self, make: Callable[..., T], *args: object) -> T:
        """Return the result of a function for this tick and these arguments; keep it for the next call."""
        with self._lock:
            if (make, args) not in self._made:
                self._made[make, args] = make(self, *args)
            found: T = self._made[make, args]
            return found


class Collector:
    """Collects the numbers of a service for a history, in a thread of its own, while `running` is entered.

    `status` returns those of now, and a group with more than `max_lag` is not ready. While pages are read,
    `count` counts the dead letters that are left, by handler; if it raises, their number is not known.
    """

    def __init__(
        self,
        status: Callable[[], ServiceStatus],
        max_lag: int | None,
        history: History,
        count: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._status = status
        self._max_lag = max_lag
        self.history = history
        self._count = count
        self._counted: Mapping[str, int] = {}
        self._looked = threading.Event()  # a page was read since dead letters were last counted
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        first = Snapshot(time.monotonic(), ServiceStatus(bus="", workers=[]))
        self._tick = Tick(0, first, first, first, time.time())
        self._snapshots: deque[Snapshot] = deque(maxlen=round(_RECENT / _RECENT_STEP) + 1)  # the oldest first

    @contextmanager
    def running(self) -> Iterator[None]:
        """Collect while the context is entered."""
        self.collect()
        for repeat in (self._keep_collecting, self._keep_counting):
            threading.Thread(target=repeat, name="console", daemon=True).start()
        try:
            yield
        finally:
            self._stopped.set()
            self._looked.set()
            with self._changed:
                self._changed.notify_all()

    def status(self) -> ServiceStatus:
        """Return the current status, with why it is not ready and the dead letters that are left."""
        self._looked.set()
        return self._current()

    def _current(self) -> ServiceStatus:
        now = self._status()
        unready = now.unready or unready_reasons(now, self._max_lag)
        left = {**now.dead_letters, **self._counted}
        return msgspec.structs.replace(now, dead_letters=left, unready=unready)

    def tick(self) -> Tick:
        """Return the newest snapshot."""
        self._looked.set()
        return self._tick

    def next_tick(self, number: int) -> Tick | None:
        """Wait for a snapshot newer than the one of that number; None once the console is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._tick.number > number or self._stopped.is_set())
            self._looked.set()
            return None if self._stopped.is_set() else self._tick

    def collect(self) -> None:
        """Take a snapshot now. One thread calls this."""
        now, epoch, last = Snapshot(time.monotonic(), self._current()), time.time(), self._tick
        self.history.add(now, epoch)
        if not self._snapshots or now.at - self._snapshots[-1].at > _RECENT_STEP:
            self._snapshots.append(now)
        with self._changed:
            before = last.now if last.number else now
            self._tick = Tick(last.number + 1, self._snapshots[0], before, now, epoch)
            self._changed.notify_all()

    def columns(self, tick: Tick, span: str) -> bytes:
        """Return the history of a span (five minutes if it is none) up to a snapshot, as JSON for charts."""
        return tick.once(self._columns, span if span in SPANS else "5m")

    def _columns(self, tick: Tick, span: str) -> bytes:
        points, marks = self.history.points(span, tick.epoch), self.history.marks(span, tick.epoch)
        return msgspec.json.encode({**series(points, SPANS[span][0]), "marks": marks})

    def count_now(self) -> None:
        """Count the dead letters that are left, as after some have been replayed."""
        try:
            self._counted = self._count()
        except Exception as exc:  # noqa: BLE001 - whatever it is, the counts are unknown
            log.debug("dead letters cannot be counted: %s", exc)
            self._counted = {}

    def _keep_counting(self) -> None:
        while self._looked.wait() and not self._stopped.is_set():
            self._looked.clear()
            self.count_now()
            self._stopped.wait(_COUNT_INTERVAL)

    def _keep_collecting(self) -> None:
        while not self._stopped.wait(INTERVAL):
            try:
                self.collect()
            except Exception:
                log.exception("the console cannot collect the numbers of the service")


def fetch_status(bus: str, address: HostPort) -> ServiceStatus:
    """Fetch the status of the service of a bus from its operations port.

    Raises:
        UnavailableError: there is no answer from the address.
        ConfigError: what answers is no operations port of eventml, or that of another bus.
    """
    connection = http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT)
    try:
        connection.request("GET", "/status")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as exc:
        raise UnavailableError(
            f"no service answers at {address} ({exc}); the log of `eventml run ... --workers N` names its "
            "operations port: pass that as --at"
        ) from exc
    finally:
        connection.close()
    try:
        status = msgspec.json.decode(body, type=ServiceStatus) if answer.status == HTTPStatus.OK else None
    except msgspec.MsgspecError:
        status = None
    if status is None:
        found = body.decode(errors="replace").splitlines()[:1]
        raise ConfigError(f"{address} is not an operations port of eventml: it answers {found}")
    if status.bus != bus:
        raise ConfigError(
            f"{address} belongs to the bus {status.bus!r}, not {bus!r}; name another port with --at"
        )
    return status


def remote_status(bus: str, addresses: Sequence[HostPort]) -> Callable[[], ServiceStatus]:
    """Return a function that fetches the status of a bus from several ports, as one.

    A port that does not answer is named among the reasons why the service is not ready.
    """

    def status() -> ServiceStatus:
        found, failed = {}, []
        for address in addresses:
            try:
                found[str(address)] = fetch_status(bus, address)
            except (UnavailableError, ConfigError) as exc:
                failed.append(str(exc))
        whole = merged(found)
        return msgspec.structs.replace(whole, bus=bus, unready=[*whole.unready, *failed])

    return status
