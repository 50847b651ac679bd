"""Which dead letters a command is about: the options that select them, and the topics that hold them."""

# No `from __future__ import annotations` here: typer reads the annotations at run time.
import inspect
import re
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Annotated, Any, Final

import msgspec
import typer

from eventml.backends.base import Subscription
from eventml.bus import Bus
from eventml.cli.buses import BackendOption, BusArgument, load_bus, require_shared
from eventml.cli.output import UsageError
from eventml.errors import TopicNotFoundError
from eventml.runtime import DeadLetterFilter, DeadLetterQueue, dead_letter_queues

_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


Visit = Callable[[DeadLetterQueue, Subscription, int | None], Awaitable[int]]


class Selection(msgspec.Struct, frozen=True):
    """The dead letters that the options of a command select.

    Attributes:
        bus: The bus, configured.
        queues: Dead-letter queues to look in.
        matching: Conditions that a dead letter must meet.
        limit: The highest number of dead letters; None for all.
        everything: Whether no option restricts the selection.
    """

    bus: Bus
    queues: list[DeadLetterQueue]
    matching: DeadLetterFilter
    limit: int | None
    everything: bool


def select(
    bus: BusArgument,
    handler: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Select dead letters of this handler. Repeat it for more."),
    ] = None,
    exception: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS", help="Select by exception, such as KeyError. Repeat it for more."),
    ] = None,
    event: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="ID", help="Select by the id of the event. Repeat it for more."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Select those that failed last at this time or later: an age such as 90s, 15m, 2h or 3d, "
            "or a time in UTC such as 2024-06-01T12:30.",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Select those that failed last before this time.")
    ] = None,
    number: Annotated[
        int | None, typer.Option("-n", metavar="N", min=1, help="Select at most N dead letters.")
    ] = None,
    backend: BackendOption = None,
) -> Selection:
    """Return the selection that the options describe.

    Raises:
        UsageError: the bus has no such handler.
        typer.BadParameter: a time is not valid.
    """
    now = time.time()
    matching = DeadLetterFilter(
        ids=frozenset(event or ()),
        exceptions=frozenset(exception or ()),
        since=None if since is None else parse_time(since, now),
        until=None if until is None else parse_time(until, now),
    )
    app = load_bus(bus, backend)
    if unknown := [name for name in handler or () if name not in app.handlers]:
        raise UsageError(f"no handler is named {unknown[0]!r}; the handlers are: {', '.join(app.handlers)}")
    queues = dead_letter_queues(map(app.configured_handler, handler or app.handlers))
    everything = not (handler or number or matching != DeadLetterFilter())
    return Selection(app, queues, matching, number, everything)


def selecting(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `select` to a command, whose first parameter takes the selection."""
    own = list(inspect.signature(command).parameters.values())[1:]
    shared = list(inspect.signature(select).parameters.values())

    @wraps(command)
    def run(**arguments: Any) -> None:
        selection = select(**{parameter.name: arguments.pop(parameter.name) for parameter in shared})
        command(selection, **arguments)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*shared, *own)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # what typer reads
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


async def visit_queues(selection: Selection, visit: Visit) -> None:
    """Open the bus, and visit each dead-letter queue that may hold dead letters, one after the other.

    Args:
        selection: Queues to visit, and the number of dead letters to stop at.
        visit: Called with the queue, a subscription to its topic and the number of dead letters to take at
            most. Returns how many it took.

    Raises:
        UsageError: the backend lives in another process.
    """
    limit, bus = selection.limit, selection.bus
    async with bus.open():
        require_shared(bus)
        for queue in selection.queues:
            if limit == 0:
                return
            try:
                lag = await bus.backend.lag(queue.dead_letter_topic, group=queue.replay_group)
                if lag is not None and not sum(lag.values()):
                    continue
                async with bus.backend.subscribe(
                    [queue.dead_letter_topic], group=queue.replay_group, start="earliest"
                ) as subscription:
                    taken = await visit(queue, subscription, limit)
            except TopicNotFoundError:
                continue  # no dead letter was ever written
            limit = None if limit is None else limit - taken


def parse_time(text: str, now: float) -> float:
    """Return seconds since the epoch for an age (`90s`, `15m`, `2h`, `3d`) or a time in ISO 8601.

    A time without an offset is UTC.

    Args:
        text: Age or time.
        now: The current time in seconds since the epoch, from which an age counts back.

    Raises:
        typer.BadParameter: the text is neither.
    """
    if age := _AGE.fullmatch(text):
        return now - float(age[1]) * _UNITS[age[2]]
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as exc:
        raise typer.BadParameter(
            f"{text!r} is neither an age, such as 90s, 15m, 2h or 3d, nor a time, such as 2024-06-01T12:30"
        ) from exc
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
