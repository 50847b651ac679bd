"""`eventml dlq`: look at the events that handlers have set aside, replay them, or drop them."""

from collections import Counter
from functools import partial
from typing import Annotated

import anyio
import msgspec
import typer

from eventml.backends.base import Backend, Subscription
from eventml.cli.letters import COLUMNS, Summary, as_text, one_line, row, summary, whole
from eventml.cli.options import JsonOption
from eventml.cli.reporting import Refusal, reporting, say
from eventml.cli.searching import Search, searching, visit_boxes
from eventml.cli.tables import show_table
from eventml.runtime import (
    DeadLetter,
    DeadLetterAction,
    DeadLetterQueue,
    ReplayReport,
    browse,
    replay_or_drop,
)

app = typer.Typer(help="The events that handlers have set aside: dead letters.", no_args_is_help=True)

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
_DONE = {"replay": "replayed", "drop": "dropped"}


class Listing(msgspec.Struct):
    """What `list` and `show` say to a machine; the counts are by handler and exception."""

    letters: list[Summary]
    counts: dict[str, Counter[str]]


class Outcome(msgspec.Struct):
    """What has become of one handler's letters."""

    handler: str
    topic: str
    fate: DeadLetterAction
    dry_run: bool
    tally: ReplayReport


@app.command("list")
@reporting()
@searching
def list_letters(found: Search, as_json: JsonOption = False) -> None:
    """List the dead letters that were neither replayed nor dropped, and count them.

    Nothing is changed by looking.
    """
    letters = anyio.run(_collect, found)
    counts = _counts(letters)
    if as_json:
        typer.echo(msgspec.json.encode(Listing([summary(name, letter) for name, letter in letters], counts)))
        return
    if letters:
        show_table(COLUMNS, [row(name, letter) for name, letter in letters])
    _say_counts(counts)


@app.command("show")
@reporting()
@searching
def show(found: Search, as_json: JsonOption = False) -> None:
    """Show dead letters whole: the event, why it was set aside, and where it came from.

    Nothing is changed by looking.
    """
    letters = anyio.run(_collect, found)
    if as_json:
        shown: list[Summary] = [whole(name, letter) for name, letter in letters]
        typer.echo(msgspec.json.encode(Listing(shown, _counts(letters))))
        return
    for name, letter in letters:
        typer.echo(as_text(name, letter))
    _say_counts(_counts(letters))


@app.command("replay")
@reporting()
@searching
def replay(found: Search, dry_run: DryRunOption = False, as_json: JsonOption = False) -> None:
    """Give events back to the handler that set them aside, and to no other.

    They go to the topic they came from, as they were, and are handled when that handler runs. What was
    replayed is no dead letter any more; if it fails again, it becomes one again.
    """
    _settle(found, "replay", dry_run=dry_run, as_json=as_json)


@app.command("drop")
@reporting()
@searching
def drop(
    found: Search,
    everything: Annotated[bool, typer.Option("--all", help="All there are.")] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Be done with dead letters: they are neither listed nor replayed any more.

    Their records stay on the dead-letter topic for as long as its retention keeps them.
    """
    if not (found.chosen or everything or dry_run):
        raise Refusal("this would drop every dead letter: choose some by an option, or say --all")
    _settle(found, "drop", dry_run=dry_run, as_json=as_json)


async def _collect(found: Search) -> list[tuple[str, DeadLetter]]:
    letters: list[tuple[str, DeadLetter]] = []

    async def visit(box: DeadLetterQueue, _backend: Backend, subscription: Subscription) -> None:
        limit = None if found.limit is None else found.limit - len(letters)
        if limit != 0:
            letters.extend(
                [(_name(box), letter) async for letter in browse(subscription, found.wanted, limit=limit)]
            )

    await visit_boxes(found, visit)
    return letters


def _settle(found: Search, fate: DeadLetterAction, *, dry_run: bool, as_json: bool) -> None:
    outcomes = anyio.run(partial(_settle_all, found, fate, dry_run=dry_run))
    if as_json:
        typer.echo(msgspec.json.encode(outcomes))
    else:
        for outcome in outcomes:
            _tell(outcome)
        if not outcomes:
            typer.echo("no dead letters")
    if any(outcome.tally.refused for outcome in outcomes):
        raise typer.Exit(1)


async def _settle_all(found: Search, fate: DeadLetterAction, *, dry_run: bool) -> list[Outcome]:
    outcomes: list[Outcome] = []

    async def visit(box: DeadLetterQueue, backend: Backend, subscription: Subscription) -> None:
        done = sum(outcome.tally.chosen.total() for outcome in outcomes)
        limit = None if found.limit is None else found.limit - done
        if limit == 0:
            return
        if dry_run:
            tally = ReplayReport(left=await subscription.lag())
            async for letter in browse(subscription, found.wanted, limit=limit):
                tally.chosen[letter.exception] += 1
        else:
            acks_singly = backend.capabilities.redelivery == "lease"
            tally = await replay_or_drop(
                subscription, found.wanted, fate, limit=limit, acks_singly=acks_singly
            )
        outcomes.append(Outcome(_name(box), box.topic, fate, dry_run, tally))

    await visit_boxes(found, visit)
    return outcomes


def _tell(outcome: Outcome) -> None:
    tally, done = outcome.tally, _DONE[outcome.fate]
    where = f" to {outcome.topic}" if outcome.fate == "replay" else ""
    by_exception = f" ({_by_exception(tally.chosen)})" if tally.chosen else ""
    would = "would be " if outcome.dry_run else ""
    left = "" if tally.left is None or outcome.dry_run else f"; {tally.left} left"
    typer.echo(f"{outcome.handler}: {tally.chosen.total()} {would}{done}{where}{by_exception}{left}")
    if tally.duplicates:
        typer.echo(
            f"{outcome.handler}: {tally.duplicates} second letters of the same events, left by a crash"
        )
    for why, count in tally.refused.items():
        say(f"{outcome.handler}: {count} could not be {done}, and stay: {why}", "error")


def _name(box: DeadLetterQueue) -> str:
    return ", ".join(box.handlers)


def _counts(letters: list[tuple[str, DeadLetter]]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    for name, letter in letters:
        counts.setdefault(name, Counter())[letter.exception] += 1
    return counts


def _say_counts(counts: dict[str, Counter[str]]) -> None:
    if not counts:
        typer.echo("no dead letters")
    for name, by_exception in counts.items():
        letters = "dead letter" if by_exception.total() == 1 else "dead letters"
        typer.echo(f"{name}: {by_exception.total()} {letters} ({_by_exception(by_exception)})")


def _by_exception(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {one_line(name)}" for name, count in counts.most_common())
