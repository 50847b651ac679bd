"""Which dead letters a command is about: the options that choose them, and the way to them."""

# No `from __future__ import annotations` here: typer reads the annotations at run time.
import inspect
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Annotated, Any

import msgspec
import typer

from eventml.backends.base import Backend, Subscription
from eventml.bus import Bus
from eventml.cli.buses import app_bus, require_shared
from eventml.cli.moments import moment
from eventml.cli.options import BackendOption, BusArgument
from eventml.cli.reporting import Refusal
from eventml.errors import TopicNotFoundError
from eventml.runtime import DeadLetterFilter, DeadLetterQueue, dead_letter_queues

Visit = Callable[[DeadLetterQueue, Backend, Subscription], Awaitable[None]]


class Search(msgspec.Struct, frozen=True):
    """What a command is about.

    Attributes:
        bus: Configured.
        boxes: Where to look.
        wanted: Which letters there.
        limit: How many at most; None is all.
        chosen: Whether any option has made a choice.
    """

    bus: Bus
    boxes: list[DeadLetterQueue]
    wanted: DeadLetterFilter
    limit: int | None
    chosen: bool


def search(
    bus: BusArgument,
    handler: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Of this handler. Repeat it for more.")
    ] = None,
    exception: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS", help="Failed with it, such as KeyError. Repeat it for more."),
    ] = None,
    event: Annotated[
        list[str] | None, typer.Option("--id", metavar="ID", help="Of this event. Repeat it for more.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Failed last since then: 90s, 15m, 2h or 3d ago, or 2024-06-01T12:30 (UTC)."
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Failed last before then.")] = None,
    number: Annotated[int | None, typer.Option("-n", metavar="N", min=1, help="So many at most.")] = None,
    backend: BackendOption = None,
) -> Search:
    """What the options say.

    Raises:
        Refusal: there is no such handler.
        typer.BadParameter: a time is none.
    """
    now = time.time()
    wanted = DeadLetterFilter(
        ids=frozenset(event or ()),
        exceptions=frozenset(exception or ()),
        since=None if since is None else moment(since, now),
        until=None if until is None else moment(until, now),
    )
    the_bus = app_bus(bus, backend)
    if unknown := [name for name in handler or () if name not in the_bus.handlers]:
        raise Refusal(f"no handler is named {unknown[0]!r}; there are: {', '.join(the_bus.handlers)}")
    where = dead_letter_queues(map(the_bus.configured, handler or the_bus.handlers))
    return Search(the_bus, where, wanted, number, bool(handler or number or wanted != DeadLetterFilter()))


def searching(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `search`; its first parameter takes the outcome."""
    own = list(inspect.signature(command).parameters.values())[1:]
    shared = list(inspect.signature(search).parameters.values())

    @wraps(command)
    def run(**given: Any) -> None:
        found = search(**{parameter.name: given.pop(parameter.name) for parameter in shared})
        command(found, **given)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*shared, *own)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # what typer reads
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


async def visit_boxes(found: Search, visit: Visit) -> None:
    """Connect, and go to each box that may hold letters as a member of its readers, one after the other."""
    async with found.bus.open():
        require_shared(found.bus)
        backend = found.bus.backend
        for box in found.boxes:
            try:
                lag = await backend.lag(box.dead_letter_topic, group=box.replay_group)
                if lag is not None and not sum(lag.values()):
                    continue
                async with backend.subscribe(
                    [box.dead_letter_topic], group=box.replay_group, start="earliest"
                ) as subscription:
                    await visit(box, backend, subscription)
            except TopicNotFoundError:
                continue  # no letter was ever written
