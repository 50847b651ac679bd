"""`eventml compare` and `eventml replay`: how the predictions of two models for the same events differ."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Final

import anyio
import typer

from eventml.cli.buses import BackendOption, PredictorArgument, load_predictor, open_shared, time_option
from eventml.cli.output import JsonOption, UsageError, print_json, print_message, print_text, progress_bar
from eventml.cli.tables import print_table
from eventml.deploy import comparison as comparing
from eventml.deploy.comparison import Answers, Comparison, Events
from eventml.handlers import configured
from eventml.models import replacement
from eventml.times import parse_start

FromOption = Annotated[
    Any,
    time_option("Begin with the events of this time, or age: 2h, 3d.", "--from", parse=parse_start),
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
    html: HtmlOption = None,
    backend: BackendOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the predictions of a predictor and its challenger.

    They are paired by event, by default for the events of the last day. No consumer group is joined.
    """
    start, until = _window(start, until)
    _check_writable(html)
    bus, champion = load_predictor(predictor, backend)
    comparing.check_single_output(champion)
    names = [name for name, handler in bus.handlers.items() if handler.champion == champion.name]
    full = f"{champion.name}.challenger.{challenger}" if challenger else ""
    if not names or (full and full not in names) or (not full and len(names) > 1):
        known = ", ".join(name.rpartition(".")[2] for name in names) or "none"
        raise UsageError(f"{champion.name} has these challengers: {known}; name one by --with")
    other = bus.configured_handler(full or names[0])

    async def run() -> tuple[Events, Answers, Answers]:
        async with open_shared(bus):
            events = await comparing.read_events(bus, champion, start=start, until=until or "end")
            first = await comparing.read_answers(bus, champion, events, start=start)
            return events, first, await comparing.read_answers(bus, other, events, start=start)

    events, first, second = anyio.run(run)
    _print(f"{champion.name} and {other.name}", events, first, second, html=html, as_json=as_json)


def replay(  # noqa: PLR0913 - each is an option of the command
    predictor: PredictorArgument,
    *,
    start: FromOption = _A_DAY,
    until: UntilOption = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The model to predict with; else the predictor's."),
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

    The events must still be in their topic; by default those of the last day. No consumer group is joined.
    """
    start, until = _window(start, until)
    _check_writable(html, to)
    bus, handler = load_predictor(predictor, backend)
    comparing.check_single_output(handler)
    again = configured(handler, replacement(handler.model, model), {}, canary=None) if model else handler

    async def run() -> tuple[Events, Answers, Answers]:
        async with open_shared(bus):
            events = await comparing.read_events(bus, handler, start=start, until=until or "end")
            total = len(events.deliveries)
            with progress_bar("events", hidden=as_json) as update:
                second = await comparing.predict_again(
                    bus, again, events, publish_to=publish, progress=lambda done: update(total, done, done)
                )
            return events, await comparing.read_answers(bus, handler, events, start=start), second

    events, first, second = anyio.run(run)
    if to is not None:
        comparing.write_pairs(to, events, first, second)
    _print(f"{handler.name} then and now", events, first, second, html=html, as_json=as_json)


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


def _print(
    title: str, events: Events, first: Answers, second: Answers, *, html: Path | None, as_json: bool
) -> None:
    comparison = comparing.compare(first.fields, second.fields, events.fields)
    models = [_model(one, events) for one in (first, second)]
    tables = _tables(models, events, first, second, comparison)
    if not events.deliveries:
        print_message("there are no events of this time; --from 3d begins earlier, and --until ends later")
    if html is not None:
        page = comparing.html_report(title, tables, comparison)
        html.write_text(page, encoding="utf-8", errors="replace")
    if as_json:
        print_json({"events": len(events.deliveries), "models": models, "comparison": comparison})
        return
    for name, columns, rows in tables:
        if rows:
            print_text(name)
            print_table(columns, rows)
            print_text("")


def _model(answers: Answers, events: Events) -> dict[str, Any]:
    seconds = comparing.latencies(answers, events)
    return {
        "predictor": answers.name,
        "versions": answers.versions,
        "answered": len(answers.fields),
        "dead_letters": len(answers.failed),
        "median_latency": median(seconds) if seconds else None,
    }


def _tables(
    models: list[dict[str, Any]], events: Events, first: Answers, second: Answers, comparison: Comparison
) -> list[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
    rows = [
        [
            one["predictor"],
            " ".join(version or "-" for version in one["versions"]),
            f"{one['answered']:,}",
            f"{one['dead_letters']:,}",
            "-" if one["median_latency"] is None else f"{1000 * one['median_latency']:.1f} ms",
        ]
        for one in models
    ]
    numbers = attrgetter("mean", "absolute", "p50", "p90", "p99", "largest")
    fields = [[one.field, f"{one.equal:.1%}", *map(_number, numbers(one))] for one in comparison.fields]
    features = [
        [one.feature, one.values, f"{one.events:,}", _number(one.absolute)]
        for one in comparison.features
        if one.absolute
    ]
    worst = [
        [i, _number(first.fields[i][comparison.compared]), _number(second.fields[i][comparison.compared])]
        for i in comparison.worst
        if first.fields[i][comparison.compared] != second.fields[i][comparison.compared]
    ]
    only = f"{comparison.only_first:,} only by the first, {comparison.only_second:,} only by the second"
    return [
        (
            f"{len(events.deliveries):,} events, {comparison.pairs:,} answered by both, {only}",
            ["predictor", "model versions", "answered", "dead letters", "median latency"],
            rows,
        ),
        (
            "Differences, second minus first",
            ["field", "equal", "mean", "mean absolute", "p50", "p90", "p99", "largest"],
            fields,
        ),
        (
            f"Where {comparison.compared} differs most",
            ["feature", "values", "events", "mean absolute"],
            features,
        ),
        (f"The largest differences of {comparison.compared}", ["event", "first", "second"], worst),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
