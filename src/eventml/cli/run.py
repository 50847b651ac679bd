"""`eventml run`: run the handlers of a bus, in this process or in several workers."""

import logging
from typing import Annotated

import typer

from eventml.bus import Bus, stop_when_idle
from eventml.cli.buses import BackendOption, BusArgument, backend_url, load_bus
from eventml.cli.output import UsageError, handle_errors
from eventml.cli.workers import (
    DEFAULT_LIMITS,
    BootGraceOption,
    HungAfterOption,
    LogFormatOption,
    MaxLagOption,
    OperationsOption,
    SilentAfterOption,
    StuckAfterOption,
    WorkersOption,
    operations_address,
    run_in_process,
    run_until_stopped,
    run_workers,
    split_names,
)
from eventml.deploy.workers import HealthLimits, ServicePlan
from eventml.runtime import Worker

log = logging.getLogger("eventml")


@handle_errors()
def run(  # noqa: PLR0913 - a command's options
    bus: BusArgument,
    *,
    backend: BackendOption = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="HANDLER",
            help="Run only this handler. Repeat it for more, or divide names by commas.",
        ),
    ] = None,
    until_idle: Annotated[
        float | None,
        typer.Option(
            "--until-idle",
            metavar="SECONDS",
            min=0,
            help="Stop once no event has arrived or been left to handle for this long.",
        ),
    ] = None,
    workers: WorkersOption = None,
    operations: OperationsOption = None,
    max_lag: MaxLagOption = None,
    log_format: LogFormatOption = "text",
    boot_grace: BootGraceOption = DEFAULT_LIMITS.boot_grace,
    stuck_after: StuckAfterOption = DEFAULT_LIMITS.stuck_after,
    hung_after: HungAfterOption = DEFAULT_LIMITS.hung_after,
    silent_after: SilentAfterOption = DEFAULT_LIMITS.silent_after,
) -> None:
    """Run the handlers of a bus.

    SIGTERM or SIGINT stops it: it receives no more events, and completes those in flight. A second signal
    abandons those in flight; they go back to their consumer groups.
    """
    app = load_bus(bus, backend)
    if not app.handlers:
        raise UsageError(
            f"{bus}: the bus has no handlers; import the modules that define them in {bus.partition(':')[0]}"
        )
    plan = ServicePlan(
        bus=bus,
        workers=workers or "1",
        only=split_names(only),
        backend=backend,
        until_idle=until_idle,
        operations=operations_address(operations),
        max_lag=max_lag,
        json_logs=log_format == "json",
        limits=HealthLimits(
            boot_grace=boot_grace, stuck_after=stuck_after, silent_after=silent_after, hung_after=hung_after
        ),
    )
    if workers is not None:
        run_workers(app, plan)
    else:
        run_in_process(_run_worker, app, plan)


async def _run_worker(bus: Bus, plan: ServicePlan) -> bool:
    async with bus.open(), bus.worker(plan.only) as worker:

        async def announce() -> None:
            await worker.ready.wait()
            _log_handlers(bus, worker)

        async def stop_idle_worker() -> None:
            if plan.until_idle is not None:
                await stop_when_idle(worker, plan.until_idle)
                log.info("idle for %g s: stopping", plan.until_idle)

        try:
            return await run_until_stopped(
                bus, worker, plan, in_flight="events", tasks=[announce, stop_idle_worker]
            )
        finally:
            _log_counts(worker)


def _log_handlers(bus: Bus, worker: Worker) -> None:
    for loaded in worker.handlers:
        handler, model = loaded.handler, loaded.model
        log.info(
            "%s: %s%s, group %s%s",
            handler.name,
            handler.topic,
            f" -> {handler.to}" if handler.to else "",
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
