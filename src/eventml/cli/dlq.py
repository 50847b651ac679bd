"""`eventml dlq`: list and show dead letters, replay them, or drop them."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any, Final

import anyio
import msgspec
import typer

from eventml.backends.base import Subscription
from eventml.cli.dlq_filter import Selection, selecting, visit_queues
from eventml.cli.output import (
    JsonOption,
    UsageError,
    delivery_to_json,
    escape_unprintable,
    handle_errors,
    print_message,
    print_table,
)
from eventml.runtime import (
    DLQ_PREFIX,
    DeadLetterAction,
    DeadLetterDelivery,
    DeadLetterQueue,
    ReplayReport,
    browse,
    replay_or_drop,
)

app = typer.Typer(help="List dead letters, replay them or drop them.", no_args_is_help=True)

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")]

_COLUMNS: Final = ("handler", "id", "exception", "attempts", "failed (UTC)", "from", "reason")
_REASON_LENGTH: Final = 80  # characters of the reason in a table
_DONE: Final[dict[DeadLetterAction, str]] = {"replay": "replayed", "drop": "dropped"}


class ListedDeadLetter(msgspec.Struct):
    """A dead letter without its record; times are seconds since the epoch."""

    handler: str
    id: str
    exception: str
    message: str
    traceback: str
    attempts: int
    first_failure: float
    last_failure: float
    topic: str
    partition: str
    offset: str


class ShownDeadLetter(ListedDeadLetter):
    """A dead letter with its record, as `eventml tail` prints it."""

    record: msgspec.Raw


class DeadLetterList(msgspec.Struct):
    """JSON output of `list` and `show`: dead letters, and their counts by handler and exception."""

    dead_letters: list[ListedDeadLetter]
    counts: dict[str, Counter[str]]


class QueueResult(msgspec.Struct):
    """JSON output of `replay` and `drop`: what was done with the dead letters of one handler.

    Attributes:
        handler: The handler, or several if they share a consumer group.
        topic: Topic that the events came from.
        action: "replay" or "drop".
        dry_run: Whether it was only tried.
        done: Dead dead_letters replayed or dropped, counted by exception.
        refused: Dead dead_letters that the broker refused to replay, counted by reason; they remain.
        duplicates: Second dead letters of an event, left by a crash, which were dropped.
        remaining: Dead dead_letters that remain; None if the backend cannot count them.
    """

    handler: str
    topic: str
    action: DeadLetterAction
    dry_run: bool
    done: Counter[str]
    refused: Counter[str]
    duplicates: int
    remaining: int | None


@app.command("list")
@handle_errors()
@selecting
def list_dead_letters(selection: Selection, as_json: JsonOption = False) -> None:
    """List dead letters, and count them by handler and exception.

    Those that were replayed or dropped are not listed. The command changes nothing.
    """
    found = anyio.run(_read, selection)
    if as_json:
        _print_json(
            [ListedDeadLetter(**_fields(handler, dead_letter)) for handler, dead_letter in found], found
        )
        return
    if found:
        print_table(_COLUMNS, [_row(handler, dead_letter) for handler, dead_letter in found])
    _print_counts(found)


@app.command("show")
@handle_errors()
@selecting
def show(selection: Selection, as_json: JsonOption = False) -> None:
    """Show dead letters in full.

    That is the event, why it failed, and where it came from. The command changes nothing.
    """
    found = anyio.run(_read, selection)
    if as_json:
        _print_json([_with_record(handler, dead_letter) for handler, dead_letter in found], found)
        return
    for handler, dead_letter in found:
        typer.echo("\n".join(_lines(handler, dead_letter)))
    _print_counts(found)


@app.command("replay")
@handle_errors()
@selecting
def replay(selection: Selection, dry_run: DryRunOption = False, as_json: JsonOption = False) -> None:
    """Send events back to the handler that failed them, and to no other.

    Each event goes to the topic that it came from, unchanged, and is handled when that handler runs. It is
    no longer a dead letter, unless it fails again.
    """
    _replay_or_drop(selection, "replay", dry_run=dry_run, as_json=as_json)


@app.command("drop")
@handle_errors()
@selecting
def drop(
    selection: Selection,
    everything: Annotated[bool, typer.Option("--all", help="Drop all dead letters of the bus.")] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Drop dead letters.

    They are no longer listed, and cannot be replayed. Their records stay on the dead-letter
    topic for as long as its retention keeps them.
    """
    if selection.everything and not everything and not dry_run:
        raise UsageError("this would drop every dead letter of the bus: select some, or confirm with --all")
    _replay_or_drop(selection, "drop", dry_run=dry_run, as_json=as_json)


async def _read(selection: Selection) -> list[tuple[str, DeadLetterDelivery]]:
    """Return the selected dead letters, each with the names of its handlers."""
    found: list[tuple[str, DeadLetterDelivery]] = []

    async def read_queue(queue: DeadLetterQueue, subscription: Subscription, limit: int | None) -> int:
        dead_letters = [
            dead_letter async for dead_letter in browse(subscription, selection.matching, limit=limit)
        ]
        found.extend((", ".join(queue.handlers), dead_letter) for dead_letter in dead_letters)
        return len(dead_letters)

    await visit_queues(selection, read_queue)
    return found


def _replay_or_drop(selection: Selection, action: DeadLetterAction, *, dry_run: bool, as_json: bool) -> None:
    results = anyio.run(partial(_process, selection, action, dry_run=dry_run))
    if as_json:
        typer.echo(msgspec.json.encode(results))
    else:
        for result in results:
            _print_result(result)
        if not results:
            typer.echo("no dead letters")
    if any(result.refused for result in results):
        raise typer.Exit(1)


async def _process(selection: Selection, action: DeadLetterAction, *, dry_run: bool) -> list[QueueResult]:
    results: list[QueueResult] = []

    async def process_queue(queue: DeadLetterQueue, subscription: Subscription, limit: int | None) -> int:
        if dry_run:
            report = ReplayReport(left=await subscription.lag())
            async for dead_letter in browse(subscription, selection.matching, limit=limit):
                report.chosen[dead_letter.exception] += 1
        else:
            acks_singly = selection.bus.backend.capabilities.redelivery == "lease"
            report = await replay_or_drop(
                subscription, selection.matching, action, limit=limit, acks_singly=acks_singly
            )
        results.append(
            QueueResult(
                handler=", ".join(queue.handlers),
                topic=queue.topic,
                action=action,
                dry_run=dry_run,
                done=report.chosen,
                refused=report.refused,
                duplicates=report.duplicates,
                remaining=report.left,
            )
        )
        return report.chosen.total()

    await visit_queues(selection, process_queue)
    return results


def _print_result(result: QueueResult) -> None:
    done = _DONE[result.action]
    would = "would be " if result.dry_run else ""
    topic = f" to {result.topic}" if result.action == "replay" else ""
    exceptions = f" ({_format_counts(result.done)})" if result.done else ""
    remaining = "" if result.remaining is None or result.dry_run else f"; {result.remaining} remain"
    typer.echo(f"{result.handler}: {result.done.total()} {would}{done}{topic}{exceptions}{remaining}")
    if result.duplicates:
        typer.echo(f"{result.handler}: {result.duplicates} duplicate dead letters, left by a crash, dropped")
    for reason, count in result.refused.items():
        print_message(f"{result.handler}: {count} could not be {done}, and remain: {reason}", "error")


def _print_json(dead_letters: list[Any], found: list[tuple[str, DeadLetterDelivery]]) -> None:
    typer.echo(msgspec.json.encode(DeadLetterList(dead_letters, _count(found))))


def _print_counts(found: list[tuple[str, DeadLetterDelivery]]) -> None:
    if not found:
        typer.echo("no dead letters")
    for handler, counts in _count(found).items():
        noun = "dead letter" if counts.total() == 1 else "dead letters"
        typer.echo(f"{handler}: {counts.total()} {noun} ({_format_counts(counts)})")


def _count(found: list[tuple[str, DeadLetterDelivery]]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    for handler, dead_letter in found:
        counts.setdefault(handler, Counter())[dead_letter.exception] += 1
    return counts


def _format_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {_one_line(name)}" for name, count in counts.most_common())


def _fields(handler: str, dead_letter: DeadLetterDelivery) -> dict[str, Any]:
    names = (name for name in ListedDeadLetter.__struct_fields__ if name != "handler")
    return {"handler": handler, **{name: getattr(dead_letter, name) for name in names}}


def _with_record(handler: str, dead_letter: DeadLetterDelivery) -> ShownDeadLetter:
    record = msgspec.Raw(delivery_to_json(dead_letter.delivery).rstrip())
    return ShownDeadLetter(**_fields(handler, dead_letter), record=record)


def _row(handler: str, dead_letter: DeadLetterDelivery) -> list[str]:
    reason = dead_letter.message.removeprefix(f"{dead_letter.exception}: ")
    return [
        handler,
        escape_unprintable(dead_letter.id),
        escape_unprintable(dead_letter.exception),
        str(dead_letter.attempts),
        _format_time(dead_letter.last_failure),
        f"{dead_letter.topic}/{dead_letter.partition}/{dead_letter.offset}",
        _one_line(reason if len(reason) <= _REASON_LENGTH else f"{reason[:_REASON_LENGTH]}…"),
    ]


def _lines(handler: str, dead_letter: DeadLetterDelivery) -> Iterator[str]:
    """Yield the lines of a dead letter as `show` prints it."""
    record = msgspec.json.decode(delivery_to_json(dead_letter.delivery))
    attempts = "attempt" if dead_letter.attempts == 1 else "attempts"
    yield f"{handler}: {escape_unprintable(dead_letter.id)}"
    yield f"  failed    {_format_time(dead_letter.last_failure)} UTC, after {dead_letter.attempts} {attempts}"
    if dead_letter.attempts > 1:
        yield f"            {_format_time(dead_letter.first_failure)} UTC for the first time"
    yield f"  from      {dead_letter.topic}, partition {dead_letter.partition}, offset {dead_letter.offset}"
    if record["key"] is not None:
        yield f"  key       {_format_value(record['key'])}"
    yield f"  reason    {_one_line(dead_letter.message)}"
    for number, line in enumerate(dead_letter.traceback.splitlines()):
        yield f"  {'' if number else 'traceback':9} {escape_unprintable(line)}"
    headers = [item for item in record["headers"].items() if not item[0].startswith(DLQ_PREFIX)]
    for number, (name, text) in enumerate(headers):
        yield f"  {'' if number else 'headers':9} {escape_unprintable(name)}: {_one_line(text)}"
    for number, line in enumerate(_format_value(record["value"]).splitlines() or [""]):
        yield f"  {'' if number else 'value':9} {line}"
    yield ""


def _format_value(value: Any) -> str:
    if isinstance(value, str):
        return escape_unprintable(value, "\n\t")
    return escape_unprintable(msgspec.json.format(msgspec.json.encode(value), indent=2).decode(), "\n")


def _format_time(seconds: float) -> str:
    """Return seconds since the epoch as a time in UTC, without fractions of a second."""
    try:
        time = datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds)
    except (ValueError, OverflowError):  # the header of a dead letter may hold any number
        return str(seconds)
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _one_line(text: str) -> str:
    return escape_unprintable(" ".join(text.split()))
