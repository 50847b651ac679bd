"""The options of `eventml run` that make a service of it: several workers, and an operations port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

import anyio
import typer

from eventml.deploy.workers import HealthLimits, HostPort, ServicePlan, parse_host_port, run_service

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from eventml.bus import Bus

LogFormat = Literal["text", "json"]

PATIENT: Final = HealthLimits()
"""The defaults."""

WorkersOption = Annotated[
    str | None,
    typer.Option(
        "--workers",
        metavar="N",
        help="Run so many worker processes, watched over; or so many for each handler: duration=3,tip=1.",
    ),
]
OperationsOption = Annotated[
    str | None,
    typer.Option(
        "--operations",
        metavar="[HOST:]PORT",
        help="Serve /livez, /readyz and /metrics there, on loopback by default; with --workers on port 9464 "
        "unless it is taken. `off` for nowhere.",
    ),
]
MaxLagOption = Annotated[
    int | None,
    typer.Option("--max-lag", metavar="EVENTS", min=0, help="Not ready while a group is further behind."),
]
LogFormatOption = Annotated[LogFormat, typer.Option("--log-format", help="Log lines for people or machines.")]
BootGraceOption = Annotated[
    float,
    typer.Option(
        "--boot-grace",
        metavar="SECONDS",
        min=0.1,
        help="With --workers: how long a worker may take to load its models and be ready.",
    ),
]
StuckAfterOption = Annotated[
    float,
    typer.Option(
        "--stuck-after",
        metavar="SECONDS",
        min=1,
        help="How long events may be in hand without any progress: a worker is started anew then.",
    ),
]
HungAfterOption = Annotated[
    float,
    typer.Option(
        "--hung-after",
        metavar="SECONDS",
        min=1,
        help="How long a thread may run on past its handler's timeout: its worker is replaced then.",
    ),
]
SilentAfterOption = Annotated[
    float,
    typer.Option(
        "--silent-after",
        metavar="SECONDS",
        min=2,
        help="How long a worker's event loop may be blocked: it is started anew then.",
    ),
]


def operations_address(said: str | None) -> HostPort | None:
    """Where the operations port was asked for; None where it was not, or is to be nowhere.

    Raises:
        ConfigError: it is no address.
    """
    return None if said in (None, "off") else parse_host_port(str(said))


def run_workers(
    bus: Bus,
    plan: ServicePlan,
    run: Callable[[Bus, ServicePlan], Awaitable[int]] = run_service,
) -> None:
    """Run the service to its end.

    Args:
        bus: Its bus.
        plan: How it is run.
        run: Runs it and returns the exit status.

    Raises:
        typer.Exit: a worker could not be kept running, or something was left unfinished.
    """
    status = anyio.run(run, bus, plan)
    if status:
        raise typer.Exit(status)
