"""A worker's process as its supervisor holds it: started, listened to, signalled, waited for."""

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

from eventml.deploy.workers.liveness import Signs
from eventml.deploy.workers.relay import lines
from eventml.deploy.workers.reports import Report
from eventml.deploy.workers.restarts import blamed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import Process

    from eventml.deploy.workers.relay import Printer
    from eventml.deploy.workers.reports import Orders

ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
"""Variables that keep the numeric libraries to one thread, unless the environment sets them."""

_DUMP: Final = 0.3  # seconds for the stacks of what hangs to be written
_LAST_WORDS: Final = 3.0  # seconds for the pipes to end after their process has


class Child:
    """One worker process.

    Attributes:
        name: The worker's.
        started: When, by the monotonic clock.
        ready: Set once it has said so.
        ended: Set once the process is gone and all that it said has been read.
        report: What it said last.
        killed_for: Why its supervisor killed it, if it did.
        asked_to_stop: Whether its supervisor told it to.
    """

    def __init__(self, process: Process, name: str) -> None:
        self._process = process
        self.name = name
        self.started = time.monotonic()
        self.ready = anyio.Event()
        self.ended = anyio.Event()
        self.report = Report(state="starting")
        self.killed_for = ""
        self.asked_to_stop = False
        self._since = self._heard = self.started
        self._last_line = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int:
        """How it ended: its exit status, or minus the number of the signal that killed it."""
        return self._process.returncode or 0

    @property
    def signs(self) -> Signs:
        """What is known of its life."""
        progress = [handler.progress for handler in self.report.handlers.values()]
        return Signs(state=self.report.state, since=self._since, heard=self._heard, progress=progress)

    @property
    def blamed(self) -> bool:
        """Whether its end, which nobody asked for, speaks against it."""
        return blamed(
            finished=self.report.worked,
            waited=self.ready.is_set() and not self.report.received,
            killed=self.status == -signal.SIGKILL and not self.killed_for,
        )

    def describe_end(self) -> str:
        """Why it ended, in words, as far as can be told."""
        if self.killed_for:
            return self.killed_for
        if self.report.reason and self.report.state == "failed":
            return self.report.reason
        if self.status < 0:
            name = signal.Signals(-self.status).name
            hint = " (out of memory, perhaps)" if name == "SIGKILL" else ""
            return f"killed by {name}{hint}"
        last = f"; its last line: {self._last_line}" if self.status and self._last_line else ""
        return f"exit status {self.status}{last}"

    def stop(self) -> None:
        """Ask it to finish what is in hand and end. Asked again, it gives up on what is in hand."""
        self.asked_to_stop = True
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # one that was stopped could not hear

    async def kill(self, why: str) -> None:
        """End it now. Where it hangs is written to its log before, as far as it can still tell."""
        self.killed_for = why
        if hasattr(signal, "SIGQUIT"):
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGQUIT)
            with anyio.move_on_after(_DUMP):
                await self.ended.wait()
        self._signal(signal.SIGKILL)

    async def listen(self, show: Printer) -> None:
        """Take in its reports and pass on its lines until it has ended."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._take_reports)
            tasks.start_soon(self._relay, show)
            await self._process.wait()
            # A child of its own may hold its pipes open for longer.
            tasks.cancel_scope.deadline = anyio.current_time() + _LAST_WORDS
        self.ended.set()

    async def _take_reports(self) -> None:
        stream = self._process.stdout
        assert stream is not None  # noqa: S101 - for the type checker: we asked for the pipe
        async for line in lines(stream, longest=1 << 24):
            try:
                report = msgspec.json.decode(line, type=Report)
            except msgspec.MsgspecError:  # cut short by its end
                continue
            self._heard = time.monotonic()
            if report.state != self.report.state:
                self._since = self._heard
            self.report = report
            if report.state == "ready":
                self.ready.set()

    async def _relay(self, show: Printer) -> None:
        stream = self._process.stderr
        assert stream is not None  # noqa: S101 - as above
        async for line in lines(stream):
            text = line.decode(errors="replace").rstrip("\r")
            if text:
                self._last_line = text
                show(self.name, text)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)


@asynccontextmanager
async def started(orders: Orders) -> AsyncIterator[Child]:
    """Start a worker. Leaving kills it if it has not ended by then.

    It is spawned, not forked: models and forks do not mix. It has a session of its own, so that
    Ctrl-C on a terminal reaches its supervisor alone.
    """
    process = await anyio.open_process(
        [sys.executable, "-m", "eventml.deploy.workers.worker_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**dict.fromkeys(ONE_THREAD, "1"), "PYTHONUNBUFFERED": "1", **os.environ},
        start_new_session=True,
        pass_fds=() if orders.listener is None else (orders.listener,),
    )
    child = Child(process, orders.name)
    try:
        assert process.stdin is not None  # noqa: S101 - for the type checker: we asked for the pipe
        with suppress(anyio.BrokenResourceError):
            await process.stdin.send(msgspec.json.encode(orders) + b"\n")
        yield child
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()
