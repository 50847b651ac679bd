"""One worker process, started by a supervisor: `python -m eventml.deploy.workers.worker_process`.

Exit status: 0 if it was stopped, or was idle, and finished all events in flight; 1 if it left events
unfinished, or could not start: its last report says why.
"""

from __future__ import annotations

import faulthandler
import logging
import pkgutil
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio

from eventml.bus import Bus, import_bus, stop_on_signals, stop_when_idle
from eventml.deploy.workers.exit import force_exit_later
from eventml.deploy.workers.health import LagMonitor
from eventml.deploy.workers.ipc import (
    REPORT_INTERVAL,
    SupervisorChannel,
    WorkerReport,
    WorkerSpec,
    WorkerState,
)
from eventml.deploy.workers.logs import start_service_logging
from eventml.deploy.workers.status import RunningWorker, WorkerFactory, handler_reports
from eventml.errors import EventMLError, UnavailableError
from eventml.runtime import Worker, backoff_delay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

log = logging.getLogger("eventml")

_FIRST_RETRY: Final = 0.1  # seconds before the second attempt to reach the broker
_MAX_RETRY: Final = 5.0  # seconds between two attempts


class WorkerProcess:
    """Runs a worker in this process and reports its state to the supervisor.

    Args:
        channel: Channel to the supervisor.
    """

    def __init__(self, channel: SupervisorChannel) -> None:
        self._channel = channel
        self._spec = channel.spec
        self._report = WorkerReport(state="starting")
        self._is_ready = False
        self._worker: RunningWorker
        self._lag_monitor: LagMonitor

    async def run(self, bus: Bus) -> bool:
        """Connect, load the models and work until stopped. Returns whether all events were finished."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._report_regularly)
            async with AsyncExitStack() as stack:
                self._worker = await self._open_worker(stack, bus)
                self._lag_monitor = LagMonitor(self._worker)
                for task in (self._stop_on_signals, self._report_ready, self._lag_monitor.run):
                    tasks.start_soon(task)
                if self._spec.until_idle is not None and isinstance(self._worker, Worker):
                    tasks.start_soon(self._stop_when_idle, self._worker, self._spec.until_idle)
                finished = await self._worker.run()
                self.report("draining")
            tasks.cancel_scope.cancel()
        return finished

    def report(self, state: WorkerState, reason: str = "") -> None:
        """Report a new state to the supervisor."""
        self._report = WorkerReport(state=state, reason=reason)
        self._send()

    def stop(self) -> None:
        """Finish the events in flight, then return from `run`."""
        log.info("finishing %d events in flight", self._worker.in_flight)
        self._lag_monitor.stop()
        self._worker.stop()
        self.report("draining")

    def abandon(self) -> None:
        """Abandon the events in flight and return from `run`."""
        log.warning("abandoning %d events in flight; they go back to their groups", self._worker.in_flight)
        self._worker.abandon()

    def _send(self) -> None:
        if self._is_ready:
            self._report.connected = self._lag_monitor.connected
            self._report.handlers = handler_reports(self._worker, self._lag_monitor.lags)
        self._channel.send(self._report)

    async def _report_regularly(self) -> None:
        while True:
            self._send()
            # The first completion is reported soon: a crash after it does not count towards a crash loop.
            await anyio.sleep(REPORT_INTERVAL if self._report.has_completed else REPORT_INTERVAL / 10)

    async def _report_ready(self) -> None:
        await self._worker.ready.wait()
        self._is_ready = True
        if self._report.state == "starting":
            self.report("ready")
            log.info("ready: %s", ", ".join(self._worker.stats))

    async def _open_worker(self, stack: AsyncExitStack, bus: Bus) -> RunningWorker:
        """Make the worker, and retry for as long as the broker is away: a restart would not bring it back."""
        factory: WorkerFactory = _stream_worker
        if self._spec.factory is not None:
            factory = pkgutil.resolve_name(self._spec.factory)
        failures = 0
        while True:
            try:
                return await stack.enter_async_context(factory(bus, self._spec))
            except UnavailableError as exc:
                failures += 1
                seconds = backoff_delay(failures, _FIRST_RETRY, _MAX_RETRY)
                log.warning("%s; trying again in %.2f s", exc, seconds)
                self.report("waiting", str(exc))
                await anyio.sleep(seconds)
                self.report("starting", str(exc))

    async def _stop_on_signals(self) -> None:
        try:
            await stop_on_signals(self)
        finally:
            # The work is done: a later signal must not change the exit status.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)

    async def _stop_when_idle(self, worker: Worker, seconds: float) -> None:
        await stop_when_idle(worker, seconds)
        self._lag_monitor.stop()
        log.info("idle for %g s: stopping", seconds)


@asynccontextmanager
async def _stream_worker(bus: Bus, spec: WorkerSpec) -> AsyncIterator[Worker]:
    async with bus.open(), bus.worker(spec.handlers) as worker:
        yield worker


def main() -> None:
    """Read the spec from standard input and run the worker."""
    channel = SupervisorChannel()
    spec = channel.spec
    process = WorkerProcess(channel)
    if hasattr(signal, "SIGQUIT"):  # the supervisor sends it before it kills a hung process
        faulthandler.register(signal.SIGQUIT, all_threads=True)
    try:
        bus = import_bus(spec.bus)
        start_service_logging(spec.name, json=spec.json_logs)
        bus.configure(bus.read_settings({"backend": spec.backend} if spec.backend else {}))
        finished = anyio.run(process.run, bus, backend_options=spec.loop_options)
    except Exception as exc:
        start_service_logging(spec.name, json=spec.json_logs)
        errors = list(_leaves(exc))
        reason = "; ".join(dict.fromkeys(f"{type(error).__name__}: {error}" for error in errors))
        expected = all(isinstance(error, EventMLError) for error in errors)
        log.exception("%s", reason, exc_info=None if expected else exc)
        process.report("failed", reason)
        finished = False
    force_exit_later(0 if finished else 1)
    sys.exit(0 if finished else 1)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


if __name__ == "__main__":
    main()
