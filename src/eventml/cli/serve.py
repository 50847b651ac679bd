"""`eventml serve`: serve the predictors of a bus over HTTP."""

import logging
from typing import TYPE_CHECKING, Annotated

import typer

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
        str | None, typer.Option("--host", metavar="HOST", help="Listen on this host; default 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", metavar="PORT", min=0, max=65_535, help="Listen on this port; default 8000, 0 for any."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", min=1, help="Run N worker processes under a supervisor."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="PREDICTOR",
            help="Serve only this predictor. Repeat it for more, or divide names by commas.",
        ),
    ] = None,
    backend: BackendOption = None,
    without_token: Annotated[
        bool,
        typer.Option(
            "--without-token",
            help="If EVENTML_TOKEN is not set, answer requests from everywhere, not from this machine only.",
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

    SIGTERM or SIGINT stops it: it accepts no more connections, and finishes the requests in flight. A second
    signal abandons those in flight.
    """
    # Only this command needs the extra `web`.
    from eventml.deploy.web import Authenticator, loop_options  # noqa: PLC0415

    app = import_bus(bus)
    options = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    configure(app, backend, {"web": options} if options else {})
    Authenticator.from_environment(without_token=without_token).check_host(app.settings.web.host)
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
    else:
        run_in_process(_run_worker, app, plan, loop_options())


async def _run_worker(bus: Bus, plan: Plan) -> bool:
    from eventml.deploy.web import (  # noqa: PLC0415 - the extra `web`, as above
        Authenticator,
        WebService,
        address_of,
        listen,
        web_worker,
    )

    authenticator = Authenticator.from_environment(without_token=plan.everybody)
    application = WebService(bus, authenticator, only=plan.only, limits=plan.limits)
    with listen(bus.settings.web.host, bus.settings.web.port) as listener:
        async with (
            web_worker(application, listener) as worker,
            operations_port(bus, worker, plan),
            task_group() as tasks,
        ):
            await tasks.start(stop_on_signals, worker, bus.settings.drain, "requests in flight")
            tasks.start_soon(_log_addresses, worker, address_of(listener))
            finished = await worker.run()
            tasks.cancel_scope.cancel()
    return finished


async def _log_addresses(worker: "WebWorker", address: Address) -> None:
    await worker.ready.wait()
    for loaded in worker.jobs:
        model = f", model {loaded.model.name} {loaded.model.version}" if loaded.model else ""
        log.info("http://%s/predict/%s%s", address, loaded.handler.name, model)
    log.info("serving on http://%s; see http://%s/docs", address, address)
