"""`eventml serve`: a bus's predictors as a web service."""

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from eventml.bus import Bus
from eventml.cli.buses import BackendOption, BusArgument, configure, find_bus
from eventml.cli.output import handle_errors
from eventml.cli.workers import (
    DEFAULT_LIMITS,
    BootGraceOption,
    HungAfterOption,
    LogFormatOption,
    OperationsOption,
    SilentAfterOption,
    StuckAfterOption,
    operations_address,
    run_in_process,
    run_until_stopped,
    run_workers,
    split_names,
)
from eventml.deploy.web import Guard, check_address, token_of_environment
from eventml.deploy.workers import HealthLimits, HostPort, ServicePlan

if TYPE_CHECKING:
    from eventml.deploy.web import WebWorker

log = logging.getLogger("eventml")


@handle_errors()
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
    boot_grace: BootGraceOption = DEFAULT_LIMITS.boot_grace,
    stuck_after: StuckAfterOption = DEFAULT_LIMITS.stuck_after,
    hung_after: HungAfterOption = DEFAULT_LIMITS.hung_after,
    silent_after: SilentAfterOption = DEFAULT_LIMITS.silent_after,
) -> None:
    """Serve the predictors of a bus over HTTP.

    It runs until SIGTERM or SIGINT, and finishes open requests then. A second signal gives up on them.
    """
    app = find_bus(bus)
    said = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    configure(app, backend, {"web": said} if said else {})
    check_address(app.settings.web.host, token_of_environment(), everybody=without_token)
    plan = ServicePlan(
        bus=bus,
        workers=str(workers or 1),
        only=split_names(only),
        backend=backend,
        operations=operations_address(operations),
        json_logs=log_format == "json",
        limits=HealthLimits(
            boot_grace=boot_grace, stuck_after=stuck_after, silent_after=silent_after, hung_after=hung_after
        ),
        without_token=without_token,
    )
    from eventml.deploy.web import loop_options, run_web_service  # noqa: PLC0415 - an extra

    if workers is not None:
        run_workers(app, plan, run_web_service)
        return
    run_in_process(_work, app, plan, loop_options())


async def _work(bus: Bus, plan: ServicePlan) -> bool:
    from eventml.deploy.web import address_of, listen, web_worker  # noqa: PLC0415 - an extra

    web, guard = bus.settings.web, Guard(token_of_environment(), everybody=plan.without_token)
    with listen(web.host, web.port) as listener:
        where = address_of(listener)
        async with web_worker(bus, listener, guard=guard, only=plan.only, limits=plan.limits) as worker:

            async def announce() -> None:
                await worker.ready.wait()
                _log_predictors(worker, where)

            return await run_until_stopped(bus, worker, plan, in_flight="requests", tasks=[announce])


def _log_predictors(worker: "WebWorker", where: HostPort) -> None:
    for job in worker.handlers:
        model = f", model {job.model.name} {job.model.version}" if job.model else ""
        log.info("http://%s/predict/%s%s", where, job.handler.name, model)
    log.info("serving on http://%s; see http://%s/docs", where, where)
