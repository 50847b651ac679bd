"""`eventml dlq`: list and show dead letters, replay them, or drop them."""

# No `from __future__ import annotations` here: typer reads the annotations at run time.
import shlex
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from os import environ
from typing import Annotated, Any, Final, TypeVar

import anyio
import msgspec
import typer

from eventml import config
from eventml.bus import Bus
from eventml.cli.buses import BackendOption, BusArgument, load_bus, open_shared, time_option, with_options
from eventml.cli.output import JsonOption, UsageError, print_json, print_message, print_table, print_text
from eventml.deploy.console import (
    dead_letter_parts,
    delivery_to_json,
    format_time,
    one_line,
    read_dead_letters,
    replay_or_drop_all,
)
from eventml.printable import cut, printable, valid_unicode
from eventml.runtime import (
    MISPLACED,
    DeadLetterAction,
    DeadLetterDelivery,
    DeadLetterFilter,
    DeadLetterQueue,
    ReplayReport,
    dead_letter_queues,
)
from eventml.times import seconds_at

T = TypeVar("T")

app = typer.Typer(help="List dead letters, replay them or drop them.", no_args_is_help=True)

_COLUMNS: Final = ("handler", "exception", "attempts", "failed", "from", "reason", "id")
_CAUSE: Final = ("handler", "exception", "count", "last failed", "last reason")
_UNREADABLE: Final = "records are no dead letters; `eventml dlq drop --all` removes them"


class Selection(msgspec.Struct, frozen=True):
    """The dead letters that the options of a command select; `everything` if no option restricts them."""

    bus: Bus
    queues: list[DeadLetterQueue]
    matching: DeadLetterFilter
    limit: int | None
    everything: bool
    options: list[str]  # those that a command for some of them repeats


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
        Any,
        time_option(
            "Select those that failed last at this time or later: an age such as 90s, 15m, 2h or 3d, or a "
            "time in UTC such as 2024-06-01T12:30."
        ),
    ] = None,
    until: Annotated[Any, time_option("Select those that failed last before this time.")] = None,
    number: Annotated[
        int | None, typer.Option("-n", metavar="N", min=1, help="Select at most N dead letters.")
    ] = None,
    backend: BackendOption = None,
) -> Selection:
    """Return the selection that the options describe; every command of this module takes them.

    Raises AppNotFoundError: the bus has no such handler.
    """
    matching = DeadLetterFilter(
        ids=frozenset(event or ()),
        exceptions=frozenset(exception or ()),
        since=None if since is None else seconds_at(since),
        until=None if until is None else seconds_at(until),
    )
    app = load_bus(bus, backend)
    config.check_known(handler or (), app.handlers)
    queues = dead_letter_queues(map(app.configured_handler, handler or app.handlers))
    everything = not (handler or number or matching != DeadLetterFilter())
    times = [None if at is None else format_time(at) for at in (matching.since, matching.until)]
    given = [*(("--id", one) for one in event or ()), *zip(("--since", "--until"), times, strict=True)]
    variables = {"--config": config.FILE_VARIABLE, "--profile": config.PROFILE_VARIABLE}
    given += [(name, environ.get(variable)) for name, variable in variables.items()]
    given += [("--backend", backend and config.redact(backend))]
    options = [text for option in given if option[1] for text in option if text]
    return Selection(app, queues, matching, number, everything, [bus, *options])


@app.command("list")
@with_options(select)
def list_dead_letters(selection: Selection, as_json: JsonOption = False) -> None:
    """Count dead letters by handler and exception.

    It prints the commands that replay them. With -n or --id each is listed. The command changes nothing.
    """
    singly = bool(selection.limit or selection.matching.ids)
    causes, found = dict[tuple[str, str], dict[str, Any]](), list[Any]()  # no records, which may be large

    async def visit(queue: DeadLetterQueue, one: DeadLetterDelivery) -> None:
        _count(causes.setdefault((queue.name, one.exception), {}), selection, queue, one)
        if (singly or as_json) and len(found) != selection.limit:
            found.append(_to_json(queue, one) if as_json else _row(queue, one))

    _browse(msgspec.structs.replace(selection, limit=None), visit)  # those beyond the limit are counted
    if as_json:
        print_json({"dead_letters": found, "causes": [*causes.values()]})
    elif found:
        print_table(_COLUMNS, found, ["from", "attempts", "reason", "failed"])
        print_text(f"{len(found)} of {sum(cause['count'] for cause in causes.values())} dead letters")
    elif causes:
        largest = sorted(causes.values(), key=lambda cause: -cause["count"])
        print_table(_CAUSE, [[*map(str, cause.values())][:-1] for cause in largest], _CAUSE[-1:2:-1])
        print_text("\n".join(["", *(printable(cause["replay"]) for cause in largest)]))
    else:
        print_text("no dead letters")


@app.command("show")
@with_options(select)
def show(selection: Selection, as_json: JsonOption = False) -> None:
    """Show dead letters in full.

    That is the event, why it failed, and where it came from. The command changes nothing.
    """
    found = list[Any]()

    async def visit(queue: DeadLetterQueue, one: DeadLetterDelivery) -> None:
        found.append(_to_json(queue, one, in_full=True) if as_json else None)
        if not as_json:  # in a thread, as a pager may keep it waiting
            await anyio.to_thread.run_sync(print_text, "\n".join(_lines(queue, one)))

    _browse(selection, visit)
    if as_json:
        print_json({"dead_letters": found})
    elif not found:
        print_text("no dead letters")


@app.command("replay")
@with_options(select)
def replay(selection: Selection, as_json: JsonOption = False) -> None:
    """Send events back to the handler that failed them, and to no other.

    Each event goes to the topic that it came from, unchanged, and is handled when that handler runs. It is
    no longer a dead letter, unless it fails again. `list` with the same options shows which ones these are.
    A dead letter that names another topic or group than the handler's is not replayed.
    """
    _replay_or_drop(selection, "replay", as_json=as_json)


@app.command("drop")
@with_options(select)
def drop(
    selection: Selection,
    everything: Annotated[bool, typer.Option("--all", help="Drop all dead letters of the bus.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Drop dead letters.

    They are no longer listed, and cannot be replayed. Their records stay on the dead-letter topic for as
    long as its retention keeps them. `list` with the same options shows which ones these are.
    """
    if selection.everything and not everything:
        raise UsageError("this would drop every dead letter of the bus: select some, or confirm with --all")
    _replay_or_drop(selection, "drop", as_json=as_json)


async def _call(selection: Selection, function: Callable[..., Awaitable[T]], argument: Any) -> T:
    """Call a function with a backend, the dead letters that a selection names, and an argument."""
    async with open_shared(selection.bus) as bus:
        return await function(bus.backend, selection.queues, selection.matching, argument, selection.limit)


def _browse(
    selection: Selection, visit: Callable[[DeadLetterQueue, DeadLetterDelivery], Awaitable[None]]
) -> None:
    """Visit each selected dead letter; warn of records that are none, and of misplaced ones."""
    warnings = Counter[tuple[str, str]]()

    async def check(queue: DeadLetterQueue, one: DeadLetterDelivery | None) -> None:
        if one is None:
            warnings[queue.name, _UNREADABLE] += 1
            return
        warnings[queue.name, f"misplaced, not to be replayed: {MISPLACED}"] += not queue.owns(one)
        await visit(queue, one)

    anyio.run(_call, selection, read_dead_letters, check)
    for (handler, text), count in (+warnings).items():
        print_message(f"{handler}: {count} {text}", "warning")


def _replay_or_drop(selection: Selection, action: DeadLetterAction, *, as_json: bool) -> None:
    results = anyio.run(_call, selection, replay_or_drop_all, action)
    if as_json:
        counts = [
            {"handler": queue.name, "topic": queue.topic, "action": action, **msgspec.to_builtins(report)}
            for queue, report in results
        ]
        print_json(counts)
    else:
        for queue, report in results:
            _print_report(queue, report, action)
        if not results:
            print_text("no dead letters")
    if any(report.refused for _, report in results):
        raise typer.Exit(1)


def _print_report(queue: DeadLetterQueue, report: ReplayReport, action: DeadLetterAction) -> None:
    handler, done = queue.name, "replayed" if action == "replay" else "dropped"
    topic = f" to {queue.topic}" if action == "replay" else ""
    exceptions = f" ({_format_counts(report.chosen)})" if report.chosen else ""
    remaining = "" if report.left is None else f"; {report.left} remain"
    print_text(f"{handler}: {report.chosen.total()} {done}{topic}{exceptions}{remaining}")
    if report.duplicates:
        print_text(f"{handler}: {report.duplicates} duplicate dead letters, left by a crash, dropped")
    if report.unreadable:
        print_message(f"{handler}: {report.unreadable} {_UNREADABLE}", "warning")
    for reason, count in report.refused.items():
        print_message(f"{handler}: {count} could not be {done}, and remain: {reason}", "error")


def _count(cause: dict[str, Any], chosen: Selection, queue: DeadLetterQueue, one: DeadLetterDelivery) -> None:
    """Count a dead letter in its cause: those of a handler with an exception, which a command replays."""
    failed, (bus, *options) = format_time(one.last_failure) or "-", chosen.options
    command = ["dlq", "replay", bus, "--handler", queue.handlers[0], "--exception", one.exception, *options]
    cause |= {"handler": queue.name, "exception": one.exception, "count": cause.get("count", 0) + 1}
    if failed >= cause.get("last_failed", "-"):
        cause |= {"last_failed": failed, "last_reason": _reason(queue, one)}
    cause["replay"] = f"eventml {shlex.join(command)}"


def _format_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {one_line(cut(name))}" for name, count in counts.most_common())


def _to_json(
    queue: DeadLetterQueue, dead_letter: DeadLetterDelivery, *, in_full: bool = False
) -> dict[str, Any]:
    """Return the fields of a dead letter for the JSON output; times are seconds since the epoch."""
    fields: dict[str, Any] = {"handler": queue.name, "id": valid_unicode(dead_letter.id)}
    fields |= {**msgspec.structs.asdict(dead_letter), "misplaced": not queue.owns(dead_letter)}
    delivery = fields.pop("delivery")
    return fields | {"record": msgspec.Raw(delivery_to_json(delivery).rstrip())} if in_full else fields


def _row(queue: DeadLetterQueue, dead_letter: DeadLetterDelivery) -> list[str]:
    failed, reason = format_time(dead_letter.last_failure) or "-", _reason(queue, dead_letter)
    what, attempts = cut(dead_letter.exception), str(dead_letter.attempts)
    return [queue.name, what, attempts, failed, cut(dead_letter.origin, 300), reason, dead_letter.id]


def _reason(queue: DeadLetterQueue, dead_letter: DeadLetterDelivery) -> str:
    reason = dead_letter.message.removeprefix(f"{dead_letter.exception}: ")
    return one_line(cut(reason if queue.owns(dead_letter) else f"(misplaced) {reason}", 80))


def _lines(queue: DeadLetterQueue, dead_letter: DeadLetterDelivery) -> Iterator[str]:
    """Yield the lines of a dead letter as `show` prints it."""
    yield f"{queue.name}: {one_line(dead_letter.id)}"
    for label, text in dead_letter_parts(queue, dead_letter).items():
        for number, line in enumerate(text.splitlines()):
            yield f"  {'' if number else label:9} {line}"
    yield ""
