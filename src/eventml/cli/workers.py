"""What `run` and `serve` share: options of workers, and running them in this process or in several."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import anyio
import typer

from eventml.bus import stop_on_signals
from eventml.cli.output import start_logging
from eventml.deploy.workers import (
    HealthLimits,
    HostPort,
    ServicePlan,
    force_exit_later,
    parse_host_port,
    run_service,
    serve_operations,
    start_service_logging,
)
from eventml.runtime import task_group

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from threading import Timer

    from eventml.bus import Bus
    from eventml.deploy.workers import RunningWorker

log = logging.getLogger("eventml")

LogFormat = Literal["text", "json"]

DEFAULT_LIMITS: Final = HealthLimits()
"""Defaults of the four options that limit the health of a worker."""

WorkersOption = Annotated[
    str | None,
    typer.Option(
        "--workers",
        metavar="N",
        help="Run N worker processes under a supervisor, each with every handler; or a number for each "
        "handler, as in duration=3,tip=1.",
    ),
]
OperationsOption = Annotated[
    str | None,
    typer.Option(
        "--operations",
        metavar="[HOST:]PORT",
        help="Serve /livez, /readyz and /metrics on this address, of the loopback interface if it has no "
        "host. With --workers the default is port 9464 if it is free. `off` disables it.",
    ),
]
MaxLagOption = Annotated[
    int | None,
    typer.Option(
        "--max-lag", metavar="EVENTS", min=0, help="Report not ready while the lag of a group is higher."
    ),
]
LogFormatOption = Annotated[
    LogFormat, typer.Option("--log-format", help="Write log lines as text or as JSON objects.")
]
BootGraceOption = Annotated[
    float,
    typer.Option(
        "--boot-grace",
        metavar="SECONDS",
        min=0.1,
        help="With --workers: restart a worker that takes longer than this to load its models.",
    ),
]
StuckAfterOption = Annotated[
    float,
    typer.Option(
        "--stuck-after",
        metavar="SECONDS",
        min=1,
        help="Restart a worker that has events in flight and completes none for this long.",
    ),
]
HungAfterOption = Annotated[
    float,
    typer.Option(
        "--hung-after",
        metavar="SECONDS",
        min=1,
        help="Replace a worker with a thread that still runs this long after its handler's timeout.",
    ),
]
SilentAfterOption = Annotated[
    float,
    typer.Option(
        "--silent-after",
        metavar="SECONDS",
        min=2,
        help="Restart a worker whose event loop has been blocked for this long.",
    ),
]


def operations_address(option: str | None) -> HostPort | str | None:
    """Return the address that `--operations` names: "" for `off`, None if the option is not used.

    Raises:
        ConfigError: it is not an address.
    """
    return "" if option == "off" else None if option is None else parse_host_port(option)


def split_names(option: Sequence[str] | None) -> list[str]:
    """Return the names in an option that may be repeated, and may hold several names divided by commas."""
    return [name for names in option or () for name in names.split(",")]


def run_workers(
    bus: Bus, plan: ServicePlan, run: Callable[[Bus, ServicePlan], Awaitable[int]] = run_service
) -> None:
    """Run worker processes under a supervisor, which is this process, until they are stopped.

    Args:
        bus: The bus, configured.
        plan: How the service is run.
        run: Runs the service and returns the exit status.

    Raises:
        typer.Exit: a worker failed too often, or events were left unfinished.
    """
    if status := anyio.run(run, bus, plan):
        raise typer.Exit(status)


def run_in_process(
    run: Callable[[Bus, ServicePlan], Awaitable[bool]],
    bus: Bus,
    plan: ServicePlan,
    loop_options: Mapping[str, Any] | None = None,
) -> None:
    """Run one worker in this process, until it is stopped.

    Args:
        run: Runs the worker and returns whether all that was in flight at the end was completed.
        bus: The bus, configured.
        plan: How the worker is run.
        loop_options: Backend options of `anyio.run`.

    Raises:
        typer.Exit: something was left unfinished.
    """
    if plan.json_logs:
        start_service_logging("worker", json=True)
    start_logging()

    async def run_then_exit() -> tuple[bool, Timer]:
        # Closing the event loop waits for its threads, and a handler that hangs holds one: leave without it.
        finished = await run(bus, plan)
        return finished, force_exit_later(0 if finished else 1)

    finished, forced_exit = anyio.run(run_then_exit, backend_options=dict(loop_options or {}))
    forced_exit.cancel()
    if not finished:
        raise typer.Exit(1)


async def run_until_stopped(
    bus: Bus,
    worker: RunningWorker,
    plan: ServicePlan,
    *,
    in_flight: str,
    tasks: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
) -> bool:
    """Run a worker until a signal stops it, and serve the operations port if the plan has one.

    Args:
        bus: The configured bus of the worker.
        worker: The worker.
        plan: How the worker is run.
        in_flight: What the worker completes when it is stopped, for the log: "events", "requests".
        tasks: Functions to run beside the worker; they are cancelled when it ends.

    Returns:
        Whether all that was in flight at the end was completed.
    """
    async with _operations_port(bus, worker, plan), task_group() as running:
        running.start_soon(stop_on_signals, _LoggedStop(worker, in_flight, bus.settings.drain))
        for task in tasks:
            running.start_soon(task)
        finished = await worker.run()
        running.cancel_scope.cancel()
    return finished


def _operations_port(
    bus: Bus, worker: RunningWorker, plan: ServicePlan
) -> AbstractAsyncContextManager[object]:
    if not isinstance(plan.operations, HostPort):
        return nullcontext()
    return serve_operations(bus.name, worker, plan.operations, max_lag=plan.max_lag, limits=plan.limits)


class _LoggedStop:
    """Stops or abandons a worker, and logs how much is in flight."""

    def __init__(self, worker: RunningWorker, in_flight: str, drain: float) -> None:
        self._worker = worker
        self._in_flight = in_flight
        self._drain = drain

    def stop(self) -> None:
        log.info(
            "stopping: %d %s in flight have %g s to finish; a second signal abandons them",
            self._worker.in_flight,
            self._in_flight,
            self._drain,
        )
        self._worker.stop()

    def abandon(self) -> None:
        log.warning("second signal: abandoning %d %s in flight", self._worker.in_flight, self._in_flight)
        self._worker.abandon()
