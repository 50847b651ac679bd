"""Many workers, watched over: started, started again, replaced, stopped together.

    SIGTERM, SIGINT   every worker finishes what is in hand, all at once, within one deadline
    again             they give up on what is in hand; it goes back to its groups
    SIGHUP            workers are replaced one at a time, each new one ready before its old one drains

The decisions are those of `liveness`, `restarts`, `placement` and `rolling`; here they are carried out.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import anyio
import msgspec

from eventml.deploy.workers.child import started
from eventml.deploy.workers.crew import Crew
from eventml.deploy.workers.liveness import Limits, why_kill, why_replace
from eventml.deploy.workers.replacing import Replacing
from eventml.deploy.workers.reports import Orders, model_files
from eventml.deploy.workers.restarts import Crash, Patience, broken, recent, wait_before_restart
from eventml.deploy.workers.rolling import Watch, stamps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.abc import TaskGroup, TaskStatus

    from eventml.deploy.workers.child import Child
    from eventml.deploy.workers.crew import Slot
    from eventml.deploy.workers.placement import Place
    from eventml.deploy.workers.relay import Printer
    from eventml.deploy.workers.status import Status

log = logging.getLogger("eventml")

_LOOK = 0.5  # seconds between two looks at the workers
_LATE = 1.0  # seconds: a look so late says that the supervisor itself was held up
_MODELS = 1.0  # seconds between two looks at the model files
_HELD_UP = 10.0  # seconds without a look: the supervisor is no use any more


class Supervisor:
    """Runs a service's workers until told to stop.

    It has to run in the main thread: the kernel ties the workers' lives to the thread that starts them.

    Args:
        bus: The bus's name, for those who watch.
        places: The workers that there are to be.
        orders: What each is told; name, handlers, listener and supervisor are filled in.
        show: Where the workers' log lines go.
        limits: How patient it is with them.
        patience: How often it starts them again.
    """

    def __init__(
        self,
        bus: str,
        places: Sequence[Place],
        orders: Orders,
        *,
        show: Printer,
        limits: Limits | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.orders = orders
        self._show = show
        self._limits = limits or Limits()
        self._patience = patience or Patience()
        self._crew = Crew(bus, places)
        self._stop = anyio.Event()
        self._in_order = True
        self._roll_wanted = anyio.Event()
        self._replacing = Replacing(self._crew, self._launch, self._limits.drain)
        self._last_look = time.monotonic()
        self._tasks: TaskGroup

    def status(self) -> Status:
        """The service as it is now. It may be called from any thread."""
        held_up = time.monotonic() - self._last_look
        stuck = f"the supervisor has been held up for {held_up:.0f} s" if held_up > _HELD_UP else ""
        return self._crew.status(stuck)

    async def run(self) -> int:
        """Run until stopped, or until a worker cannot be kept running. Returns the exit status.

        0: stopped as asked, everything finished within the deadline; or all workers were idle
        (`until_idle`). 1: a worker could not be kept running, or something was left unfinished.
        """
        async with anyio.create_task_group() as self._tasks:
            await self._tasks.start(self._heed_signals)
            for task in (
                self._watch_life,
                self._watch_threads,
                self._watch_models,
                self._roll_when_wanted,
                self._stop_all,
            ):
                self._tasks.start_soon(task)
            async with anyio.create_task_group() as keepers:
                for slot in self._crew.slots:
                    keepers.start_soon(self._keep, slot)
            while self._crew.living:  # one that was being replaced
                await next(iter(self._crew.living)).ended.wait()
            self._tasks.cancel_scope.cancel()
        if self._crew.failure:
            log.error("%s", self._crew.failure)
        return 1 if self._crew.failure or not self._in_order else 0

    def stop(self) -> None:
        """Let every worker finish what is in hand, and `run` return."""
        self._crew.stopping = True
        self._stop.set()

    def roll(self) -> None:
        """Replace the workers one at a time. Asked while that is under way, it is done once more."""
        self._roll_wanted.set()

    # One place and its worker

    async def _keep(self, slot: Slot) -> None:
        slot.child = await self._launch(slot.place)
        while True:
            child = slot.child
            await child.ended.wait()
            if slot.child is not child:
                continue
            if slot.incoming is not None:
                log.warning("%s ended: %s; its successor is on its way", child.name, child.describe_end())
                slot.promote()
                continue
            if self._crew.stopping or (self.orders.until_idle is not None and child.status == 0):
                return
            await self._wait_after(slot, child)
            if self._crew.stopping:
                return
            slot.restarts += 1
            slot.child = await self._launch(slot.place)

    async def _wait_after(self, slot: Slot, child: Child) -> None:
        """A worker has ended though nobody asked: wait, or give up."""
        now = time.monotonic()
        crash = Crash(now, counts=child.blamed)
        slot.crashes = [*recent(slot.crashes, self._patience, now), crash]
        if broken(slot.crashes, self._patience, now):
            self._crew.failure = (
                f"{child.name} ended {self._patience.crashes} times within {self._patience.window:g} s and "
                f"had finished nothing; giving up. The last time: {child.describe_end()}"
            )
            self.stop()
            return
        seconds = wait_before_restart(slot.crashes, self._patience, now)
        log.warning("%s ended: %s; again in %.2f s", child.name, child.describe_end(), seconds)
        with anyio.move_on_after(seconds):
            await self._stop.wait()

    async def _launch(self, place: Place) -> Child:
        orders = msgspec.structs.replace(
            self.orders, supervisor=os.getpid(), name=place.name, only=place.only, listener=place.listener
        )
        child: Child = await self._tasks.start(self._run_one, orders)
        return child

    async def _run_one(
        self, orders: Orders, *, task_status: TaskStatus[Child] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        async with started(orders) as child:
            self._crew.living.add(child)
            if self._crew.stopping:
                child.stop()
            task_status.started(child)
            await child.listen(self._show)
            self._crew.retire(child)
        if child.asked_to_stop and not _left_in_order(child):
            self._in_order = self._in_order and not self._crew.stopping
            log.warning("%s left something unfinished: %s", child.name, child.describe_end())

    # Watching

    async def _watch_life(self) -> None:
        while True:
            self._last_look = before = time.monotonic()
            await anyio.sleep(_LOOK)
            if time.monotonic() - before > _LOOK + _LATE:
                continue  # we were held up: what the workers said meanwhile has yet to be heard
            for child in list(self._crew.living):
                why = why_kill(child.signs, self._limits, time.monotonic())
                if why is not None and not child.killed_for and not child.asked_to_stop:
                    log.error("%s: %s; killing it", child.name, why)
                    self._tasks.start_soon(child.kill, why)

    async def _watch_threads(self) -> None:
        """Replace workers, one at a time, that have threads which cannot be stopped."""
        while True:
            await anyio.sleep(_LOOK)
            for slot, child in [(slot, slot.child) for slot in self._crew.slots if slot.child is not None]:
                why = why_replace(child.signs, self._limits, time.monotonic())
                if why is None or child.killed_for or child.asked_to_stop or self._crew.stopping:
                    continue
                log.error("%s: %s; replacing it", child.name, why)
                if not await self._replacing.replace(slot, child):
                    await anyio.sleep(self._limits.hung_after)

    async def _watch_models(self) -> None:
        watch = Watch()
        while True:
            loaded = model_files(child.report for child in self._crew.living if not child.asked_to_stop)
            changed = watch.changed(loaded, stamps(loaded))
            if changed:
                log.info("changed: %s", ", ".join(changed))
                self.roll()
            await anyio.sleep(_MODELS)

    async def _heed_signals(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        on_terminal = sys.stdin is not None and sys.stdin.isatty()
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for heard in signals:
                if heard == signal.SIGHUP and not on_terminal:
                    log.info("SIGHUP: replacing the workers, one at a time")
                    self.roll()
                elif not self._crew.stopping:
                    log.info(
                        "%s: %d workers finish what is in hand, in %g s at most; again: they give up on it",
                        heard.name,
                        len(self._crew.living),
                        self._limits.drain,
                    )
                    self.stop()
                else:
                    log.warning("%s again: giving up on what is in hand; it goes back", heard.name)
                    for child in list(self._crew.living):
                        child.stop()

    # Stopping and replacing

    async def _stop_all(self) -> None:
        await self._stop.wait()
        leaving = list(self._crew.living)
        for child in leaving:
            if not child.asked_to_stop:  # one that was being replaced has been told; twice means to give up
                child.stop()
        async with anyio.create_task_group() as tasks:
            for child in leaving:
                tasks.start_soon(self._replacing.await_end, child)

    async def _roll_when_wanted(self) -> None:
        while True:
            await self._roll_wanted.wait()
            self._roll_wanted = anyio.Event()
            for slot in self._crew.slots:
                if self._crew.stopping:
                    return
                if not await self._replacing.replace(slot):
                    log.error("the other workers go on as they are")
                    break
            else:
                self._crew.rolls += 1
                log.info("all workers have been replaced")


def _left_in_order(child: Child) -> bool:
    """Whether one that was asked to stop finished what it had; one that was not ready had nothing."""
    return child.status == 0 or (child.status == -signal.SIGTERM and not child.ready.is_set())
