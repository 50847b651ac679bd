"""A dead letter as text and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventml.cli.moments import shown
from eventml.cli.rendering import as_line
from eventml.runtime import DLQ_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventml.runtime import DeadLetter

COLUMNS = ("handler", "id", "exception", "tries", "failed (UTC)", "from", "reason")
_REASON = 80  # characters of it in a table


class Summary(msgspec.Struct):
    """A letter without its value."""

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


class Whole(Summary):
    """A letter with its record."""

    record: msgspec.Raw


def summary(handler: str, letter: DeadLetter) -> Summary:
    return Summary(**_fields(handler, letter))


def whole(handler: str, letter: DeadLetter) -> Whole:
    return Whole(**_fields(handler, letter), record=msgspec.Raw(as_line(letter.delivery).rstrip()))


def _fields(handler: str, letter: DeadLetter) -> dict[str, Any]:
    said = {name: getattr(letter, name) for name in Summary.__struct_fields__ if name != "handler"}
    return {"handler": handler, **said}


def row(handler: str, letter: DeadLetter) -> list[str]:
    """A line of a table."""
    reason = letter.message.removeprefix(f"{letter.exception}: ")
    return [
        handler,
        printable(letter.id),
        printable(letter.exception),
        str(letter.attempts),
        shown(letter.last_failure),
        f"{letter.topic}/{letter.partition}/{letter.offset}",
        one_line(reason if len(reason) <= _REASON else f"{reason[:_REASON]}…"),
    ]


def as_text(handler: str, letter: DeadLetter) -> str:
    """The letter for people: whatever it holds, it does nothing to their terminal."""
    return "\n".join(_lines(handler, letter))


def _lines(handler: str, letter: DeadLetter) -> Iterator[str]:
    record = msgspec.json.decode(as_line(letter.delivery))
    times = "try" if letter.attempts == 1 else "tries"
    yield f"{handler}: {printable(letter.id)}"
    yield f"  failed    {shown(letter.last_failure)} UTC, after {letter.attempts} {times}"
    if letter.attempts > 1:
        yield f"            {shown(letter.first_failure)} UTC for the first time"
    yield f"  from      {letter.topic}, partition {letter.partition}, offset {letter.offset}"
    if record["key"] is not None:
        yield f"  key       {_readable(record['key'])}"
    yield f"  reason    {one_line(letter.message)}"
    for number, line in enumerate(letter.traceback.splitlines()):
        yield f"  {'' if number else 'traceback':9} {printable(line)}"
    headers = [(n, text) for n, text in record["headers"].items() if not n.startswith(DLQ_PREFIX)]
    for number, (name, text) in enumerate(headers):
        yield f"  {'' if number else 'headers':9} {printable(name)}: {one_line(text)}"
    value = _readable(record["value"]).splitlines() or [""]
    yield f"  value     {value[0]}"
    yield from (f"            {line}" for line in value[1:])
    yield ""


def _readable(value: Any) -> str:
    if isinstance(value, str):
        return printable(value, "\n\t")
    return printable(msgspec.json.format(msgspec.json.encode(value), indent=2).decode(), "\n")


def printable(text: str, keep: str = "") -> str:
    """Text in which nothing moves a cursor or turns a line around, whatever a producer has sent.

    Args:
        text: To show.
        keep: Characters to leave as they are.
    """
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    return printable(" ".join(text.split()))
