"""`eventml publish`: the rows of a file or of a pipe become events on a topic."""

import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from enum import StrEnum
from io import BufferedReader
from pathlib import Path
from typing import Annotated, cast

import msgspec
import typer

from eventml.bus import Bus
from eventml.cli.buses import BackendOption, TopicArgument, bus_of_topic, require_shared
from eventml.cli.lines import Lines
from eventml.cli.output import JsonOption, UsageError, handle_errors
from eventml.cli.pace import Pace
from eventml.cli.progress import showing
from eventml.cli.rows import format_of, read_rows
from eventml.cli.sending import Tally, chunk_size, chunks, send
from eventml.producer import BlockingProducer, Producer

_INTERRUPTED = 130  # what a shell says of a command ended by SIGINT


class FormatChoice(StrEnum):
    """What `--format` takes."""

    csv = "csv"
    jsonl = "jsonl"


@handle_errors()
def publish(  # noqa: PLR0913 - each is an option of the command
    topic: TopicArgument,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="CSV with a header, or JSON lines.")] = "-",
    *,
    key: Annotated[
        str | None, typer.Option(metavar="FIELD", help="The field that is the event's key.")
    ] = None,
    id_field: Annotated[
        str | None, typer.Option("--id", metavar="FIELD", help="The field that is the event's id.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(metavar="N", min=0.001, help="Events a second; without it, all it can.")
    ] = None,
    form: Annotated[
        FormatChoice | None,
        typer.Option("--format", help="What FILE is; told by its suffix or its first line if not by you."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN", help="A CSV's column that is text, whatever it looks like. Repeat it."
        ),
    ] = None,
    backend: BackendOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish rows as events, of a file or a pipe.

    In a CSV an empty cell is null, a number (as JSON writes it) a number, and all else text. A line
    that makes no event is reported by its number and skipped; the exit status is 1 then.
    """
    bus = bus_of_topic(topic, backend, id_field)
    needed = {name for name in (key, bus.configured_topic(topic).id_field) if name}
    tally = Tally(topic)
    with (
        _opened(file) as stream,
        showing(_size(file), quiet=stream.isatty()) as moved,
        BlockingProducer(_connecting(bus)) as producer,
        _telling(tally, as_json=as_json),
    ):
        lines = Lines(stream)
        kind = form.value if form else format_of(Path(file).suffix, lines)
        rows = read_rows(lines, kind, text=text or (), needed=needed)
        send(
            producer,
            chunks(rows, chunk_size(rate), at_hand=lambda: lines.at_hand, skip=tally.skip),
            tally,
            key=key,
            pace=Pace(rate, time.monotonic()) if rate else None,
            sent=lambda: moved(lines.bytes_read, tally.published),
        )
    if tally.skipped:
        raise typer.Exit(1)


def _connecting(bus: Bus) -> Callable[[], AbstractAsyncContextManager[Producer]]:
    @asynccontextmanager
    async def connect() -> AsyncIterator[Producer]:
        async with bus.open():
            require_shared(bus)
            yield bus.open_producer

    return connect


@contextmanager
def _opened(file: str) -> Iterator[BufferedReader]:
    if file == "-":
        yield cast("BufferedReader", sys.stdin.buffer)
        return
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(Path(file).open("rb"))
        except OSError as exc:
            raise UsageError(f"{file}: {exc.strerror}") from exc
        yield stream


def _size(file: str) -> int | None:
    return None if file == "-" else Path(file).stat().st_size or None


@contextmanager
def _telling(tally: Tally, *, as_json: bool) -> Iterator[None]:
    """Say at the end, however it comes, what was published."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None
    finally:
        if as_json:
            typer.echo(msgspec.json.encode(tally))
        else:
            skipped = f", {tally.skipped} lines skipped" if tally.skipped else ""
            typer.echo(f"{tally.published} events published to {tally.topic}{skipped}")
