"""Supervisor of worker processes: starts, restarts, kills, replaces and stops them.

    SIGTERM, SIGINT   all workers finish their events in flight at the same time, within one deadline
    a second signal   they abandon their events in flight, which go back to their groups
    SIGHUP            a rolling restart: workers are replaced one at a time, without a gap

`restarts` decides; this module carries the decisions out.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import anyio
import msgspec
from anyio.abc import TaskGroup, TaskStatus

from eventml.bus import stop_on_signals
from eventml.deploy.workers.reports import ServiceStatus, Totals, WorkerSpec, WorkerStatus, add_totals
from eventml.deploy.workers.restarts import (
    CRASH_WINDOW,
    MAX_CRASHES,
    HealthLimits,
    crash_counts,
    kill_reason,
    replace_reason,
    restart_delay,
)
from eventml.deploy.workers.worker_handle import WorkerHandle, start_worker
from eventml.runtime import OutageLog

log = logging.getLogger("eventml")

_CHECK_INTERVAL: Final = 0.5  # seconds between two health checks
_LATE: Final = 1.0  # seconds: a check that is later than this shows that the supervisor itself was suspended
_SUPERVISOR_STUCK: Final = 10.0  # seconds without a check after which /livez fails


class SupervisedWorker:
    """A worker of the service, whichever process runs it at the moment."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.process: WorkerHandle | None = None  # or the last one that it had
        self.restarts = 0  # after crashes
        self.starting = anyio.Lock()  # held while a process is started: one at a time


class Supervisor:
    """Runs the workers of a service until stopped.

    It must run in the main thread: signals arrive there, and the kernel kills the workers when the thread
    that started them ends.

    A worker that is asked to stop is killed after `drain` seconds. `print_line` gets each line of a worker's
    log, after its name.
    """

    def __init__(
        self,
        bus: str,
        specs: Sequence[WorkerSpec],
        *,
        drain: float,
        print_line: Callable[[str, str], None],
        limits: HealthLimits | None = None,
    ) -> None:
        self._bus = bus
        self._workers = [SupervisedWorker(spec) for spec in specs]
        self._drain = drain
        self._print_line = print_line
        self._limits = limits or HealthLimits()
        self._operations: str | None = None
        self._live: set[WorkerHandle] = set()  # processes that have not ended, draining ones included
        self._ended: dict[str, Totals] = {}  # of the processes that have ended, by handler
        self._moving = threading.Lock()  # no total may fall while a process moves from `_live` to `_ended`
        self._stopping = anyio.Event()
        self._failure = ""  # why the service cannot go on
        self._failure_status = 1
        self._all_finished = True
        self._restart_requested = anyio.Event()
        self._rolling_restarts = 0
        self._last_check = time.monotonic()
        self._tasks: TaskGroup

    def status(self) -> ServiceStatus:
        """Return the status of the service. Any thread may call this."""
        late = time.monotonic() - self._last_check
        stuck = f"the supervisor has been stuck for {late:.0f} s" if late > _SUPERVISOR_STUCK else ""
        with self._moving:
            live = sorted(self._live, key=lambda process: process.started)
            workers: list[WorkerStatus] = []
            for worker in self._workers:
                name, restarts = worker.spec.name, worker.restarts
                processes = [process.status(restarts) for process in live if process.name == name]
                reason = "" if worker.process is None else worker.process.end_reason()
                none = WorkerStatus(name=name, pid=0, state="restarting", reason=reason, restarts=restarts)
                workers += processes or [none]
            return ServiceStatus(
                bus=self._bus,
                workers=workers,
                ended=dict(self._ended),
                stopping=self._stopping.is_set(),
                stuck=stuck or self._failure,
                rolling_restarts=self._rolling_restarts,
            )

    async def run(self, operations: str | None = None) -> int:
        """Run until stopped, until a worker is in a crash loop, or until all workers have stopped when idle.

        Returns:
            The exit status: 0 if everything in flight was finished, 1 if not or after a crash loop; that of a
            worker that ends with an error although it was to stop when idle, or that can never start.
        """
        self._operations = operations
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(stop_on_signals, self.stop, self.abandon)
            self._tasks.start_soon(self._handle_sighup)
            self._tasks.start_soon(self._check_workers)
            self._tasks.start_soon(self._replace_workers)
            async with anyio.create_task_group() as running:
                for worker in self._workers:
                    running.start_soon(self._keep_running, worker)
            while self._live:  # a process that was being replaced
                await next(iter(self._live)).ended.wait()
            self._tasks.cancel_scope.cancel()
        if self._failure:
            log.error("%s", self._failure)
        return self._failure_status if self._failure else int(not self._all_finished)

    def stop(self) -> None:
        if self._stopping.is_set():
            return
        log.info(
            "stopping %d workers within %g s; a second signal abandons their events in flight",
            len(self._live),
            self._drain,
        )
        self._stopping.set()
        for process in self._live:
            self._tasks.start_soon(process.stop_within, self._drain)

    def abandon(self) -> None:
        log.warning("second signal: abandoning the events in flight; they go back to their groups")
        for process in self._live:
            process.stop()

    # One worker and its processes

    async def _keep_running(self, worker: SupervisedWorker) -> None:
        crashes: deque[float] = deque(maxlen=MAX_CRASHES)  # times of those that count
        ready_before, not_counted = False, 0
        process = await self._start(worker, None)
        while True:
            await process.ended.wait()
            if worker.process is process:
                if self._stopping.is_set() or (
                    worker.spec.until_idle is not None and not process.exit_status
                ):
                    return
                ready_before = ready_before or process.was_ready
                job_failed = worker.spec.until_idle is not None and process.was_ready
                useless = process.report.cause == "permanent" and not ready_before
                if process.report.state == "failed" and (job_failed or useless):
                    # A job ends with an error; a service starts its worker again, unless that is useless.
                    what = f"{process.name} cannot start" if useless else process.name
                    self._failure = f"{what}: {process.end_reason()}"
                    self._failure_status = process.exit_status or 1
                    self.stop()
                    return
                killed = process.exit_status == -signal.SIGKILL and not process.killed_for
                not_counted = 0 if process.was_ready else not_counted + bool(process.report.cause)
                if crash_counts(
                    process.report,
                    was_ready=process.was_ready,
                    killed_from_outside=killed,
                    ready_before=ready_before,
                ):
                    crashes.append(time.monotonic())
                await self._wait_before_restart(process, crashes, not_counted)
                if self._stopping.is_set():
                    return
                if worker.process is process:
                    worker.restarts += 1
            elif not process.stop_requested:
                log.warning("%s ended: %s; its new process is starting", process.name, process.end_reason())
            process = await self._start(worker, process)

    async def _wait_before_restart(
        self, process: WorkerHandle, crashes: Sequence[float], not_counted: int
    ) -> None:
        delay = restart_delay(crashes, time.monotonic(), not_counted)
        if delay is None:
            self._failure = (
                f"{process.name} ended {MAX_CRASHES} times within {CRASH_WINDOW:g} s "
                f"without completing an event; giving up. The last time: {process.end_reason()}"
            )
            self.stop()
            return
        log.warning("%s ended: %s; restarting in %.2f s", process.name, process.end_reason(), delay)
        with anyio.move_on_after(delay):
            await self._stopping.wait()

    async def _start(self, worker: SupervisedWorker, old: WorkerHandle | None) -> WorkerHandle:
        """Start a process in the place of `old`, unless the worker has another one by now, and return it."""
        async with worker.starting:
            if worker.process is old:
                if old is None or not old.ended.is_set():  # no other running process has this name
                    member = f"{worker.spec.name}-{secrets.token_hex(8)}"
                else:
                    member = old.member
                spec = msgspec.structs.replace(worker.spec, member=member)
                worker.process = await self._tasks.start(self._run_process, spec)
            assert worker.process is not None  # noqa: S101 - for the type checker: it has been started
            return worker.process

    async def _run_process(
        self, spec: WorkerSpec, *, task_status: TaskStatus[WorkerHandle] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        spec = msgspec.structs.replace(spec, supervisor=os.getpid(), operations=self._operations)
        async with start_worker(spec) as process:
            self._live.add(process)
            if self._stopping.is_set():
                self._tasks.start_soon(process.stop_within, self._drain)
            task_status.started(process)
            await process.listen(self._print_line)
            with self._moving:
                self._live.discard(process)
                for name, handler in process.report.handlers.items():
                    self._ended[name] = add_totals(handler.totals, self._ended.get(name, {}))
        if process.stop_requested and not process.has_finished():
            self._all_finished = self._all_finished and not self._stopping.is_set()
            log.warning("%s left events unfinished: %s", process.name, process.end_reason())

    # Health checks

    async def _check_workers(self) -> None:
        outages = OutageLog()
        while True:
            self._last_check = before = time.monotonic()
            await anyio.sleep(_CHECK_INTERVAL)
            if time.monotonic() - before > _CHECK_INTERVAL + _LATE:
                continue  # the supervisor was suspended: first read what the workers reported meanwhile
            reports = [worker.process.report for worker in self._workers if worker.process is not None]
            if not self._stopping.is_set():
                outages.update({what: error for one in reports for what, error in one.outages.items()})
            for process in self._live:
                reason = kill_reason(process.status(), self._limits)
                if reason is not None and not process.killed_for and not process.stop_requested:
                    log.error("%s: %s; killing it", process.name, reason)
                    self._tasks.start_soon(process.kill, reason)

    # Replacing workers, one at a time

    async def _handle_sighup(self) -> None:
        on_terminal = sys.stdin is not None and sys.stdin.isatty()
        with anyio.open_signal_receiver(signal.SIGHUP) as signals:
            async for _ in signals:
                if on_terminal:  # the terminal has been closed
                    self.stop()
                else:
                    log.info("SIGHUP: rolling restart of the workers")
                    self._restart_requested.set()

    async def _replace_workers(self) -> None:
        delay = _CHECK_INTERVAL
        while True:
            with anyio.move_on_after(delay):
                await self._restart_requested.wait()
            delay = _CHECK_INTERVAL
            if self._restart_requested.is_set():
                self._restart_requested = anyio.Event()
                await self._replace_all()
            for worker in self._workers:
                process = worker.process
                reason = None if process is None else replace_reason(process.status(), self._limits)
                if process is None or reason is None or process.killed_for or process.stop_requested:
                    continue
                log.error("%s: %s; replacing it", process.name, reason)
                if not await self._replace(worker):
                    delay = self._limits.hung_after  # before the next attempt

    async def _replace_all(self) -> None:
        """If a new process does not start, the remaining workers keep the processes that they have."""
        for worker in self._workers:
            if self._stopping.is_set():
                return
            if not await self._replace(worker):
                log.error("rolling restart given up: the other workers keep their processes")
                return
        self._rolling_restarts += 1
        log.info("all workers have been replaced")

    async def _replace(self, worker: SupervisedWorker) -> bool:
        """Replace the process of a worker: a new one is ready before the old one drains.

        Returns False if the new process did not start.
        """
        old = worker.process
        if old is None or old.ended.is_set():
            return True  # it is about to get another one
        new = await self._start(worker, old)
        await new.settled.wait()
        if self._stopping.is_set():
            return True
        if new.ended.is_set():
            if worker.process is new and not old.ended.is_set():
                worker.process = old
            log.error("%s: its new process did not start: %s", new.name, new.end_reason())
            return False
        log.info("%s: process %d replaces process %d", new.name, new.pid, old.pid)
        await old.stop_within(self._drain)
        return True
