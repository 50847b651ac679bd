"""A supervisor's handle on one worker process: start it, read its reports and log, signal it, wait for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import anyio
import msgspec
from anyio.abc import ByteReceiveStream, Process

from eventml.deploy.workers.logs import read_lines
from eventml.deploy.workers.reports import WorkerReport, WorkerSpec, WorkerStatus, resident_memory

ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
"""Environment variables that limit numeric libraries to one thread; the user's own values win."""

_STACK_DUMP: Final = 0.3  # seconds for a hung process to write its stacks
_PIPE_GRACE: Final = 3.0  # seconds for the pipes to end after the process


class WorkerHandle:
    """Handle on one worker process."""

    def __init__(self, process: Process, spec: WorkerSpec) -> None:
        self._process = process
        self.pid = process.pid
        self.name = spec.name
        self.member = spec.member
        self.started = time.monotonic()
        self.settled = anyio.Event()  # the worker has reported that it is ready, or has ended
        self.ended = anyio.Event()  # the process has ended, and its output has been read
        self.was_ready = False
        self.report = WorkerReport(state="starting")  # the last one
        self.killed_for = ""  # why the supervisor has killed it
        self.stop_requested = False  # by the supervisor
        self._changed = self._reported = self.started
        self._last_line = ""

    @property
    def exit_status(self) -> int:
        """Exit status, or minus the number of the signal that killed the process."""
        return self._process.returncode or 0

    def status(self, restarts: int = 0) -> WorkerStatus:
        """Return the status of the worker as last reported."""
        now = time.monotonic()
        return WorkerStatus(
            name=self.name,
            pid=self.pid,
            uptime=now - self.started,
            unchanged=now - self._changed,
            silence=now - self._reported,
            restarts=restarts,
            memory=resident_memory(self.pid),
            **msgspec.structs.asdict(self.report),
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

    def has_finished(self) -> bool:
        """Return whether the ended process had finished its events; one that was never ready had none."""
        stopped = self.exit_status == -signal.SIGTERM or self.report.state == "failed"
        return self.exit_status == 0 or (stopped and not self.was_ready)

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
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGQUIT)
        with anyio.move_on_after(_STACK_DUMP):
            await self.ended.wait()
        self._signal(signal.SIGKILL)

    async def listen(self, print_line: Callable[[str, str], None]) -> None:
        """Read the worker's reports and print its log lines until the process has ended."""
        reports, log = self._process.stdout, self._process.stderr
        assert reports is not None and log is not None  # noqa: S101, PT018 - for the type checker: pipes
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read_reports, reports)
            tasks.start_soon(self._print_log, log, print_line)
            await self._process.wait()
            # A subprocess of the worker may keep the pipes open for longer.
            tasks.cancel_scope.deadline = anyio.current_time() + _PIPE_GRACE
        self.ended.set()
        self.settled.set()

    async def _read_reports(self, stream: ByteReceiveStream) -> None:
        async for line in read_lines(stream):
            try:
                report = msgspec.json.decode(line, type=WorkerReport)
            except msgspec.MsgspecError:  # incomplete: the process ended while it wrote
                continue
            self._reported = time.monotonic()
            if report.state != self.report.state:
                self._changed = self._reported
            self.report = report
            if report.state == "ready":
                self.was_ready = True
                self.settled.set()

    async def _print_log(self, stream: ByteReceiveStream, print_line: Callable[[str, str], None]) -> None:
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
        [sys.executable, "-c", "from eventml.deploy.workers.worker_process import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**dict.fromkeys(ONE_THREAD, "1"), "PYTHONUNBUFFERED": "1", **os.environ},
        start_new_session=True,
        pass_fds=() if spec.listener is None else (spec.listener,),
    )
    handle = WorkerHandle(process, spec)
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
