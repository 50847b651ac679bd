"""A bus's handlers as a service: many workers under a supervisor, and its operations port."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from eventml import config
from eventml.deploy.workers.liveness import Limits
from eventml.deploy.workers.logs import SUPERVISOR, start_logging
from eventml.deploy.workers.operations import Address, Operations, serving
from eventml.deploy.workers.placement import idle_handlers, places
from eventml.deploy.workers.relay import as_json, prefixed
from eventml.deploy.workers.reports import Orders
from eventml.deploy.workers.restarts import Patience
from eventml.deploy.workers.supervisor import Supervisor
from eventml.errors import ConfigError, UnavailableError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.backends.base import Capabilities
    from eventml.bus import Bus
    from eventml.deploy.workers.placement import Place
    from eventml.deploy.workers.relay import Printer

log = logging.getLogger("eventml")

LEAVING = 5.0
"""Seconds that a worker may take to leave after its own `drain` has run out."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How a service is run.

    Attributes:
        bus: Where its bus is: MODULE:BUS.
        workers: How many, and of what; see `placement.places`.
        only: The handlers that a plain number of workers means.
        backend: The URL that the command line names.
        until_idle: As `eventml run --until-idle`.
        operations: The operations port; None for the default one if it is free, `""` for none.
        max_lag: The most unfinished records that a group may have for the service to be ready.
        json_logs: Log lines are JSON objects.
        limits: How patient the supervisor is with its workers; `drain` follows from the settings.
        patience: How often it starts them again.
        web: The predictors are served over HTTP, and no stream is read.
        everybody: In the web service, without a token, everybody may ask.
    """

    bus: str
    workers: str
    only: Sequence[str] = ()
    backend: str | None = None
    until_idle: float | None = None
    operations: Address | str | None = None
    max_lag: int | None = None
    json_logs: bool = False
    limits: Limits = Limits()
    patience: Patience = Patience()
    web: bool = False
    everybody: bool = False


async def run_service(bus: Bus, plan: Plan) -> int:
    """Run it until it is told to stop. Returns the exit status; see `Supervisor.run`.

    Raises:
        ConfigError: the plan does not fit the bus.
        UnsupportedError: the backend cannot be shared by several processes.
    """
    chosen = places(plan.workers, plan.only, tuple(bus.handlers))
    width = max(len(SUPERVISOR), *(len(place.name) for place in chosen))
    start_logging(SUPERVISOR, json=plan.json_logs, prefix=f"{SUPERVISOR:<{width}} | ")
    with ExitStack() as stack:
        if plan.web:
            chosen = _with_listeners(stack, bus, chosen)
        return await _run(bus, plan, chosen, prefixed(width))


async def _run(bus: Bus, plan: Plan, chosen: Sequence[Place], show: Printer) -> int:
    if not plan.web:
        await _check_backend(bus, chosen)
        for name in idle_handlers(chosen, tuple(bus.handlers)):
            log.info("%s is not run here", name)
    supervisor = Supervisor(
        bus.name,
        chosen,
        Orders(
            supervisor=0,
            name="",
            bus=plan.bus,
            backend=plan.backend,
            until_idle=plan.until_idle,
            json_logs=plan.json_logs,
            everybody=plan.everybody,
        ),
        show=as_json if plan.json_logs else show,
        limits=msgspec.structs.replace(plan.limits, drain=bus.settings.drain + LEAVING),
        patience=plan.patience,
    )
    with ExitStack() as stack:
        address = _serve(stack, Operations(supervisor.status, max_lag=plan.max_lag), plan.operations)
        supervisor.orders = msgspec.structs.replace(supervisor.orders, operations=address and str(address))
        return await supervisor.run()


def _with_listeners(stack: ExitStack, bus: Bus, chosen: Sequence[Place]) -> list[Place]:
    """Give each worker a socket, which stays open when the worker ends: its successor goes on with it."""
    from eventml.deploy.web import (  # noqa: PLC0415 - an extra
        address_of,
        listen_for_workers,
        served_predictors,
    )

    web = bus.settings.web
    served_predictors(bus, chosen[0].only)  # what makes no sense is refused before anything is started
    listeners = [stack.enter_context(one) for one in listen_for_workers(web.host, web.port, len(chosen))]
    log.info("serving on http://%s; see /docs there", address_of(listeners[0]))
    return [
        msgspec.structs.replace(place, listener=one.fileno())
        for place, one in zip(chosen, listeners, strict=True)
    ]


def _serve(stack: ExitStack, operations: Operations, wanted: Address | str | None) -> Address | None:
    """Open the port that was asked for; the default one only if nobody has it."""
    if wanted == "":
        return None
    address = wanted if isinstance(wanted, Address) else Address()
    try:
        address = stack.enter_context(serving(operations, address))
    except ConfigError as exc:
        if wanted is not None:
            raise
        log.warning("%s", exc)
        return None
    log.info("operations port: http://%s/readyz, /livez, /metrics", address)
    return address


async def _check_backend(bus: Bus, chosen: Sequence[Place]) -> None:
    capabilities = await _capabilities(bus)
    if capabilities is not None:
        _check(bus, chosen, capabilities)


async def _capabilities(bus: Bus) -> Capabilities | None:
    """What the backend can do; None while it is out of reach, which a backend in this process never is."""
    try:
        async with bus.open():
            return bus.backend.capabilities
    except UnavailableError as exc:
        log.warning("%s; starting the workers, which wait for it", exc)
        return None


def _check(bus: Bus, chosen: Sequence[Place], capabilities: Capabilities) -> None:
    url = config.redact(bus.settings.backend.url)
    if len(chosen) > 1 and not capabilities.shared:
        raise UnsupportedError(
            f"--workers: {url} lives in one process, so {len(chosen)} workers would have a bus each and see "
            "nothing of each other's events. Name a backend that processes share, with --backend redis://... "
            "or kafka://..., EVENTML_BACKEND or eventml.toml; or leave --workers out"
        )
    runners = {name: sum(not place.only or name in place.only for place in chosen) for name in bus.handlers}
    if capabilities.ordering == "single_member" and max(runners.values(), default=0) > 1:
        log.info(
            "%s keeps the order of a key's events only while one worker handles them; here several do", url
        )
