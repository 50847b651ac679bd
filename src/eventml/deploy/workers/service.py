"""A bus run as a service: many worker processes under a supervisor, with an operations port."""

from __future__ import annotations

import logging
import socket
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final

from eventml import config
from eventml.bus import Bus
from eventml.deploy.workers.http_server import HostPort
from eventml.deploy.workers.logs import prefix_printer, print_json, start_service_logging
from eventml.deploy.workers.operations import OpenPages, serve_status
from eventml.deploy.workers.reports import WorkerOptions, WorkerSpec
from eventml.deploy.workers.restarts import HealthLimits
from eventml.deploy.workers.supervisor import Supervisor
from eventml.errors import ConfigError, UnavailableError, UnsupportedError

log = logging.getLogger("eventml")

_SUPERVISOR: Final = "supervisor"  # its name in the log
_EXIT_TIME: Final = 5.0  # seconds that a worker may take to exit after its own `drain` has run out


class ServicePlan(WorkerOptions, frozen=True, kw_only=True):
    """How a service is run: the options of its workers, and those of their supervisor.

    Attributes:
        workers: Number of workers, or a number for each handler; see `assign_handlers`.
        only: Handlers to run where `workers` is a plain number; empty for all.
        operations: Address of the operations port. None is the default address if it is free; "" is none.
        max_lag: Highest lag of a group with which the service is ready; None for no limit.
        listeners: Listening sockets, one for each worker, which inherits it: workers that serve HTTP. A
            socket outlives the processes of its worker, so that no connection is lost in a restart.
    """

    workers: str
    only: Sequence[str] = ()
    operations: HostPort | str | None = None
    max_lag: int | None = None
    limits: HealthLimits = HealthLimits()
    listeners: Sequence[socket.socket] = ()


async def run_service(bus: Bus, plan: ServicePlan, open_pages: OpenPages | None = None) -> int:
    """Run a service until it is stopped. Returns the exit status; see `Supervisor.run`.

    `open_pages` opens the pages of its operations port, if it has any.

    Raises:
        ConfigError: the plan does not fit the bus.
        UnsupportedError: several processes cannot share the backend.
    """
    assigned = assign_handlers(plan.workers, plan.only, tuple(bus.handlers))
    width = max(len(_SUPERVISOR), *map(len, assigned))
    start_service_logging(_SUPERVISOR, json=plan.json_logs, prefix=f"{_SUPERVISOR:<{width}} | ")
    if plan.factory is None:
        await _check_backend(bus, assigned)
        for name in bus.handlers:
            if not runners(assigned, name):
                log.info("handler %s is not run by this service", name)
    if plan.listeners:
        log.info("serving on http://%s", HostPort(*plan.listeners[0].getsockname()[:2]))
    options = {field: getattr(plan, field) for field in WorkerOptions.__struct_fields__}
    listeners: list[Any] = [one.fileno() for one in plan.listeners] or [None] * len(assigned)
    supervisor = Supervisor(
        bus.name,
        [
            WorkerSpec(name=name, handlers=handlers, listener=listener, **options)
            for (name, handlers), listener in zip(assigned.items(), listeners, strict=True)
        ],
        drain=bus.settings.drain + _EXIT_TIME,
        print_line=print_json if plan.json_logs else prefix_printer(width),
        limits=plan.limits,
    )
    with ExitStack() as stack:
        address = _open_operations_port(stack, supervisor, plan, open_pages)
        return await supervisor.run(None if address is None else str(address))


def assign_handlers(workers: str, only: Sequence[str], known: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the handlers of each worker by its name; no handlers stand for all.

    Args:
        workers: `4` for that many workers, each running every handler; `duration=3,tip=1` for that many
            workers for each of these handlers.
        only: As in `ServicePlan`.
        known: Handlers of the bus.

    Raises:
        ConfigError: `workers` has neither form, or (`AppNotFoundError`) a handler is unknown.
    """
    if "=" not in workers:
        config.check_known(only, known)
        return {f"worker-{n}": tuple(only) for n in range(1, _count(workers, workers) + 1)}
    if only:
        raise ConfigError(f"--workers {workers} names the handlers to run, as --only does; leave --only out")
    counts: dict[str, int] = {}
    for part in workers.split(","):
        handler, _, count = (text.strip() for text in part.partition("="))
        if handler in counts:
            raise ConfigError(f"--workers {workers}: {handler} is named twice")
        counts[handler] = _count(count, workers)
    config.check_known(counts, known)
    return {f"{handler}-{n}": (handler,) for handler, count in counts.items() for n in range(1, count + 1)}


def runners(assigned: Mapping[str, Sequence[str]], handler: str) -> int:
    """Return how many workers run a handler."""
    return sum(not handlers or handler in handlers for handlers in assigned.values())


def _count(text: str, workers: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ConfigError(
            f"--workers {workers}: {text!r} is not a number of workers; write --workers 4, or a number for "
            "each handler: --workers duration=3,tip=1"
        )
    return int(text)


def _open_operations_port(
    stack: ExitStack, supervisor: Supervisor, plan: ServicePlan, open_pages: OpenPages | None
) -> HostPort | None:
    """Open the port: the address that was given, or the default one unless it is in use."""
    if plan.operations == "":
        return None
    address = plan.operations if isinstance(plan.operations, HostPort) else HostPort()
    try:
        return stack.enter_context(serve_status(supervisor.status, address, plan.max_lag, open_pages))
    except ConfigError as exc:
        if plan.operations is not None:
            raise
        log.warning("no operations port: %s", exc)
        return None


async def _check_backend(bus: Bus, assigned: Mapping[str, Sequence[str]]) -> None:
    try:
        async with bus.open():
            capabilities = bus.backend.capabilities
    except UnavailableError:  # a backend within this process is never unavailable
        return  # the workers wait for it
    url = config.redact(bus.settings.backend.url)
    if len(assigned) > 1 and not capabilities.shared:
        raise UnsupportedError(
            f"--workers: {url} exists in one process only, so {len(assigned)} workers would not see each "
            "other's events. Choose a backend that processes can share, with --backend redis://... or "
            "kafka://..., EVENTML_BACKEND or eventml.toml; or leave --workers out"
        )
    several = any(runners(assigned, name) > 1 for name in bus.handlers)
    if several and capabilities.ordering == "single_member":
        log.info("%s keeps the order per key only while one worker runs a handler; here several do", url)
