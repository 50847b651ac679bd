"""A supervisor's handle on one worker process: start it, read its reports and log, signal it, wait for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import anyio
import msgspec

from eventml.deploy.workers.health import WorkerHealth
from eventml.deploy.workers.ipc import WorkerReport, WorkerSpec
from eventml.deploy.workers.logs import LinePrinter, read_lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import Process

ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
"""Environment variables that limit numeric libraries to one thread; the user's own values win."""

_STACK_DUMP: Final = 0.3  # seconds for a hung process to write its stacks
_PIPE_GRACE: Final = 3.0  # seconds for the pipes to end after the process
_MAX_REPORT: Final = 1 << 24  # bytes


class WorkerHandle:
    """Handle on one worker process.

    Attributes:
        name: Name of the worker.
        started: Time of the start, of the monotonic clock, in seconds.
        ready: Set once the worker has reported that it is ready.
        ended: Set once the process has ended and its output has been read.
        report: Last report of the worker.
        killed_for: Why the supervisor killed it; empty if it did not.
        stop_requested: Whether the supervisor has asked it to stop.
    """

    def __init__(self, process: Process, name: str) -> None:
        self._process = process
        self.name = name
        self.started = time.monotonic()
        self.ready = anyio.Event()
        self.ended = anyio.Event()
        self.report = WorkerReport(state="starting")
        self.killed_for = ""
        self.stop_requested = False
        self._since = self._reported = self.started
        self._last_line = ""

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def exit_status(self) -> int:
        """Exit status, or minus the number of the signal that killed the process."""
        return self._process.returncode or 0

    @property
    def health(self) -> WorkerHealth:
        """Health of the worker as last reported."""
        progress = [handler.progress for handler in self.report.handlers.values()]
        return WorkerHealth(
            state=self.report.state, since=self._since, reported=self._reported, progress=progress
        )

    def end_reason(self) -> str:
        """Describe why the process ended, as far as that is known."""
        if self.killed_for:
            return self.killed_for
        if self.report.reason and self.report.state == "failed":
            return self.report.reason
        if self.exit_status < 0:
            name = signal.Signals(-self.exit_status).name
            hint = " (out of memory, perhaps)" if name == "SIGKILL" else ""
            return f"killed by {name}{hint}"
        last = f"; its last line: {self._last_line}" if self.exit_status and self._last_line else ""
        return f"exit status {self.exit_status}{last}"

    def stop(self) -> None:
        """Ask the worker to finish the events in flight and to end. A second call abandons them."""
        self.stop_requested = True
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # a suspended process handles no signals

    async def stop_within(self, seconds: float) -> None:
        """Ask the worker to stop unless that has been done, wait for its end, and kill it at the deadline."""
        if not self.stop_requested:
            self.stop()
        with anyio.move_on_after(seconds):
            await self.ended.wait()
            return
        await self.kill(f"it was still running {seconds:g} s after it was asked to stop")
        await self.ended.wait()

    async def kill(self, reason: str) -> None:
        """Kill the process. If it still can, it writes the stacks of its threads to the log first."""
        self.killed_for = reason
        if hasattr(signal, "SIGQUIT"):
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGQUIT)
            with anyio.move_on_after(_STACK_DUMP):
                await self.ended.wait()
        self._signal(signal.SIGKILL)

    async def listen(self, print_line: LinePrinter) -> None:
        """Read the worker's reports and print its log lines until the process has ended."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read_reports)
            tasks.start_soon(self._print_log, print_line)
            await self._process.wait()
            # A subprocess of the worker may keep the pipes open for longer.
            tasks.cancel_scope.deadline = anyio.current_time() + _PIPE_GRACE
        self.ended.set()

    async def _read_reports(self) -> None:
        stream = self._process.stdout
        assert stream is not None  # noqa: S101 - for the type checker: a pipe was requested
        async for line in read_lines(stream, _MAX_REPORT):
            try:
                report = msgspec.json.decode(line, type=WorkerReport)
            except msgspec.MsgspecError:  # incomplete: the process ended while it wrote
                continue
            self._reported = time.monotonic()
            if report.state != self.report.state:
                self._since = self._reported
            self.report = report
            if report.state == "ready":
                self.ready.set()

    async def _print_log(self, print_line: LinePrinter) -> None:
        stream = self._process.stderr
        assert stream is not None  # noqa: S101 - as above
        async for line in read_lines(stream):
            text = line.decode(errors="replace").rstrip("\r")
            if text:
                self._last_line = text
                print_line(self.name, text)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)


@asynccontextmanager
async def start_worker(spec: WorkerSpec) -> AsyncIterator[WorkerHandle]:
    """Start a worker process and yield its handle. On exit, a process that still runs is killed.

    The process is spawned, not forked: a fork would copy the locks and threads of the model libraries in an
    undefined state. It gets a session of its own, so that Ctrl-C on a terminal signals the supervisor alone.
    """
    process = await anyio.open_process(
        [sys.executable, "-m", "eventml.deploy.workers.worker_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**dict.fromkeys(ONE_THREAD, "1"), "PYTHONUNBUFFERED": "1", **os.environ},
        start_new_session=True,
        pass_fds=() if spec.listener is None else (spec.listener,),
    )
    handle = WorkerHandle(process, spec.name)
    try:
        assert process.stdin is not None  # noqa: S101 - for the type checker: a pipe was requested
        with suppress(anyio.BrokenResourceError):
            await process.stdin.send(msgspec.json.encode(spec) + b"\n")
        yield handle
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()
