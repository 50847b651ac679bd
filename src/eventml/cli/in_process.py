"""One worker in the command's own process: what `run` and `serve` have in common."""

from __future__ import annotations

import logging
import signal
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import anyio
import typer

from eventml.cli.logs import start_logging
from eventml.deploy.workers import HostPort, force_exit_later, serve_operations, start_service_logging

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from threading import Timer

    from anyio.abc import TaskStatus

    from eventml.bus import Bus
    from eventml.deploy.workers import RunningWorker, ServicePlan

log = logging.getLogger("eventml")


def run_in_process(
    work: Callable[[Bus, ServicePlan], Awaitable[bool]],
    bus: Bus,
    plan: ServicePlan,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Work to the end, and leave.

    Args:
        work: Returns whether all that was in hand at the end was finished.
        bus: What it works on.
        plan: How.
        options: The event loop's.

    Raises:
        typer.Exit: something was left unfinished.
    """
    if plan.json_logs:
        start_service_logging("worker", json=True)
    start_logging()

    async def to_the_end() -> tuple[bool, Timer]:
        # What is left after the work is the event loop's own end, on a last call.
        finished = await work(bus, plan)
        return finished, force_exit_later(0 if finished else 1)

    finished, guard = anyio.run(to_the_end, backend_options=dict(options or {}))
    guard.cancel()
    if not finished:
        raise typer.Exit(1)


def operations_port(
    bus: Bus, worker: RunningWorker, plan: ServicePlan
) -> AbstractAsyncContextManager[object]:
    """The port, where one was asked for."""
    if not isinstance(plan.operations, HostPort):
        return nullcontext()
    return serve_operations(bus.name, worker, plan.operations, max_lag=plan.max_lag, limits=plan.limits)


async def stop_on_signals(
    worker: RunningWorker,
    drain: float,
    what: str,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Stop at the first SIGTERM or SIGINT, and give up on what is in hand, by that name, at the second."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for heard in signals:
            log.info(
                "%s: finishing %d %s, in %g s at most; a second signal gives up on them",
                heard.name,
                worker.in_flight,
                what,
                drain,
            )
            worker.stop()
            break
        async for heard in signals:
            log.warning("%s again: giving up on %d %s", heard.name, worker.in_flight, what)
            worker.abandon()
