"""Options of workers, for `run` and `serve`, and running workers in this process or in several."""

# No `from __future__ import annotations` here: typer reads the annotations at run time.
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from threading import Timer
from typing import Annotated, Any, Final, Literal, NamedTuple

import anyio
import typer
from anyio.from_thread import BlockingPortal

from eventml.bus import Bus, run_until_signal
from eventml.cli.buses import BackendOption, BusArgument, seconds
from eventml.cli.output import start_logging
from eventml.deploy.console import open_console
from eventml.deploy.workers import (
    HealthLimits,
    HostPort,
    RunningWorker,
    ServicePlan,
    force_exit_later,
    parse_host_port,
    serve_operations,
    watch_health,
)

log = logging.getLogger("eventml")

_LIMITS: Final = HealthLimits()


def service_plan(  # noqa: PLR0913 - options of a command
    bus: BusArgument,
    *,
    backend: BackendOption = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HANDLER", help="Run only this handler. Repeat it for more, or divide names by commas."
        ),
    ] = None,
    operations: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:]PORT",
            help="Serve /livez, /readyz and /metrics on this address, of the loopback interface if it has no "
            "host. With --workers the default is port 9464 if it is free. `off` disables it.",
        ),
    ] = None,
    log_format: Annotated[
        Literal["text", "json"], typer.Option(help="Write log lines as text or as JSON objects.")
    ] = "text",
    boot_grace: Annotated[
        float,
        seconds(0.1, "With --workers: restart a worker that takes longer than this to load its models."),
    ] = _LIMITS.boot_grace,
    stuck_after: Annotated[
        float, seconds(1, "Restart a worker that has events in flight and completes none for this long.")
    ] = _LIMITS.stuck_after,
    hung_after: Annotated[
        float,
        seconds(1, "Replace a worker with a thread that still runs this long after its handler's timeout."),
    ] = _LIMITS.hung_after,
    silent_after: Annotated[
        float, seconds(2, "Restart a worker whose event loop has been blocked for this long.")
    ] = _LIMITS.silent_after,
) -> ServicePlan:
    """Return the plan that the options of both commands describe, for one worker.

    Raises:
        ConfigError: `--operations` is not an address.
    """
    return ServicePlan(
        bus=bus,
        workers="1",
        only=[name for names in only or () for name in names.split(",")],
        backend=backend,
        operations="" if operations == "off" else None if operations is None else parse_host_port(operations),
        json_logs=log_format == "json",
        limits=HealthLimits(
            boot_grace=boot_grace, stuck_after=stuck_after, silent_after=silent_after, hung_after=hung_after
        ),
    )


def run_in_process(
    open_worker: Callable[[Bus, ServicePlan], AbstractAsyncContextManager[RunningWorker]],
    bus: Bus,
    plan: ServicePlan,
    *,
    in_flight: str,
    loop_options: Mapping[str, Any] | None = None,
    web: str | None = None,
) -> None:
    """Run one worker in this process until a signal stops it, with the operations port if the plan has one.

    `in_flight` names what the worker completes when it is stopped, for the log: "events", "requests".
    `loop_options` are backend options of `anyio.run`, `web` the address of the web service if it is one. The
    exit status is 1 if something was left unfinished.
    """
    start_logging(json=plan.json_logs)

    @asynccontextmanager
    async def opened() -> AsyncIterator[_LoggedStop]:
        async with open_worker(bus, plan) as worker, _operations(bus, worker, plan, web):
            yield _LoggedStop(worker, in_flight, bus.settings.drain)

    async def run() -> tuple[bool, Timer]:
        finished = await run_until_signal(opened(), _LoggedStop.stop, _LoggedStop.abandon)
        # Closing the event loop waits for its threads, and a handler that hangs holds one: leave without it.
        return finished, force_exit_later(0 if finished else 1)

    finished, forced_exit = anyio.run(run, backend_options=dict(loop_options or {}))
    forced_exit.cancel()
    raise typer.Exit(0 if finished else 1)


@asynccontextmanager
async def _operations(
    bus: Bus, worker: RunningWorker, plan: ServicePlan, web: str | None
) -> AsyncIterator[None]:
    if not isinstance(plan.operations, HostPort):
        async with watch_health(bus.name, worker, plan.limits):  # for the log of outages
            yield
        return
    async with BlockingPortal() as portal:
        pages = open_console(bus, portal if web is None else None, web)
        async with serve_operations(
            *(bus.name, worker, plan.operations), max_lag=plan.max_lag, limits=plan.limits, open_pages=pages
        ):
            yield
            await portal.stop(cancel_remaining=True)  # what pages still read


class _LoggedStop(NamedTuple):
    """Runs a worker, stops or abandons it, and logs how much is in flight."""

    worker: RunningWorker
    in_flight: str
    drain: float

    async def run(self) -> bool:
        return await self.worker.run()

    def stop(self) -> None:
        log.info(
            "stopping: %d %s in flight have %g s to finish; a second signal abandons them",
            self.worker.in_flight,
            self.in_flight,
            self.drain,
        )
        self.worker.stop()

    def abandon(self) -> None:
        log.warning("second signal: abandoning %d %s in flight", self.worker.in_flight, self.in_flight)
        self.worker.abandon()
