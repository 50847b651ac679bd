"""Restarts of workers: after a crash, and one at a time without a gap (a rolling restart).

A crash counts towards the crash-loop limit if the worker had completed nothing since its start: it cannot
start, or the first event that it receives kills it. It does not count if the worker was ready, had received
nothing, and was killed from outside; a worker may be idle for seconds while its group rebalances.

A worker that had completed something is restarted, however often that happens: a poison event is found by
redelivery (`max_deliveries`), which takes as many crashes, and must not stop the service.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
import msgspec

from eventml.deploy.workers.pool import PooledWorker, WorkerPool
from eventml.deploy.workers.worker_handle import WorkerHandle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

log = logging.getLogger("eventml")


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often and how soon a worker is restarted after a crash.

    Attributes:
        max_crashes: This many counted crashes of one worker within `window` stop the service.
        window: Seconds for which a crash is remembered.
        first_delay: Seconds before the first restart. It doubles with each counted crash in the window.
        max_delay: Longest delay in seconds.
    """

    max_crashes: int = 5
    window: float = 60.0
    first_delay: float = 0.25
    max_delay: float = 10.0


class Crash(msgspec.Struct, frozen=True):
    """Unexpected end of a worker process.

    Attributes:
        time: Time of the end, of a monotonic clock, in seconds.
        counts: Whether it counts towards the crash-loop limit; see `crash_counts`.
    """

    time: float
    counts: bool


def crash_counts(*, completed: bool, idle: bool, killed_from_outside: bool) -> bool:
    """Return whether a crash counts towards the crash-loop limit.

    Args:
        completed: Whether the worker had completed anything since its start.
        idle: Whether it was ready and had received nothing.
        killed_from_outside: Whether it got a SIGKILL that its supervisor did not send.
    """
    return not completed and not (idle and killed_from_outside)


def recent_crashes(crashes: Sequence[Crash], policy: RestartPolicy, now: float) -> list[Crash]:
    """Return the crashes within the policy's window."""
    return [crash for crash in crashes if now - crash.time < policy.window]


def is_crash_loop(crashes: Sequence[Crash], policy: RestartPolicy, now: float) -> bool:
    """Return whether the crash-loop limit has been reached, so that another restart is useless."""
    return sum(crash.counts for crash in recent_crashes(crashes, policy, now)) >= policy.max_crashes


def restart_delay(crashes: Sequence[Crash], policy: RestartPolicy, now: float) -> float:
    """Return how long to wait before the restart, in seconds."""
    counted = sum(crash.counts for crash in recent_crashes(crashes, policy, now))
    return min(policy.first_delay * 2.0 ** min(max(counted - 1, 0), 64), policy.max_delay)


class RollingRestart:
    """Replaces workers, one at a time: a new process is ready before the old one drains.

    Args:
        pool: The workers.
        start: Starts a process for a worker.
        drain: Seconds that a process may take to end after it has been asked to stop.
    """

    def __init__(
        self, pool: WorkerPool, start: Callable[[PooledWorker], Awaitable[WorkerHandle]], drain: float
    ) -> None:
        self._pool = pool
        self._start = start
        self._drain = drain
        self._requested = anyio.Event()
        self._one_at_a_time = anyio.Lock()

    def request(self) -> None:
        """Replace all workers. During a rolling restart: start another one after it."""
        self._requested.set()

    async def run(self) -> None:
        """Carry out requests until cancelled, or until the service stops.

        If a new process does not start, the remaining workers keep the processes that they have.
        """
        while True:
            await self._requested.wait()
            self._requested = anyio.Event()
            for worker in self._pool.workers:
                if self._pool.stopping:
                    return
                if not await self.replace(worker):
                    log.error("rolling restart given up: the other workers keep their processes")
                    break
            else:
                self._pool.rolling_restarts += 1
                log.info("all workers have been replaced")

    async def replace(self, worker: PooledWorker, process: WorkerHandle | None = None) -> bool:
        """Replace the process of one worker. Returns False if the new process did not start.

        Args:
            worker: The worker.
            process: Replace only this process; do nothing if the worker has another one by now.
        """
        async with self._one_at_a_time:
            if process is not None and worker.process is not process:
                return True
            return await self._replace(worker)

    async def _replace(self, worker: PooledWorker) -> bool:
        old = worker.process
        if old is None or old.ended.is_set():
            return True  # it is about to be restarted anyway
        new = await self._start(worker)
        worker.successor = new
        await _wait_for_either(new.ready, new.ended)
        if new.ended.is_set():
            if worker.successor is new:
                worker.successor = None
            if self._pool.stopping:
                return True
            log.error("%s: its new process did not start: %s", new.name, new.end_reason())
            return False
        if worker.successor is new:
            worker.promote()
        if self._pool.stopping:
            return True
        log.info("%s: process %d replaces process %d", new.name, new.pid, old.pid)
        await old.stop_within(self._drain)
        return True


async def _wait_for_either(one: anyio.Event, other: anyio.Event) -> None:
    async with anyio.create_task_group() as tasks:

        async def wait(event: anyio.Event) -> None:
            await event.wait()
            tasks.cancel_scope.cancel()

        tasks.start_soon(wait, one)
        tasks.start_soon(wait, other)
