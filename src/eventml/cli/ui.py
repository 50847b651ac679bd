"""`eventml ui`: the console of a bus whose service runs elsewhere."""

# No `from __future__ import annotations` here: typer reads the annotations at run time.
import logging
from typing import Annotated

import anyio
import typer

from eventml.bus import Bus, stop_on_signals
from eventml.cli.buses import BackendOption, BusArgument, load_bus
from eventml.cli.output import start_logging
from eventml.deploy.console import open_console, remote_status
from eventml.deploy.workers import HostPort, parse_host_port, serve_status
from eventml.runtime import task_group

log = logging.getLogger("eventml")


def ui(
    bus: BusArgument,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[HOST:]PORT", help="Address of an operations port of the service. Repeat it for more."
        ),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(
            metavar="[HOST:]PORT", help="Serve the console on this address; by default of loopback."
        ),
    ] = "9465",
    backend: BackendOption = None,
) -> None:
    """Serve the console of a bus that runs elsewhere.

    It reads the numbers from the operations ports of the service, and dead letters and records from the
    broker. SIGTERM or SIGINT stops it.
    """
    start_logging()
    ports = [parse_host_port(one) for one in at or [str(HostPort())]]
    anyio.run(_serve, load_bus(bus, backend), ports, parse_host_port(listen))


async def _serve(bus: Bus, ports: list[HostPort], address: HostPort) -> None:
    status = remote_status(bus.name, ports)
    with serve_status(status, address, open_pages=open_console(bus)):
        async with task_group() as tasks:
            tasks.start_soon(stop_on_signals, tasks.cancel_scope.cancel, tasks.cancel_scope.cancel)
            await anyio.sleep_forever()
