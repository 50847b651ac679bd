"""`eventml serve`: serve the predictors of a bus over HTTP."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import anyio
import typer
from msgspec import structs

from eventml.bus import Bus
from eventml.cli.buses import load_bus, with_options
from eventml.cli.workers import run_in_process, service_plan
from eventml.deploy.console import open_console
from eventml.deploy.workers import HostPort, ServicePlan
from eventml.runtime import task_group

if TYPE_CHECKING:
    from eventml.deploy.web import WebWorker

log = logging.getLogger("eventml")


@with_options(service_plan)
def serve(
    plan: ServicePlan,
    *,
    host: Annotated[
        str | None, typer.Option(metavar="HOST", help="Listen on this host; default 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(metavar="PORT", min=0, max=65_535, help="Listen on this port; default 8000, 0 for any."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Run N worker processes under a supervisor.")
    ] = None,
    without_token: Annotated[
        bool,
        typer.Option(
            "--without-token",
            help="If EVENTML_TOKEN is not set, answer requests from everywhere, not from this machine only.",
        ),
    ] = False,
) -> None:
    """Serve the predictors of a bus over HTTP.

    SIGTERM or SIGINT stops it: it accepts no more connections, and finishes the requests in flight. A second
    signal abandons those in flight.
    """
    from eventml.deploy import web  # noqa: PLC0415 - only this command needs the extra

    options = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    bus = load_bus(plan.bus, plan.backend, {"web": options})
    web.Authenticator.from_environment(without_token=without_token).check_host(bus.settings.web.host)
    plan = structs.replace(plan, workers=str(workers or 1), without_token=without_token)
    address = str(HostPort(bus.settings.web.host, bus.settings.web.port))
    if workers is not None:
        raise typer.Exit(anyio.run(web.run_web_service, bus, plan, open_console(bus, web=address)))
    run_in_process(
        _open_worker, bus, plan, in_flight="requests", loop_options=web.loop_options(), web=address
    )


@asynccontextmanager
async def _open_worker(bus: Bus, plan: ServicePlan) -> AsyncIterator["WebWorker"]:
    from eventml.deploy import web  # noqa: PLC0415 - the extra, as above

    authenticator = web.Authenticator.from_environment(without_token=plan.without_token)
    application = web.WebService(bus, authenticator, only=plan.only, limits=plan.limits)
    with web.listen(bus.settings.web.host, bus.settings.web.port) as listener:
        async with web.web_worker(application, listener) as worker, task_group() as tasks:
            tasks.start_soon(_log_addresses, worker, web.address_of(listener))
            yield worker
            tasks.cancel_scope.cancel()


async def _log_addresses(worker: "WebWorker", address: HostPort) -> None:
    await worker.ready.wait()
    for loaded in worker.handlers:
        model = f", model {loaded.model.name} {loaded.model.version}" if loaded.model else ""
        log.info("http://%s/predict/%s%s", address, loaded.handler.name, model)
    log.info("serving on http://%s; see http://%s/docs", address, address)
