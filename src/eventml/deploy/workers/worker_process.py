"""One worker process, started by a supervisor: `python -m eventml.deploy.workers.worker_process`.

Exit status: 0, stopped as asked with nothing left in hand, or idle; 1, something was given back
unfinished, or it could not start: its last report says why.
"""

from __future__ import annotations

import faulthandler
import logging
import signal
import sys
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import anyio

from eventml.deploy.workers.importing import import_bus
from eventml.deploy.workers.leaving import last_call
from eventml.deploy.workers.lifeline import Lifeline
from eventml.deploy.workers.logs import start_logging
from eventml.deploy.workers.reports import EVERY, Report
from eventml.deploy.workers.rolling import stamps
from eventml.deploy.workers.snapshots import handler_reports, model_path
from eventml.errors import EventMLError, UnavailableError
from eventml.runtime import Worker, backoff_delay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager

    from anyio.abc import TaskStatus

    from eventml.bus import Bus
    from eventml.deploy.workers.at_work import AtWork
    from eventml.deploy.workers.liveness import State
    from eventml.deploy.workers.reports import Orders

log = logging.getLogger("eventml")

_LAG_EVERY = 2.0  # seconds
_LAG_HOLDS = 10.0  # seconds: an older one says nothing of now
_LONGEST_WAIT = 5.0  # seconds between two attempts to reach a broker


class Process:
    """The state of this process, and who is told of it.

    Args:
        lifeline: To the supervisor.
    """

    def __init__(self, lifeline: Lifeline) -> None:
        self._lifeline = lifeline
        self._report = Report(state="starting")
        self._worker: AtWork | None = None
        self._lags: dict[str, int | None] = {}
        self._lags_asked = 0.0
        self._reachable = True
        self._stamps: dict[str, str] = {}

    async def run(self, bus: Bus, orders: Orders) -> bool:
        """Connect, load, work until told to stop. Returns whether all that was in hand was finished."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._report_on)
            async with AsyncExitStack() as stack:
                if orders.listener is None:
                    await self._connect(stack, bus)
                paths = (model_path(bus.configured(name).model) for name in bus.handlers)
                self._stamps = stamps(path for path in paths if path is not None)
                worker: AtWork = await stack.enter_async_context(_worker(bus, orders))
                await tasks.start(self._stop_when_told, worker)
                tasks.start_soon(self._say_ready, worker)
                if orders.until_idle is not None and isinstance(worker, Worker):
                    tasks.start_soon(_stop_when_idle, worker, orders.until_idle)
                finished = await worker.run()
                self.say("draining")
            tasks.cancel_scope.cancel()
        return finished

    def say(self, state: State, reason: str = "") -> None:
        """Tell the supervisor, now."""
        self._report = Report(state=state, reason=reason)
        self._send()

    def _send(self) -> None:
        if self._worker is not None:
            fresh = time.monotonic() - self._lags_asked < _LAG_HOLDS
            self._report.connected = self._reachable and fresh
            self._report.handlers = handler_reports(self._worker, self._lags if fresh else {}, self._stamps)
        self._lifeline.report(self._report)

    async def _report_on(self) -> None:
        while True:
            self._send()
            # That it works at all is told soon: one that dies right after had not been idle.
            await anyio.sleep(EVERY if self._report.worked else EVERY / 10)

    async def _connect(self, stack: AsyncExitStack, bus: Bus) -> None:
        """Connect, however long the broker takes to be there: to end and be started again mends nothing."""
        failures = 0
        while True:
            try:
                await stack.enter_async_context(bus.open())
            except UnavailableError as exc:
                failures += 1
                seconds = backoff_delay(failures, 0.1, _LONGEST_WAIT)
                log.warning("%s; again in %.2f s", exc, seconds)
                self.say("waiting", str(exc))
                await anyio.sleep(seconds)
            else:
                self.say("starting")
                return

    async def _say_ready(self, worker: AtWork) -> None:
        await worker.ready.wait()
        self._worker = worker
        self._lags_asked = time.monotonic()
        self.say("ready")
        log.info("ready: %s", ", ".join(worker.stats))
        await self._ask_lag(worker)

    async def _ask_lag(self, worker: AtWork) -> None:
        while self._report.state == "ready":
            try:
                self._lags = await worker.lag()
            except Exception as exc:  # noqa: BLE001 - whatever is wrong with counting must not stop the work
                log.debug("cannot tell the lag: %s", exc)
                self._reachable = not isinstance(exc, UnavailableError)
            else:
                self._reachable = True
            self._lags_asked = time.monotonic()
            await anyio.sleep(_LAG_EVERY)

    async def _stop_when_told(
        self, worker: AtWork, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        try:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                task_status.started()
                async for _ in signals:
                    self._stop_or_give_up(worker)
        finally:
            # All is done: a signal that comes late must not make it look otherwise.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)

    def _stop_or_give_up(self, worker: AtWork) -> None:
        if self._report.state == "draining":
            log.warning("giving up on %d events in hand; they go back", worker.in_flight)
            worker.abandon()
            return
        log.info("finishing %d events in hand", worker.in_flight)
        worker.stop()
        self.say("draining")


async def _stop_when_idle(worker: Worker, seconds: float) -> None:
    while True:
        try:
            await worker.idle(seconds)
            break
        except UnavailableError as exc:  # whether anything is left cannot be told: it may be
            log.warning("cannot tell whether anything is left: %s", exc)
            await anyio.sleep(1)
    log.info("idle for %g s: stopping", seconds)
    worker.stop()


def main() -> None:
    """Take the orders from standard input and carry them out."""
    lifeline = Lifeline()
    orders = lifeline.orders
    process = Process(lifeline)
    if hasattr(signal, "SIGQUIT"):  # a supervisor asks so, before it kills, what hangs where
        faulthandler.register(signal.SIGQUIT, all_threads=True)
    try:
        bus = import_bus(orders.bus)
        start_logging(orders.name, json=orders.json_logs)
        bus.configure(bus.read_settings({"backend": orders.backend} if orders.backend else {}))
        finished = anyio.run(process.run, bus, orders, backend_options=_loop_options(orders))
    except Exception as exc:
        start_logging(orders.name, json=orders.json_logs)
        reasons = list(dict.fromkeys(_reasons(exc)))
        expected = all(isinstance(leaf, EventMLError) for leaf in _leaves(exc))
        log.exception("%s", "; ".join(reasons), exc_info=None if expected else exc)
        process.say("failed", "; ".join(reasons))
        finished = False
    last_call(0 if finished else 1)
    sys.exit(0 if finished else 1)


def _worker(bus: Bus, orders: Orders) -> AbstractAsyncContextManager[AtWork]:
    """What this process runs: handlers of streams, or the web service."""
    if orders.listener is None:
        return bus.worker(orders.only)
    from eventml.deploy.web import supervised_worker  # noqa: PLC0415 - an extra

    return supervised_worker(bus, orders)


def _loop_options(orders: Orders) -> dict[str, Any]:
    if orders.listener is None:
        return {}
    from eventml.deploy.web import loop_options  # noqa: PLC0415 - an extra

    return loop_options()


def _reasons(error: BaseException) -> Iterator[str]:
    for leaf in _leaves(error):
        yield f"{type(leaf).__name__}: {leaf}"


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


if __name__ == "__main__":
    main()
