"""`eventml run`: a bus's handlers at work in this process."""

import logging
from typing import Annotated

import anyio
import typer

from eventml.bus import Bus
from eventml.cli.buses import app_bus, url_of
from eventml.cli.in_process import operations_port, run_in_process, stop_on_signals
from eventml.cli.options import BackendOption, BusArgument
from eventml.cli.reporting import Refusal, reporting
from eventml.cli.service import (
    PATIENT,
    BootGraceOption,
    HungAfterOption,
    LogFormatOption,
    MaxLagOption,
    OperationsOption,
    SilentAfterOption,
    StuckAfterOption,
    WorkersOption,
    operations_address,
    run_workers,
)
from eventml.deploy.workers import Limits, Plan
from eventml.errors import UnavailableError
from eventml.runtime import Worker, task_group

log = logging.getLogger("eventml")


@reporting()
def run(  # noqa: PLR0913 - a command's options
    bus: BusArgument,
    *,
    backend: BackendOption = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="HANDLER", help="Run this handler only. Repeat it, or part names by commas."
        ),
    ] = None,
    until_idle: Annotated[
        float | None,
        typer.Option(
            "--until-idle",
            metavar="SECONDS",
            min=0,
            help="Stop once nothing has arrived and nothing is left to do for so many seconds.",
        ),
    ] = None,
    workers: WorkersOption = None,
    operations: OperationsOption = None,
    max_lag: MaxLagOption = None,
    log_format: LogFormatOption = "text",
    boot_grace: BootGraceOption = PATIENT.boot_grace,
    stuck_after: StuckAfterOption = PATIENT.stuck_after,
    hung_after: HungAfterOption = PATIENT.hung_after,
    silent_after: SilentAfterOption = PATIENT.silent_after,
) -> None:
    """Run the handlers of a bus.

    It runs until SIGTERM or SIGINT, and finishes what is in hand then. A second signal gives up on
    what is in hand; it goes back to its groups.
    """
    app = app_bus(bus, backend)
    if not app.handlers:
        raise Refusal(f"{bus}: no handler is registered with it; import the modules that do so in this one")
    plan = Plan(
        bus=bus,
        workers=workers or "1",
        only=[name for names in only or () for name in names.split(",")],
        backend=backend,
        until_idle=until_idle,
        operations="" if operations == "off" else operations_address(operations),
        max_lag=max_lag,
        json_logs=log_format == "json",
        limits=Limits(
            boot_grace=boot_grace, stuck_after=stuck_after, silent_after=silent_after, hung_after=hung_after
        ),
    )
    if workers is not None:
        run_workers(app, plan)
        return
    run_in_process(_work, app, plan)


async def _work(bus: Bus, plan: Plan) -> bool:
    async with (
        bus.open(),
        bus.worker(plan.only) as worker,
        operations_port(bus, worker, plan),
        task_group() as tasks,
    ):
        await tasks.start(stop_on_signals, worker, bus.settings.drain, "events in hand")
        tasks.start_soon(_announce, bus, worker)
        if plan.until_idle is not None:
            tasks.start_soon(_stop_when_idle, worker, plan.until_idle)
        try:
            finished = await worker.run()
        finally:
            _show_counts(worker)
        tasks.cancel_scope.cancel()
    return finished


async def _announce(bus: Bus, worker: Worker) -> None:
    await worker.ready.wait()
    for job in worker.handlers:
        handler = job.handler
        reads = f"{handler.topic} -> {handler.to}" if handler.to else handler.topic
        model = f", model {job.model.name} {job.model.version}" if job.model else ""
        log.info("%s: %s, group %s%s", handler.name, reads, handler.options.group, model)
    log.info("running %s on %s", ", ".join(worker.stats), url_of(bus))
    if not bus.backend.capabilities.shared:
        log.info("%s lives in this process: only this process can publish to it", url_of(bus))


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


def _show_counts(worker: Worker) -> None:
    for name, stats in worker.stats.items():
        log.info(
            "%s: %d received, %d published, %d dead letters, %d retries, %d left in hand",
            name,
            stats.received,
            stats.published,
            stats.dead_letters,
            stats.retries,
            stats.in_flight,
        )
