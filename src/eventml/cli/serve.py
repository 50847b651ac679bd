"""`eventml serve`: a bus's predictors as a web service."""

import logging
import signal
from typing import TYPE_CHECKING, Annotated

import anyio
import typer
from anyio.abc import TaskStatus

from eventml.bus import Bus
from eventml.cli.buses import configure, import_bus
from eventml.cli.in_process import operations_port, run_in_process, stop_on_signals
from eventml.cli.options import BackendOption, BusArgument
from eventml.cli.reporting import reporting
from eventml.cli.service import (
    PATIENT,
    BootGraceOption,
    HungAfterOption,
    LogFormatOption,
    OperationsOption,
    SilentAfterOption,
    StuckAfterOption,
    operations_address,
    run_workers,
)
from eventml.deploy.web import Guard, check_address, token_of_environment
from eventml.deploy.workers import Address, Limits, Plan
from eventml.runtime import task_group

if TYPE_CHECKING:
    from eventml.deploy.web import WebWorker

log = logging.getLogger("eventml")


@reporting()
def serve(  # noqa: PLR0913 - a command's options
    bus: BusArgument,
    *,
    host: Annotated[
        str | None, typer.Option("--host", metavar="HOST", help="Listen there; 127.0.0.1 by default.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", metavar="PORT", min=0, max=65_535, help="8000 by default; 0 is any."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", min=1, help="So many worker processes, watched over."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="PREDICTOR", help="Serve this one only. Repeat it, or part names by commas."
        ),
    ] = None,
    backend: BackendOption = None,
    without_token: Annotated[
        bool,
        typer.Option(
            "--without-token", help="Let everybody ask, from anywhere, if EVENTML_TOKEN is not set."
        ),
    ] = False,
    operations: OperationsOption = None,
    log_format: LogFormatOption = "text",
    boot_grace: BootGraceOption = PATIENT.boot_grace,
    stuck_after: StuckAfterOption = PATIENT.stuck_after,
    hung_after: HungAfterOption = PATIENT.hung_after,
    silent_after: SilentAfterOption = PATIENT.silent_after,
) -> None:
    """Serve the predictors of a bus over HTTP.

    It runs until SIGTERM or SIGINT, and finishes open requests then. A second signal gives up on them.
    """
    app = import_bus(bus)
    said = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    configure(app, backend, {"web": said} if said else {})
    check_address(app.settings.web.host, token_of_environment(), everybody=without_token)
    plan = Plan(
        bus=bus,
        workers=str(workers or 1),
        only=[name for names in only or () for name in names.split(",")],
        backend=backend,
        operations="" if operations == "off" else operations_address(operations),
        json_logs=log_format == "json",
        limits=Limits(
            boot_grace=boot_grace, stuck_after=stuck_after, silent_after=silent_after, hung_after=hung_after
        ),
        web=True,
        everybody=without_token,
    )
    if workers is not None:
        run_workers(app, plan)
        return
    from eventml.deploy.web import loop_options  # noqa: PLC0415 - an extra

    run_in_process(_work, app, plan, loop_options())


async def _work(bus: Bus, plan: Plan) -> bool:
    from eventml.deploy.web import address_of, listen, web_worker  # noqa: PLC0415 - an extra

    web, guard = bus.settings.web, Guard(token_of_environment(), everybody=plan.everybody)
    with listen(web.host, web.port) as listener:
        where = address_of(listener)
        async with (
            web_worker(bus, listener, guard=guard, only=plan.only, limits=plan.limits) as worker,
            operations_port(bus, worker, plan),
            task_group() as tasks,
        ):
            await tasks.start(stop_on_signals, worker, bus.settings.drain, "open requests")
            tasks.start_soon(_announce, worker, where)
            finished = await worker.run()
            tasks.cancel_scope.cancel()
    return finished


async def _announce(worker: "WebWorker", where: Address) -> None:
    await worker.ready.wait()
    for job in worker.handlers:
        model = f", model {job.model.name} {job.model.version}" if job.model else ""
        log.info("http://%s/predict/%s%s", where, job.handler.name, model)
    log.info("serving on http://%s; see http://%s/docs", where, where)


async def _stop_on_signals(
    worker: "WebWorker", drain: float, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for heard in signals:
            log.info(
                "%s: finishing %d open requests, in %g s at most; a second signal gives up on them",
                heard.name,
                worker.in_flight,
                drain,
            )
            worker.stop()
            break
        async for heard in signals:
            log.warning("%s again: giving up on %d open requests", heard.name, worker.in_flight)
            worker.abandon()
