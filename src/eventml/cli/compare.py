"""`eventml compare`, `eventml replay` and `eventml canary`: two models of a predictor.

The first two show how the predictions of two models for the same events differ; the third shows a predictor's
canary, or sets its share.
"""

import gc
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio
import typer
from msgspec import structs

from eventml.cli.buses import (
    BackendOption,
    PredictorArgument,
    load_predictor,
    open_shared,
    seconds,
    time_option,
)
from eventml.cli.output import (
    JsonOption,
    UsageError,
    format_table,
    is_terminal,
    print_json,
    print_message,
    print_table,
    print_text,
    progress_bar,
    redraw,
    to_html,
)
from eventml.codec import Decoder
from eventml.errors import UnsupportedError
from eventml.handlers import Handler, configured
from eventml.models import import_extra, replacement
from eventml.runtime import CanaryRecord, CanaryTrial, canary_message, canary_topic
from eventml.times import parse_start

if TYPE_CHECKING:
    from eventml.deploy.comparison import Report

FromOption = Annotated[
    Any, time_option("Begin with the events of this time, or age: 2h, 3d.", "--from", parse=parse_start)
]
UntilOption = Annotated[
    Any, time_option("Stop before the events of this time; else at the end of the topic.")
]
HtmlOption = Annotated[
    Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Write the report as an HTML page too.")
]

_A_DAY: Final = "1d"  # text, which the help shows; the option parses it


def compare(
    predictor: PredictorArgument,
    *,
    challenger: Annotated[
        str, typer.Option("--with", metavar="NAME", help="The challenger; may be left out if there is one.")
    ] = "",
    start: FromOption = _A_DAY,
    until: UntilOption = None,
    watch: Annotated[
        float | None, seconds(1, "Compare again every so many seconds, on a terminal. Ctrl-C exits.")
    ] = None,
    html: HtmlOption = None,
    backend: BackendOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the predictions of a predictor and its challenger.

    They are paired by event, by default for the events of the last day. No consumer group is joined.
    """
    _window(start, until)
    if watch is not None and (as_json or html is not None):
        raise UsageError("--watch redraws a terminal: leave --json and --html out")
    _check_writable(html)
    comparing = _import_comparison("eventml compare")
    bus, champion = load_predictor(predictor, backend)
    _check_single_output(champion)
    names = [name for name, handler in bus.handlers.items() if handler.champion == champion.name]
    full = f"{champion.name}.challenger.{challenger}" if challenger else ""
    if not names or (full and full not in names) or (not full and len(names) > 1):
        known = ", ".join(name.rpartition(".")[2] for name in names) or "none"
        raise UsageError(f"{champion.name} has these challengers: {known}; name one by --with")
    other = bus.configured_handler(full or names[0])

    async def run() -> "Report":
        async with open_shared(bus):
            first, end = _window(start, until)  # ages are those of now, also when it is repeated
            events = await comparing.read_events(bus, champion, start=first, until=end or "end")
            answers = [
                await comparing.read_answers(bus, one, events, start=first) for one in (champion, other)
            ]
            found: Report = comparing.report_of(events, *answers)
            return found

    title = f"{champion.name} and {other.name}"
    if watch is not None and is_terminal():
        redraw(lambda width: f"{title}\n\n{_as_text(anyio.run(run), width)}", watch)
    else:
        started = time.monotonic()
        _print(title, anyio.run(run), started, html=html, as_json=as_json)


def replay(  # noqa: PLR0913 - as above
    predictor: PredictorArgument,
    *,
    start: FromOption = _A_DAY,
    until: UntilOption = None,
    events: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.parquet",
            dir_okay=False,
            help="Take the events, and the predictions made then, from a file that --to has written.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="FILE", help="The model to predict with; else the predictor's.")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(metavar="FILE.parquet", dir_okay=False, help="Write each event and both predictions."),
    ] = None,
    publish: Annotated[
        str,
        typer.Option(metavar="TOPIC", help="Publish the new predictions to this topic; by default nowhere."),
    ] = "",
    html: HtmlOption = None,
    backend: BackendOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict past events again, and compare the predictions.

    The events must still be in their topic, or in a file that --to has written; by default those of the last
    day. No consumer group is joined, and with a file no broker is asked.
    """
    start, until = _window(start, until)
    _check_writable(html, to)
    if events is not None and (until is not None or publish):
        raise UsageError("--events takes all events of the file: leave --until and --publish out")
    comparing = _import_comparison("eventml replay")
    bus, handler = load_predictor(predictor, backend)
    _check_single_output(handler)
    again = configured(handler, replacement(handler.model, model), {}, canary=None) if model else handler

    async def run(progress: Any) -> Any:
        if events is not None:
            return await comparing.replay_file(bus, again, events, progress=progress)
        end = until or "end"
        async with open_shared(bus):
            return await comparing.replay(
                bus, handler, again, start=start, until=end, publish_to=publish, progress=progress
            )

    started = time.monotonic()
    with progress_bar("events", hidden=as_json) as update:
        past, first, second = anyio.run(run, lambda done: update(None, done, done))
    if to is not None:
        comparing.write_pairs(to, past, first.rows, second.rows)
    report = comparing.report_of(past, first, second)
    _print(f"{handler.name} then and now", report, started, html=html, as_json=as_json)


def _import_comparison(command: str) -> Any:
    gc.set_threshold(100_000)  # garbage collection took a third of the time
    return import_extra("eventml.deploy.comparison", "batch", command)


def _check_single_output(handler: Handler) -> None:
    if len(handler.outputs) != 1 or handler.several:
        raise UnsupportedError(f"{handler.name} cannot be compared: it has not one prediction for each event")


def _window(start: Any, until: Any) -> tuple[Any, Any]:
    """The two ends as times: ages are those at the start of the command, which reads several topics."""
    first, end = (datetime.now(UTC) - one if isinstance(one, timedelta) else one for one in (start, until))
    if isinstance(first, datetime) and end is not None and end <= first:
        raise UsageError(f"--until {end:%Y-%m-%dT%H:%M:%SZ} is not after --from {first:%Y-%m-%dT%H:%M:%SZ}")
    return first, end


def _check_writable(*paths: Path | None) -> None:
    """Refuse files that cannot be written before the work, and not after it."""
    for path in paths:
        if path is not None and not os.access(path if path.exists() else path.parent, os.W_OK):
            raise UsageError(f"{path} cannot be written; name a file in a folder that exists")


def _print(title: str, report: "Report", started: float, *, html: Path | None, as_json: bool) -> None:
    if not report.events:
        print_message("there are no events of this time; --from 3d begins earlier, and --until ends later")
    if html is not None:
        html.write_text(to_html(f"{title}\n\n{_as_text(report)}"), encoding="utf-8", errors="replace")
    if as_json:
        print_json({**structs.asdict(report), "seconds": round(time.monotonic() - started, 3)})
        return
    for name, columns, rows in report.tables():
        print_text(name)
        print_table(columns, rows)
        print_text("")


def _as_text(report: "Report", width: int | None = None) -> str:
    tables = report.tables()
    return "\n\n".join(
        "\n".join([name, *format_table(columns, rows, width=width)]) for name, columns, rows in tables
    )


def canary(
    predictor: PredictorArgument,
    *,
    share: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Set its share of the keys: 1 promotes it, 0 rolls it back."),
    ] = None,
    backend: BackendOption = None,
) -> None:
    """Show a predictor's canary as JSON, or set its share of the keys.

    It is set on all workers, also on those that start later, and begins a new trial.
    """
    bus, handler = load_predictor(predictor, backend)
    options, topic = handler.canary, canary_topic(handler)
    if options is None:
        raise UsageError(f"{handler.name} has no canary; add [consumer.{handler.name}.canary]")

    async def run() -> dict[str, Any]:
        async with open_shared(bus):
            read = Decoder(CanaryRecord).decode([one async for one in bus.read(topic, until="end")])
            records = [record for record in read if isinstance(record, CanaryRecord)]
            # The last reports of an older version come from workers that a rolling restart stops.
            versions = {record.worker: record.version for record in records if record.worker}
            if not versions:
                raise UsageError(f"no worker has started with the canary of {handler.name}; start one first")
            *_, version = versions.values()  # of the worker whose first report is the newest
            if share is not None:
                records.append(CanaryRecord(version=version, trial=token_hex(6), share=share))
                await bus.backend.publish([canary_message(topic, records[-1])])
        start = CanaryRecord(version=version, share=options.share)
        trial = CanaryTrial(start, rolls_back=options.on_worse == "rollback")
        for record in records:
            trial.apply(record)
        found = {"version": version, "share": trial.share, "worse": trial.worse}
        return found | {"observations": trial.observations}

    print_json(anyio.run(run))
