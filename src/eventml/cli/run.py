"""`eventml run`: run the handlers of a bus, in this process or in several workers."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import anyio
import typer
from msgspec import structs

from eventml.bus import Bus, stop_when_idle
from eventml.cli.buses import NO_HANDLERS, backend_url, load_bus, seconds, with_options
from eventml.cli.output import UsageError
from eventml.cli.reload import OPTION, run_reloading
from eventml.cli.workers import run_in_process, service_plan
from eventml.deploy.console import open_console
from eventml.deploy.workers import ServicePlan, run_service
from eventml.runtime import Worker, task_group

log = logging.getLogger("eventml")


@with_options(service_plan)
def run(
    plan: ServicePlan,
    *,
    until_idle: Annotated[
        float | None,
        seconds(0, "Stop once no event has arrived or been left to handle for this long."),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Run N worker processes under a supervisor, each with every handler; or a number for each "
            "handler, as in duration=3,tip=1.",
        ),
    ] = None,
    max_lag: Annotated[
        int | None,
        typer.Option(metavar="EVENTS", min=0, help="Report not ready while the lag of a group is higher."),
    ] = None,
    reload: Annotated[
        bool,
        typer.Option(OPTION, help="For development: start anew when a file of the app or its model changes."),
    ] = False,
) -> None:
    """Run the handlers of a bus.

    SIGTERM or SIGINT stops it: it receives no more events, and completes those in flight. A second signal
    abandons those in flight; they go back to their consumer groups.
    """
    bus = load_bus(plan.bus, plan.backend)
    if not bus.handlers:
        raise UsageError(NO_HANDLERS)
    if reload:
        raise typer.Exit(run_reloading(bus))
    plan = structs.replace(plan, workers=workers or "1", until_idle=until_idle, max_lag=max_lag)
    if workers is not None:
        raise typer.Exit(anyio.run(run_service, bus, plan, open_console(bus)))
    run_in_process(_open_worker, bus, plan, in_flight="events")


@asynccontextmanager
async def _open_worker(bus: Bus, plan: ServicePlan) -> AsyncIterator[Worker]:
    async with bus.open(), bus.worker(plan.only) as worker, task_group() as tasks:
        tasks.start_soon(_log_handlers, bus, worker)
        if plan.until_idle is not None:
            tasks.start_soon(stop_when_idle, worker, plan.until_idle)
        try:
            yield worker
        finally:
            tasks.cancel_scope.cancel()
            _log_counts(worker)


async def _log_handlers(bus: Bus, worker: Worker) -> None:
    await worker.ready.wait()
    for loaded in worker.handlers:
        handler, model = loaded.handler, loaded.model
        log.info(
            "%s: %s%s, group %s%s",
            handler.name,
            handler.topic,
            f" -> {', '.join(handler.outputs)}" if handler.outputs else "",
            handler.options.group,
            f", model {model.name} {model.version}" if model else "",
        )
    log.info("running %s on %s", ", ".join(worker.stats), backend_url(bus))
    if not bus.backend.capabilities.shared:
        log.info("%s lives in this process: only this process can publish to it", backend_url(bus))


def _log_counts(worker: Worker) -> None:
    for name, stats in worker.stats.items():
        log.info(
            "%s: %d received, %d published, %d dead letters, %d retries, %d still in flight",
            name,
            stats.received,
            stats.published,
            stats.dead_letters,
            stats.retries,
            stats.in_flight,
        )
