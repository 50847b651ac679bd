"""Supervisor of worker processes: starts, restarts, kills, replaces and stops them.

    SIGTERM, SIGINT   all workers finish their events in flight at the same time, within one deadline
    a second signal   they abandon their events in flight, which go back to their groups
    SIGHUP            a rolling restart

`health` and `restarts` decide; this module carries the decisions out.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

import anyio
import msgspec

from eventml.bus import stop_on_signals
from eventml.deploy.workers.health import HealthLimits, kill_reason, replace_reason
from eventml.deploy.workers.ipc import WorkerSpec
from eventml.deploy.workers.logs import LinePrinter
from eventml.deploy.workers.pool import PooledWorker, WorkerPool
from eventml.deploy.workers.restarts import (
    Crash,
    RestartPolicy,
    RollingRestart,
    crash_counts,
    is_crash_loop,
    recent_crashes,
    restart_delay,
)
from eventml.deploy.workers.status import ServiceStatus
from eventml.deploy.workers.worker_handle import WorkerHandle, start_worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.abc import TaskGroup, TaskStatus

log = logging.getLogger("eventml")

_CHECK_INTERVAL: Final = 0.5  # seconds between two health checks
_LATE: Final = 1.0  # seconds: a check that is later than this shows that the supervisor itself was suspended
_SUPERVISOR_STUCK: Final = 10.0  # seconds without a check after which /livez fails


class Supervisor:
    """Runs the workers of a service until stopped.

    It must run in the main thread: signals arrive there, and the kernel kills the workers when the thread
    that started them ends.

    Args:
        bus: Name of the bus.
        specs: What each worker runs.
        drain: Seconds between asking a worker to stop and killing it.
        print_line: Prints the log lines of the workers.
        limits: When workers are killed or replaced.
        policy: How workers are restarted after a crash.
    """

    def __init__(
        self,
        bus: str,
        specs: Sequence[WorkerSpec],
        *,
        drain: float,
        print_line: LinePrinter,
        limits: HealthLimits | None = None,
        policy: RestartPolicy | None = None,
    ) -> None:
        self._drain = drain
        self._print_line = print_line
        self._limits = limits or HealthLimits()
        self._policy = policy or RestartPolicy()
        self._pool = WorkerPool(bus, specs)
        self._rolling = RollingRestart(self._pool, self._start, drain)
        self._stop = anyio.Event()
        self._all_finished = True
        self._operations: str | None = None
        self._last_check = time.monotonic()
        self._tasks: TaskGroup

    def status(self) -> ServiceStatus:
        """Return the status of the service. Any thread may call this."""
        late = time.monotonic() - self._last_check
        stuck = f"the supervisor has been stuck for {late:.0f} s" if late > _SUPERVISOR_STUCK else ""
        return self._pool.status(stuck)

    async def run(self, operations: str | None = None) -> int:
        """Run until stopped, until a worker is in a crash loop, or until all workers have stopped when idle.

        Args:
            operations: Address of the operations port, sent to the workers.

        Returns:
            The exit status: 0 if everything in flight was finished, 1 if not or after a crash loop.
        """
        self._operations = operations
        async with anyio.create_task_group() as self._tasks:
            self._tasks.start_soon(stop_on_signals, self)
            await self._tasks.start(self._handle_sighup)
            for task in (self._kill_dead_workers, self._replace_hung_workers, self._rolling.run):
                self._tasks.start_soon(task)
            async with anyio.create_task_group() as running:
                for worker in self._pool.workers:
                    running.start_soon(self._keep_running, worker)
            while self._pool.live:  # a process that was being replaced
                await next(iter(self._pool.live)).ended.wait()
            self._tasks.cancel_scope.cancel()
        if self._pool.failure:
            log.error("%s", self._pool.failure)
        return 1 if self._pool.failure or not self._all_finished else 0

    def stop(self) -> None:
        """Let all workers finish their events in flight, then return from `run`."""
        if self._pool.stopping:
            return
        log.info(
            "stopping %d workers within %g s; a second signal abandons their events in flight",
            len(self._pool.live),
            self._drain,
        )
        self._pool.stopping = True
        self._stop.set()
        for process in self._pool.live:
            if not process.stop_requested:  # a second request would abandon events
                process.stop()
            self._tasks.start_soon(process.stop_within, self._drain)

    def abandon(self) -> None:
        """Let all workers abandon their events in flight, then return from `run`."""
        log.warning("second signal: abandoning the events in flight; they go back to their groups")
        for process in self._pool.live:
            process.stop()

    # One worker and its processes

    async def _keep_running(self, worker: PooledWorker) -> None:
        crashes: list[Crash] = []
        worker.process = await self._start(worker)
        while True:
            process = worker.process
            assert process is not None  # noqa: S101 - for the type checker: it has just been started
            await process.ended.wait()
            if worker.process is not process:  # it has been replaced
                continue
            if worker.successor is None:
                if self._pool.stopping or (worker.spec.until_idle is not None and process.exit_status == 0):
                    return
                crashes = [*recent_crashes(crashes, self._policy, time.monotonic()), _crash(process)]
                await self._wait_before_restart(process, crashes)
                if self._pool.stopping:
                    return
            if worker.successor is not None:
                log.warning("%s ended: %s; its new process is starting", worker.name, process.end_reason())
                worker.promote()
            else:
                worker.restarts += 1
                worker.process = await self._start(worker)

    async def _wait_before_restart(self, process: WorkerHandle, crashes: Sequence[Crash]) -> None:
        now = time.monotonic()
        if is_crash_loop(crashes, self._policy, now):
            self._pool.failure = (
                f"{process.name} ended {self._policy.max_crashes} times within {self._policy.window:g} s "
                f"without completing an event; giving up. The last time: {process.end_reason()}"
            )
            self.stop()
            return
        delay = restart_delay(crashes, self._policy, now)
        log.warning("%s ended: %s; restarting in %.2f s", process.name, process.end_reason(), delay)
        with anyio.move_on_after(delay):
            await self._stop.wait()

    async def _start(self, worker: PooledWorker) -> WorkerHandle:
        spec = msgspec.structs.replace(worker.spec, supervisor=os.getpid(), operations=self._operations)
        process: WorkerHandle = await self._tasks.start(self._run_process, spec)
        return process

    async def _run_process(
        self, spec: WorkerSpec, *, task_status: TaskStatus[WorkerHandle] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        async with start_worker(spec) as process:
            self._pool.live.add(process)
            if self._pool.stopping:
                self._tasks.start_soon(process.stop_within, self._drain)
            task_status.started(process)
            await process.listen(self._print_line)
            self._pool.remove(process)
        if process.stop_requested and not _has_finished(process):
            self._all_finished = self._all_finished and not self._pool.stopping
            log.warning("%s left events unfinished: %s", process.name, process.end_reason())

    # Health checks and signals

    async def _kill_dead_workers(self) -> None:
        while True:
            self._last_check = before = time.monotonic()
            await anyio.sleep(_CHECK_INTERVAL)
            if time.monotonic() - before > _CHECK_INTERVAL + _LATE:
                continue  # the supervisor was suspended: first read what the workers reported meanwhile
            for process in list(self._pool.live):
                reason = kill_reason(process.health, self._limits, time.monotonic())
                if reason is not None and not process.killed_for and not process.stop_requested:
                    log.error("%s: %s; killing it", process.name, reason)
                    self._tasks.start_soon(process.kill, reason)

    async def _replace_hung_workers(self) -> None:
        while True:
            await anyio.sleep(_CHECK_INTERVAL)
            running = [
                (worker, worker.process) for worker in self._pool.workers if worker.process is not None
            ]
            for worker, process in running:
                reason = replace_reason(process.health, self._limits, time.monotonic())
                if reason is None or process.killed_for or process.stop_requested or self._pool.stopping:
                    continue
                log.error("%s: %s; replacing it", worker.name, reason)
                if not await self._rolling.replace(worker, process):
                    await anyio.sleep(self._limits.hung_after)

    async def _handle_sighup(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        on_terminal = sys.stdin is not None and sys.stdin.isatty()
        with anyio.open_signal_receiver(signal.SIGHUP) as signals:
            task_status.started()
            async for _ in signals:
                if on_terminal:  # the terminal has been closed
                    self.stop()
                else:
                    log.info("SIGHUP: rolling restart of the workers")
                    self._rolling.request()


def _crash(process: WorkerHandle) -> Crash:
    counts = crash_counts(
        completed=process.report.has_completed,
        idle=process.ready.is_set() and not process.report.has_received,
        killed_from_outside=process.exit_status == -signal.SIGKILL and not process.killed_for,
    )
    return Crash(time.monotonic(), counts)


def _has_finished(process: WorkerHandle) -> bool:
    """Return whether a stopped process finished its events; one that was not ready yet had none."""
    return process.exit_status == 0 or (process.exit_status == -signal.SIGTERM and not process.ready.is_set())
