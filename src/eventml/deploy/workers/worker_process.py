"""One worker process: it runs a worker, and reports to the supervisor that started it.

Exit status: 0 if it was stopped, or was idle, and finished all events in flight; 1 if it left events
unfinished, or could not start: its last report says why.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final

import anyio
import msgspec

from eventml.backends.base import NamesMembers
from eventml.bus import Bus, import_bus, run_until_signal, stop_when_idle
from eventml.deploy.workers.logs import make_errors_printable, start_service_logging
from eventml.deploy.workers.readiness import LagMonitor
from eventml.deploy.workers.reports import (
    BREAKER_OPEN,
    REPORT_INTERVAL,
    FailureCause,
    RunningWorker,
    WorkerFactory,
    WorkerReport,
    WorkerSpec,
    WorkerState,
    handler_reports,
)
from eventml.deploy.workers.restarts import failure_cause
from eventml.errors import CircuitBreakerError, EventMLError, UnavailableError
from eventml.runtime import BrokerRetry, OutageLog, Stats, Worker, leaves, task_group

log = logging.getLogger("eventml")

_EXIT_GRACE: Final = 2.0  # seconds that threads may take to end
_PR_SET_PDEATHSIG: Final = 1


class SupervisorChannel:
    """A worker's channel to its supervisor.

    It takes over standard input and output for its messages; whatever the app prints goes to standard error,
    and so to the log. Create it before anything else: it reads the spec.

    The worker does not outlive its supervisor. On Linux the kernel kills it (SIGKILL) when the supervisor
    ends, for whatever reason. Elsewhere a thread exits the process at the end of standard input; it cannot
    do so while the process is stopped or foreign code holds the interpreter lock.
    """

    def __init__(self) -> None:
        self._output = os.dup(1)
        os.dup2(2, 1)
        os.set_blocking(self._output, False)  # a supervisor that does not read must not block the worker
        self._unsent = b""
        self._input = open(os.dup(0), "rb", buffering=0)  # noqa: SIM115, PTH123 - open until the process ends
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a device, not a path
            os.dup2(nothing.fileno(), 0)
        line = self._input.readline()
        if not line.endswith(b"\n"):
            sys.exit("a worker is started by its supervisor: use `eventml run MODULE:BUS --workers N`")
        self.spec = msgspec.json.decode(line, type=WorkerSpec)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self.spec.supervisor:  # it ended before the call above
            os._exit(1)
        threading.Thread(target=self._exit_at_end, name="supervisor watch", daemon=True).start()

    def send(self, report: WorkerReport) -> None:
        """Send a report, or skip it while the supervisor has not read the earlier ones."""
        if not self._unsent:
            self._unsent = msgspec.json.encode(report) + b"\n"
        with suppress(BlockingIOError, BrokenPipeError):
            while self._unsent:
                self._unsent = self._unsent[os.write(self._output, self._unsent) :]

    def _exit_at_end(self) -> None:
        self._input.read()
        os._exit(1)


class WorkerProcess:
    """Runs a worker in this process and reports its state to the supervisor."""

    def __init__(self, channel: SupervisorChannel) -> None:
        self._channel = channel
        self._spec = channel.spec
        self._report = WorkerReport(state="starting")
        self._worker: RunningWorker
        self._lag_monitor: LagMonitor
        self._outages = OutageLog()  # that of the worker, once there is one
        self._ready = anyio.Event()  # that of the worker, once there is one

    async def run(self, bus: Bus) -> bool:
        """Connect, load the models and work until stopped. Returns whether all events were finished."""
        try:
            return await run_until_signal(self._opened(bus), lambda _: self.stop(), lambda _: self.abandon())
        finally:
            # The work is done: a later signal must not change the exit status.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)

    @asynccontextmanager
    async def _opened(self, bus: Bus) -> AsyncIterator[RunningWorker]:
        async with task_group() as tasks:
            tasks.start_soon(self._report_regularly)
            async with AsyncExitStack() as stack:
                self._worker = await self._open_worker(stack, bus)
                self._lag_monitor = LagMonitor(self._worker)
                self._ready, self._outages = self._worker.ready, self._worker.outages
                tasks.start_soon(self._lag_monitor.run)
                if self._spec.until_idle is not None and isinstance(self._worker, Worker):
                    tasks.start_soon(self._stop_when_idle, self._worker, self._spec.until_idle)
                yield self._worker
                self.report("draining")
            tasks.cancel_scope.cancel()

    def report(self, state: WorkerState, reason: str = "", cause: FailureCause = "") -> None:
        """Report a new state to the supervisor."""
        self._report = WorkerReport(state=state, reason=reason, cause=cause)
        self._send()

    def stop(self) -> None:
        log.info("finishing %d events in flight", self._worker.in_flight)
        self._lag_monitor.stop()
        self._worker.stop()
        self.report("draining")

    def abandon(self) -> None:
        log.warning("abandoning %d events in flight; they go back to their groups", self._worker.in_flight)
        self._worker.abandon()

    def _send(self) -> None:
        report = self._report
        report.outages = self._outages.current
        if self._ready.is_set():
            if report.state == "starting":
                report.state, report.reason = "ready", ""
                log.info("ready: %s", ", ".join(self._worker.stats))
            report.connected = self._lag_monitor.connected
            report.handlers = handler_reports(self._worker, self._lag_monitor.lags)
        self._channel.send(report)

    async def _report_regularly(self) -> None:
        while True:
            self._send()
            # The first completion is reported soon: a crash after it does not count towards a crash loop.
            await anyio.sleep(REPORT_INTERVAL if self._report.has_any("completed") else REPORT_INTERVAL / 10)

    async def _open_worker(self, stack: AsyncExitStack, bus: Bus) -> RunningWorker:
        """Make the worker, and retry for as long as the broker is away: a restart would not bring it back."""
        named = self._spec.factory
        factory: WorkerFactory = pkgutil.resolve_name(named) if named else _stream_worker
        retry = BrokerRetry(self._spec.name, "connect", Stats(self._outages))
        while True:
            try:
                worker = await stack.enter_async_context(factory(bus, self._spec))
            except UnavailableError as exc:
                self.report("waiting", str(exc))
                await retry.wait(exc)
                self.report("starting", str(exc))
            else:
                retry.succeeded()
                return worker

    async def _stop_when_idle(self, worker: Worker, seconds: float) -> None:
        await stop_when_idle(worker, seconds)
        self._lag_monitor.stop()


@asynccontextmanager
async def _stream_worker(bus: Bus, spec: WorkerSpec) -> AsyncIterator[Worker]:
    async with bus.open():
        if isinstance(bus.backend, NamesMembers):
            bus.backend.name_members(spec.member)
        async with bus.worker(spec.handlers) as worker:
            yield worker


def main() -> None:
    """Read the spec from standard input and run the worker."""
    make_errors_printable()
    channel = SupervisorChannel()
    spec = channel.spec
    process = WorkerProcess(channel)
    faulthandler.register(signal.SIGQUIT, all_threads=True)  # sent before a hung process is killed
    try:
        bus = import_bus(spec.bus)
        start_service_logging(spec.name, json=spec.json_logs)
        logging.getLogger("eventml.outages").setLevel(logging.CRITICAL)  # the supervisor logs them, once
        bus.configure(bus.read_settings({"backend": spec.backend} if spec.backend else {}))
        status = 0 if anyio.run(process.run, bus, backend_options=spec.loop_options) else 1
    except Exception as exc:
        start_service_logging(spec.name, json=spec.json_logs)
        errors = leaves(exc)
        reason = "; ".join(dict.fromkeys(f"{type(error).__name__}: {error}" for error in errors))
        expected = all(isinstance(error, EventMLError) for error in errors)
        log.exception("%s", reason, exc_info=None if expected else exc)
        process.report("failed", reason, failure_cause(errors))
        status = BREAKER_OPEN if any(isinstance(error, CircuitBreakerError) for error in errors) else 1
    force_exit_later(status)
    sys.exit(status)


def force_exit_later(code: int) -> threading.Timer:
    """End the process with `code` in two seconds, with `os._exit`, if threads are still running then.

    Python waits for all non-daemon threads when it exits, and a call of a handler that has been abandoned
    after its timeout may keep its thread busy for ever: a thread cannot be stopped. Nothing happens if only
    clean-up at exit is going on. Cancel the returned timer to keep the process running.
    """
    timer = threading.Timer(_EXIT_GRACE, _force_exit, (code,))
    timer.daemon = True
    timer.start()
    return timer


def _force_exit(code: int) -> None:
    main_thread = threading.main_thread()
    running = [one.name for one in threading.enumerate() if not one.daemon and one is not main_thread]
    if not running:
        return
    log.warning(
        "exiting although these threads are still running and cannot be stopped: %s", ", ".join(running)
    )
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # closed, or its reader has gone
            stream.flush()
    os._exit(code)
