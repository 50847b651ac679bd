"""`eventml publish`: publishes the rows of a file or a pipe as events."""

import signal
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import FrameType, NoneType
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import typer
from msgspec import structs

from eventml.bus import Bus
from eventml.cli.buses import BackendOption, TopicArgument, bus_without_app, load_bus, open_shared
from eventml.cli.output import (
    INTERRUPTED,
    JsonOption,
    UsageError,
    print_json,
    print_message,
    print_text,
    progress_bar,
)
from eventml.deploy.batch import BadRow, CsvReader, RowDecoder, TextLines
from eventml.errors import PublishError, SourceError
from eventml.event_types import fields_of, json_decoder
from eventml.producer import BlockingProducer, Producer

FileFormat = Literal["csv", "jsonl"]

_BATCH: Final = 1_000  # events in one write at most; `publish_many` would split a larger batch
_CHECKED: Final = 1_000  # rows of a file that are read before anything is published
_BATCH_SECONDS: Final = 0.05  # between two writes if a rate is set


def publish(  # noqa: PLR0913 - each is an option of the command
    topic: TopicArgument,
    file: Annotated[
        typer.FileBinaryRead, typer.Argument(metavar="FILE|-", help="CSV with a header, or JSON lines.")
    ] = "-",  # type: ignore[assignment] # typer opens it
    *,
    key: Annotated[
        str | None, typer.Option(metavar="FIELD", help="The field that is the event's key.")
    ] = None,
    id_field: Annotated[
        str | None, typer.Option("--id", metavar="FIELD", help="The field that is the event's id.")
    ] = None,
    app: Annotated[
        str,
        typer.Option(
            "--for",
            metavar="MODULE:BUS",
            help="Publish what this bus declares the topic's events to be: their type, id and format.",
        ),
    ] = "",
    rate: Annotated[
        float | None, typer.Option(metavar="N", min=0.001, help="Publish at most N events a second.")
    ] = None,
    form: Annotated[
        FileFormat | None,
        typer.Option("--format", help="The format of FILE; by default that of its suffix or first line."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="A CSV column whose cells are text, even if they look like numbers. Repeat it for several.",
        ),
    ] = None,
    backend: BackendOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish the rows of a file or a pipe as events.

    In a CSV a blank cell is null, a number (as JSON writes it) a number, true or false a truth value, and all
    else text; with --for the type of the events decides. A line that is no valid event is reported by its
    number and skipped; the exit status is 1 then. If none of a file's first 1,000 rows is a valid event,
    nothing is published, and the status is 2.
    """
    bus = load_bus(app, backend) if app else bus_without_app(backend)
    if app and topic not in bus.topics:
        known = ", ".join(sorted(bus.topics)) or "none"
        raise UsageError(
            f"--for {app}: the bus declares these topics: {known}, and not {topic!r}. Declare it in the app "
            f"by bus.topic({topic!r}, event_type=...), or omit --for to publish without a check"
        )
    declared = bus.declared_topic(topic)
    if text and declared.event_type is not Any:
        raise UsageError("--text and --for: the type of the events says which cells are text; omit --text")
    python_names = {in_json: name for in_json, name, _ in fields_of(declared.event_type) or ()}
    key, id_field = (python_names.get(name or "", name) for name in (key, id_field))
    bus.topics[topic] = structs.replace(declared, id_field=id_field or declared.id_field)
    needed = {name for name in (key, bus.topics[topic].id_field) if name}
    report = PublishReport(topic)
    name = str(getattr(file, "name", "<stdin>"))
    size = Path(name).stat().st_size if Path(name).is_file() else None
    with BlockingProducer(partial(_producer_of, bus)) as producer:
        lines = TextLines(file, name)
        try:
            form = form or detect_format(Path(name).suffix, lines)
            if form == "csv":
                rows = read_csv(lines, name, text or (), declared.event_type)
            else:
                rows = read_json_lines(lines, json_decoder(declared.event_type, strict=declared.strict))
            rows = require_fields(rows, needed)
            batches = gather_batches(
                rows if size is None else check_first_rows(rows, name),
                batch_size(rate),
                available=lambda: lines.available,
                skip=report.skip,
            )
            next_write = time.monotonic()
            with progress_bar("events", hidden=file.isatty()) as update:
                for batch in batches:
                    if rate is not None:
                        time.sleep(max(next_write - time.monotonic(), 0))
                        next_write = time.monotonic() + len(batch) / rate
                    publish_batch(producer, batch, report, key)
                    update(size, lines.bytes_read, report.published)
        except SourceError as exc:
            raise UsageError(str(exc)) from exc
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        finally:  # below the bar, which takes standard output too while it is drawn
            skipped = f", {report.skipped} lines skipped" if report.skipped else ""
            if as_json:
                print_json(report)
            else:
                print_text(f"{report.published} events published to {topic}{skipped}")
    if report.skipped:
        raise typer.Exit(1)


class EventRow(NamedTuple):
    """An event, and the number of the line that it begins on."""

    line: int
    event: Any


def detect_format(suffix: str, lines: TextLines) -> FileFormat:
    """Return the format by the file's suffix, else by the beginning of the first line."""
    if suffix.lower() in {".csv", ".json", ".jsonl", ".ndjson"}:
        return "csv" if suffix.lower() == ".csv" else "jsonl"
    first = (lines.peek() or b"").lstrip(b"\xef\xbb\xbf \t\r")  # the byte order mark, and blanks
    return "jsonl" if first.startswith((b"{", b"[")) else "csv"


def read_csv(
    lines: TextLines, name: str, text_columns: Collection[str] = (), event_type: Any = Any
) -> Iterator[EventRow | BadRow]:
    """Read each row of a CSV as an event, or as an object whose fields have the header's names.

    The cells of `text_columns` are text; the others are converted to the types of the event's fields, or, if
    these are not known, by `value_of_cell`.

    Raises:
        SourceError: The header cannot be used, or lacks a text column or one that the event needs.
    """
    reader = CsvReader(lines, name)
    columns = reader.columns
    unknown = [column for column in text_columns if column not in columns]
    if columns and unknown:
        raise SourceError(f"{name}: no column is named {unknown[0]!r}; there are: {', '.join(columns)}")
    decoder = RowDecoder(event_type, from_text=True)
    chosen = decoder.columns_to_read(columns, name) if columns else []
    for row in reader.rows():
        if isinstance(row, BadRow):
            yield row
            continue
        cells = dict(zip(columns, row, strict=True))
        try:
            event = decoder.event({column: cells[column] for column in chosen})
        except Exception as exc:  # noqa: BLE001 - validators of the event's class may raise anything
            yield BadRow(reader.line, str(exc), row)
        else:
            texts = {column: cells[column] for column in text_columns}
            yield EventRow(reader.line, {**event, **texts} if texts else event)


def read_json_lines(
    lines: TextLines, decode: Callable[[bytes], Any] = msgspec.json.decode
) -> Iterator[EventRow | BadRow]:
    """Read each line as an event. Blank lines are skipped."""
    for line in lines:
        if not line.strip():
            continue
        try:
            yield EventRow(lines.number, decode(line))
        except Exception as exc:  # noqa: BLE001 - validators of the event's class may raise anything
            yield BadRow(lines.number, str(exc), [])


def require_fields(rows: Iterable[EventRow | BadRow], needed: Collection[str]) -> Iterator[EventRow | BadRow]:
    """Replace events by a bad row if a needed field (the key, the id) holds no text, number or the like."""
    for row in rows:
        missing = [
            name
            for name in needed
            if isinstance(row, EventRow)
            and isinstance(field_of(row.event, name), NoneType | bool | list | dict)
        ]
        yield BadRow(row.line, f"no text or number in the field {missing[0]!r}", []) if missing else row


def check_first_rows(rows: Iterator[EventRow | BadRow], name: str) -> Iterator[EventRow | BadRow]:
    """Return the rows. Raises SourceError if none of the first ones is a valid event."""
    first = list(islice(rows, _CHECKED))
    bad = [f"line {row.line}: {row.reason}" for row in first if isinstance(row, BadRow)]
    if bad and len(bad) == len(first):
        count = f"none of the first {len(bad):,} rows is a valid event"
        raise SourceError(f"{name}: {count}, and nothing was published; {bad[0]}")
    return chain(first, rows)


def field_of(event: Any, name: str) -> Any:
    """Return a field of an event, an object in JSON or of a class; None if there is no such field."""
    if isinstance(event, dict):
        return event.get(name)
    return None if isinstance(event, str | list | int | float) else getattr(event, name, None)


def batch_size(rate: float | None) -> int:
    """Return how many events are written at once at so many a second."""
    return _BATCH if rate is None else max(1, min(_BATCH, int(rate * _BATCH_SECONDS)))


def gather_batches(
    rows: Iterable[EventRow | BadRow],
    size: int,
    *,
    available: Callable[[], bool],
    skip: Callable[[BadRow], None],
) -> Iterator[list[EventRow]]:
    """Gather events up to `size`, without waiting for a row that is not available yet."""
    batch: list[EventRow] = []
    for row in rows:
        if isinstance(row, BadRow):
            skip(row)
        else:
            batch.append(row)
        if batch and (len(batch) >= size or not available()):
            yield batch
            batch = []
    if batch:
        yield batch


class PublishReport(msgspec.Struct):
    """Counts of the events published so far."""

    topic: str
    published: int = 0  # events that the broker has stored
    skipped: int = 0  # rows that are no valid event, or that the broker refused; each was reported

    def skip(self, row: BadRow) -> None:
        """Count a row, and report it on standard error."""
        self.skipped += 1
        print_message(f"line {row.line}: {row.reason}", "skipped")


def publish_batch(
    producer: BlockingProducer, batch: Sequence[EventRow], report: PublishReport, key: str | None
) -> None:
    """Publish a batch, and count what was published. An interrupt waits for its end.

    Raises:
        BackendError: The broker cannot be reached, or has no room.
    """
    failed: Mapping[int, str] = {}
    with _delay_interrupt():
        try:
            producer.publish_many(
                report.topic,
                [row.event for row in batch],
                key=None if key is None else lambda event: str(field_of(event, key)),
            )
        except PublishError as exc:
            if not exc.failed:
                raise
            failed = exc.failed
        for position, reason in failed.items():
            report.skip(BadRow(batch[position].line, reason, []))
        report.published += len(batch) - len(failed)


@contextmanager
def _delay_interrupt() -> Iterator[None]:
    """Delay the KeyboardInterrupt of a SIGINT to the end of the block, unless there is a second one."""
    received = False

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal received
        if received:
            raise KeyboardInterrupt
        received = True

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        raise KeyboardInterrupt


@asynccontextmanager
async def _producer_of(bus: Bus) -> AsyncIterator[Producer]:
    async with open_shared(bus):
        yield bus.open_producer
