"""State of a service: its workers, their processes, and the counters of processes that have ended."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from eventml.deploy.workers.ipc import HandlerCounters, WorkerSpec
from eventml.deploy.workers.status import ServiceStatus, WorkerStatus
from eventml.deploy.workers.worker_handle import WorkerHandle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class PooledWorker:
    """A worker of the service, whichever process runs it at the moment.

    Attributes:
        spec: What it runs.
        process: Its process, or the last one that it had; None before the first.
        successor: The process that is being started to replace `process`, or None.
        restarts: How many times it has been restarted after a crash.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.process: WorkerHandle | None = None
        self.successor: WorkerHandle | None = None
        self.restarts = 0

    @property
    def name(self) -> str:
        """Name of the worker."""
        return self.spec.name

    def promote(self) -> None:
        """Make the successor the worker's process."""
        self.process, self.successor = self.successor, None


class WorkerPool:
    """All workers of a service.

    Args:
        bus: Name of the bus.
        specs: What each worker runs.

    Attributes:
        workers: The workers.
        live: All processes that have not ended, draining ones and successors included.
        stopping: Whether the service is stopping.
        failure: Why the service cannot go on; empty while it can.
        rolling_restarts: How many rolling restarts have been completed.
    """

    def __init__(self, bus: str, specs: Sequence[WorkerSpec]) -> None:
        self._bus = bus
        self.workers = [PooledWorker(spec) for spec in specs]
        self.live: set[WorkerHandle] = set()
        self.stopping = False
        self.failure = ""
        self.rolling_restarts = 0
        self._ended: dict[str, HandlerCounters] = {}
        self._lock = threading.Lock()  # no total may fall while a process moves from `live` to `_ended`

    def remove(self, process: WorkerHandle) -> None:
        """Remove a process that has ended, and keep its counters."""
        with self._lock:
            self.live.discard(process)
            for name, handler in process.report.handlers.items():
                self._ended[name] = self._ended.get(name, HandlerCounters()) + handler.counters

    def status(self, stuck: str = "") -> ServiceStatus:
        """Return the current status. Any thread may call this.

        Args:
            stuck: Why the supervisor itself is not alive; empty while it is.
        """
        with self._lock:
            return ServiceStatus(
                bus=self._bus,
                workers=list(self._worker_statuses()),
                ended=dict(self._ended),
                stopping=self.stopping,
                stuck=stuck or self.failure,
                rolling_restarts=self.rolling_restarts,
            )

    def _worker_statuses(self) -> Iterator[WorkerStatus]:
        now = time.monotonic()
        restarts = {worker.name: worker.restarts for worker in self.workers}
        live = list(self.live)
        for process in sorted(live, key=lambda process: (process.name, process.started)):
            yield WorkerStatus(
                name=process.name,
                pid=process.pid,
                state=process.report.state,
                reason=process.report.reason,
                connected=process.report.connected,
                uptime=now - process.started,
                restarts=restarts.get(process.name, 0),
                handlers=process.report.handlers,
            )
        names = {process.name for process in live}
        for worker in self.workers:
            if worker.name not in names:
                reason = "" if worker.process is None else worker.process.end_reason()
                yield WorkerStatus(
                    name=worker.name, pid=0, state="restarting", reason=reason, restarts=worker.restarts
                )
