"""`eventml serve`: serve the predictors of a bus over HTTP."""

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
from eventml.deploy.workers import HealthLimits, HostPort, ServicePlan

if TYPE_CHECKING:
    from eventml.deploy.web import WebWorker

log = logging.getLogger("eventml")


@handle_errors()
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
    boot_grace: BootGraceOption = DEFAULT_LIMITS.boot_grace,
    stuck_after: StuckAfterOption = DEFAULT_LIMITS.stuck_after,
    hung_after: HungAfterOption = DEFAULT_LIMITS.hung_after,
    silent_after: SilentAfterOption = DEFAULT_LIMITS.silent_after,
) -> None:
    """Serve the predictors of a bus over HTTP.

    SIGTERM or SIGINT stops it: it accepts no more connections, and finishes the requests in flight. A second
    signal abandons those in flight.
    """
    # Only this command needs the extra `web`.
    from eventml.deploy.web import Authenticator, loop_options, run_web_service  # noqa: PLC0415

    app = find_bus(bus)
    options = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    configure(app, backend, {"web": options} if options else {})
    Authenticator.from_environment(without_token=without_token).check_host(app.settings.web.host)
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
    if workers is not None:
        run_workers(app, plan, run_web_service)
    else:
        run_in_process(_run_worker, app, plan, loop_options())


async def _run_worker(bus: Bus, plan: ServicePlan) -> bool:
    from eventml.deploy.web import (  # noqa: PLC0415 - the extra `web`, as above
        Authenticator,
        WebService,
        address_of,
        listen,
        web_worker,
    )

    authenticator = Authenticator.from_environment(without_token=plan.without_token)
    application = WebService(bus, authenticator, only=plan.only, limits=plan.limits)
    with listen(bus.settings.web.host, bus.settings.web.port) as listener:
        async with web_worker(application, listener) as worker:

            async def log_addresses() -> None:
                await worker.ready.wait()
                _log_addresses(worker, address_of(listener))

            return await run_until_stopped(bus, worker, plan, in_flight="requests", tasks=[log_addresses])


def _log_addresses(worker: "WebWorker", address: HostPort) -> None:
    for loaded in worker.handlers:
        model = f", model {loaded.model.name} {loaded.model.version}" if loaded.model else ""
        log.info("http://%s/predict/%s%s", address, loaded.handler.name, model)
    log.info("serving on http://%s; see http://%s/docs", address, address)
