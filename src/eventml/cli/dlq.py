"""`eventml dlq`: look at the events that handlers have set aside, replay them, or drop them."""

import time
from collections import Counter
from typing import Annotated, TypeAlias

import anyio
import msgspec
import typer

from eventml.bus import Bus
from eventml.cli.buses import app_bus
from eventml.cli.letters import COLUMNS, Summary, as_text, row, summary, whole
from eventml.cli.moments import moment
from eventml.cli.options import BackendOption, BusArgument, JsonOption
from eventml.cli.reporting import Refusal, reporting
from eventml.cli.tables import show_table
from eventml.runtime.letters import Box, Letter, Wanted, boxes
from eventml.runtime.replaying import Tally, look

app = typer.Typer(help="The events that handlers have set aside: dead letters.", no_args_is_help=True)

HandlerOption: TypeAlias = Annotated[
    list[str] | None, typer.Option("--handler", metavar="NAME", help="Of this handler. Repeat it for more.")
]
ExceptionOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--exception", metavar="CLASS", help="Failed with it, such as KeyError. Repeat it for more."),
]
IdOption: TypeAlias = Annotated[
    list[str] | None, typer.Option("--id", metavar="ID", help="Of the event with this id. Repeat it for more.")
]
SinceOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="Failed last since then: 90s, 15m, 2h, 3d, or 2024-06-01T12:30."),
]
UntilOption: TypeAlias = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Failed last before then.")
]
NumberOption: TypeAlias = Annotated[
    int | None, typer.Option("-n", metavar="N", min=1, help="At most so many.")
]
DryRunOption: TypeAlias = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


class Listing(msgspec.Struct):
    """What `list` and `show` say to a machine; counts are by handler and exception."""

    letters: list[Summary]
    counts: dict[str, Counter[str]]


class Outcome(msgspec.Struct):
    """What has become of one handler's letters."""

    handler: str
    topic: str
    fate: str
    dry_run: bool
    tally: Tally


class Search(msgspec.Struct, frozen=True):
    """Which letters a command is about."""

    bus: Bus
    boxes: list[Box]
    wanted: Wanted
    limit: int | None


@app.command("list")
@reporting()
def list_letters(
    bus: BusArgument,
    handler: HandlerOption = None,
    exception: ExceptionOption = None,
    id: IdOption = None,  # noqa: A002 - the option's name
    since: SinceOption = None,
    until: UntilOption = None,
    number: NumberOption = None,
    backend: BackendOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the dead letters that were neither replayed nor dropped, and count them.

    Nothing is changed by looking.
    """
    search = _search(bus, backend, handler, exception, id, since, until, number)
    found = anyio.run(_collect, search)
    counts = _counts(found)
    if as_json:
        typer.echo(msgspec.json.encode(Listing([summary(name, letter) for name, letter in found], counts)))
        return
    if found:
        show_table(COLUMNS, [row(name, letter) for name, letter in found])
    _say_counts(counts)


@app.command("show")
@reporting()
def show(
    bus: BusArgument,
    handler: HandlerOption = None,
    exception: ExceptionOption = None,
    id: IdOption = None,  # noqa: A002 - the option's name
    since: SinceOption = None,
    until: UntilOption = None,
    number: NumberOption = None,
    backend: BackendOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show dead letters whole: the event, why it was set aside, where it came from.

    Nothing is changed by looking.
    """
    search = _search(bus, backend, handler, exception, id, since, until, number)
    found = anyio.run(_collect, search)
    if as_json:
        letters: list[Summary] = [whole(name, letter) for name, letter in found]
        typer.echo(msgspec.json.encode(Listing(letters, _counts(found))))
        return
    for name, letter in found:
        typer.echo(as_text(name, letter))
    _say_counts(_counts(found))


@app.command("replay")
@reporting()
def replay(
    bus: BusArgument,
    handler: HandlerOption = None,
    exception: ExceptionOption = None,
    id: IdOption = None,  # noqa: A002 - the option's name
    since: SinceOption = None,
    until: UntilOption = None,
    number: NumberOption = None,
    dry_run: DryRunOption = False,
    backend: BackendOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give events back to the handler that set them aside, and to no other.

    They go to the topic they came from, as they were, and are handled once that handler runs. What is
    replayed is a dead letter no more; if it fails again, it becomes one again.
    """
    search = _search(bus, backend, handler, exception, id, since, until, number)
    _settle(search, "replay", dry_run=dry_run, as_json=as_json)


@app.command("drop")
@reporting()
def drop(
    bus: BusArgument,
    handler: HandlerOption = None,
    exception: ExceptionOption = None,
    id: IdOption = None,  # noqa: A002 - the option's name
    since: SinceOption = None,
    until: UntilOption = None,
    number: NumberOption = None,
    everything: Annotated[bool, typer.Option("--all", help="All there are.")] = False,
    dry_run: DryRunOption = False,
    backend: BackendOption = None,
    as_json: JsonOption = False,
) -> None:
    """Be done with dead letters: they are neither listed nor replayed any more.

    Their records stay on the dead-letter topic for as long as its retention keeps them.
    """
    search = _search(bus, backend, handler, exception, id, since, until, number)
    if search.wanted == Wanted() and not (handler or number or everything or dry_run):
        raise Refusal("this would drop every dead letter: choose some by an option, or say --all")
    _settle(search, "drop", dry_run=dry_run, as_json=as_json)


def _search(
    place: str,
    backend: str | None,
    handlers: list[str] | None,
    exceptions: list[str] | None,
    ids: list[str] | None,
    since: str | None,
    until: str | None,
    limit: int | None,
) -> Search:
    now = time.time()
    wanted = Wanted(
        ids=frozenset(ids or ()),
        exceptions=frozenset(exceptions or ()),
        since=None if since is None else moment(since, now),
        until=None if until is None else moment(until, now),
    )
    bus = app_bus(place, backend)
    if unknown := sorted(set(handlers or ()) - set(bus.handlers)):
        raise Refusal(f"no handler is named {unknown[0]!r}; there are: {', '.join(bus.handlers)}")
    chosen = boxes(map(bus.configured, handlers or bus.handlers))
    return Search(bus, chosen, wanted, limit)


async def _collect(search: Search) -> list[tuple[str, Letter]]:
    found: list[tuple[str, Letter]] = []
    async for box, subscription in _opened(search):
        async for letter in look(subscription, search.wanted):
            if search.limit is not None and len(found) >= search.limit:
                break
            found.append((_name(box), letter))
    return found
