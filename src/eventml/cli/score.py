"""`eventml score`: scores the rows of a table or a file, once or by a schedule."""

import logging
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import anyio
import typer

from eventml.bus import Bus, import_predictor, stop_on_signals
from eventml.cli.buses import PredictorArgument, configure, find, seconds
from eventml.cli.output import (
    INTERRUPTED,
    JsonOption,
    UsageError,
    print_errors,
    print_json,
    print_text,
    progress_bar,
    start_logging,
)
from eventml.deploy import batch
from eventml.errors import ConfigError, MissingExtraError
from eventml.runtime import task_group

log = logging.getLogger("eventml")

_REJECTS: Final = 3
_LOOK_AT_CLOCK: Final = 60.0  # seconds: a suspended machine, or a clock that was set, delays a run by no more
_SMALL_STEP: Final = timedelta(hours=3)  # as cron: a clock set back by less repeats no run


def score(  # noqa: PLR0913 - a command's options
    predictor: PredictorArgument,
    *,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="What to score: URL#table, with a SQLAlchemy URL; a .parquet, .csv or .jsonl file, a folder "
            "of Parquet files or a Delta table, also at s3://, gs://, az:// or https://.",
        ),
    ],
    target: Annotated[
        str, typer.Option("--to", metavar="TARGET", help="Where to write the predictions, in the same forms.")
    ],
    query: Annotated[
        str,
        typer.Option(
            metavar="SQL", help="Score the rows of this query; --from is a URL without a table then."
        ),
    ] = "",
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--param", metavar="NAME=VALUE", help="A value for :NAME in --query; the option may be repeated."
        ),
    ] = None,
    id_column: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="COLUMN", help="The column of the rows' ids; by default the topic's id_field."
        ),
    ] = None,
    chunk: Annotated[
        int, typer.Option(metavar="ROWS", min=1, help="Rows in one read, call and write.")
    ] = batch.DEFAULT_CHUNK,
    checkpoint: Annotated[
        float, seconds(0, "Time between two checkpoints of a file; a table has one for each chunk.")
    ] = batch.DEFAULT_CHECKPOINT,
    max_rejects: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Exit with status 0 if up to N rows are rejected; stop, with status 1, when there are more.",
        ),
    ] = None,
    csv_formulas: Annotated[
        bool,
        typer.Option(
            "--csv-formulas",
            help="Write texts that begin with =, +, - or @ to a CSV as they are, though a spreadsheet runs "
            "them; by default an apostrophe is put before them.",
        ),
    ] = False,
    only_new: Annotated[
        bool,
        typer.Option(
            "--only-new/--overwrite",
            help="Score only the rows that have no prediction in the table; or all, and replace the "
            "predictions that have changed.",
        ),
    ] = False,
    partition_by: Annotated[
        str,
        typer.Option(
            metavar="COLUMNS",
            help="Divide a folder of Parquet files by these columns of the predictions, separated by commas. "
            "A run replaces the partitions that it has rows of.",
        ),
    ] = "",
    cron: Annotated[
        str | None, typer.Option(metavar="EXPR", help="Run at each of these times, until a signal.")
    ] = None,
    time_zone: Annotated[
        str | None,
        typer.Option(
            metavar="ZONE",
            help="The zone of --cron, such as Europe/Berlin; by default that of TZ, or else the machine's.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a table or a file, and write the predictions to another.

    All rows are scored, and a table's predictions that have changed are replaced, unless --only-new is set.
    A run that was cut short is resumed at its last checkpoint, and no prediction is written twice. SIGTERM
    and SIGINT stop the run at the next checkpoint.

    The exit status is 0 if all rows were scored, 3 if some were rejected (without --max-rejects), 1 if the
    run failed.
    """
    bus, name = find(import_predictor, predictor)
    try:
        plan = batch.ScorePlan(
            predictor=name,
            source=batch.parse_location(source, option="--from", query=query, parameters=parameters or ()),
            target=batch.parse_location(target, option="--to"),
            id_column=id_column,
            chunk=chunk,
            checkpoint=checkpoint,
            max_rejects=max_rejects,
            csv_formulas=csv_formulas,
            only_new=only_new,
            partition_by=tuple(dict.fromkeys(filter(None, map(str.strip, partition_by.split(","))))),
        )
        times = None if cron is None else next_times(cron, find_zone(time_zone))
    except ConfigError as exc:
        raise UsageError(str(exc)) from exc
    configure(bus, None)
    start_logging()
    _use_system_memory()
    raise typer.Exit(anyio.run(_Command(bus, plan, as_json=as_json).run, times))


def _use_system_memory() -> None:
    """Let Arrow free its memory to the system, in place of keeping it in a pool: 0.8 of the peak."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - it comes with an extra
    except ImportError:
        return
    pa.set_memory_pool(pa.system_memory_pool())


def find_zone(name: str | None) -> tzinfo:
    """Return the time zone of a name; for None that of TZ, else that of /etc/localtime, else UTC.

    Raises:
        ConfigError: There is no such zone, or the machine has no time zones.
    """
    name = name or os.environ.get("TZ", "").removeprefix(":")
    try:
        if not name:
            with open("/etc/localtime", "rb") as file:  # noqa: PTH123 - from_file takes an open file
                return ZoneInfo.from_file(file)
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        if not name:
            return UTC
        advice = "expected a name such as Europe/Berlin or UTC, in --time-zone or TZ"
        if not available_timezones():
            advice = "this machine has no time zones; install them: pip install tzdata"
        raise ConfigError(f"the time zone {name!r} is not known: {advice}") from exc


def utc_now() -> datetime:
    """Return what the clock shows."""
    return datetime.now(UTC)


def next_times(expression: str, zone: tzinfo) -> Callable[[datetime], datetime]:
    """Return the function that returns the first time of a cron expression in a zone after another time.

    Where the zone's clock is changed, it does what cron does. An expression for all hours follows the clock.
    Any other one has a time that is skipped just after the change, and one that comes twice the first time.

    The expression has five fields (minute, hour, day of month, month, day of week) and perhaps a sixth, the
    second; or it is `@daily` and the like.

    Raises:
        ConfigError: The expression is invalid, or no such time is to come; the function raises it too.
        MissingExtraError: croniter is not installed.
    """
    try:
        from croniter import CroniterBadDateError, croniter  # noqa: PLC0415 - it comes with an extra
    except ImportError as exc:
        raise MissingExtraError("batch", "--cron") from exc
    if not croniter.is_valid(expression):
        raise ConfigError(
            f"--cron {expression!r}: expected minute, hour, day of month, month and day of week, "
            "such as '30 4 * * mon-fri', or @daily"
        )
    all_hours = croniter.expand(expression)[0][1] == ["*"]

    def next_time(now: datetime) -> datetime:
        # croniter repeats a time that comes twice, and its `fold` is 1 then; this was tried with version 7.
        times: Iterator[datetime] = croniter(expression, now.astimezone(zone)).all_next(datetime)
        try:
            return next(time for time in times if all_hours or not time.fold)
        except (CroniterBadDateError, StopIteration) as exc:
            raise ConfigError(f"--cron {expression!r}: no such time is to come") from exc

    next_time(datetime.now(UTC))
    return next_time


class _Command:
    """Runs the job once or by a schedule, until a signal stops it."""

    def __init__(self, bus: Bus, plan: batch.ScorePlan, *, as_json: bool) -> None:
        self._bus = bus
        self._plan = plan
        self._as_json = as_json
        self._stop = anyio.Event()
        self._loading = False  # the model

    def stop(self) -> None:
        log.info("stopping after the chunks in flight; a second signal abandons them")
        self._stop.set()
        if self._loading:
            self._scope.cancel()

    def abandon(self) -> None:
        log.warning("abandoning the chunks in flight")
        self._scope.cancel()

    async def run(self, next_time: Callable[[datetime], datetime] | None) -> int:
        """Run the job once, or at the times of a schedule until a signal, and return the exit status."""
        status = INTERRUPTED  # unless the work ends before a second signal
        async with task_group() as tasks:
            tasks.start_soon(stop_on_signals, self.stop, self.abandon)
            with anyio.CancelScope() as self._scope:
                status = await (self._run() if next_time is None else self._repeat(next_time))
            tasks.cancel_scope.cancel()
        return status

    async def _repeat(self, next_time: Callable[[datetime], datetime]) -> int:
        """Run at each time until a signal, even if a run fails. Times that pass during a run are skipped."""
        last = utc_now()
        while True:
            due = next_time(last)
            log.info("the next run is at %s", due.isoformat(sep=" ", timespec="seconds"))
            while (now := utc_now()) < due and last - now < _SMALL_STEP:
                with anyio.move_on_after(min((due - now).total_seconds(), _LOOK_AT_CLOCK)):
                    await self._stop.wait()
                    return 0
            if now < due:
                log.warning("the clock was set back by more than %s: the schedule begins anew", _SMALL_STEP)
                last = now
                continue
            try:
                await self._run()
            except Exception as exc:  # noqa: BLE001 - `print_errors` raises all others again
                print_errors(exc)
            if self._stop.is_set():
                return 0
            last = max(due, utc_now())
            if next_time(due) <= last:
                log.warning("the run took longer than until the next one, which is skipped")

    async def _run(self) -> int:
        self._loading = True
        with progress_bar("rows") as update:

            def progress(now: Any) -> None:
                self._loading = False
                update(now.total, now.done, now.rows)

            try:
                summary = await batch.score(self._bus, self._plan, stop=self._stop, progress=progress)
            except ConfigError as exc:  # no repetition helps
                raise UsageError(str(exc)) from exc
        if self._as_json:
            print_json(summary)
        else:
            print_text(describe(summary, only_new=self._plan.only_new))
        if summary.state == "stopped":
            return INTERRUPTED
        return _REJECTS if summary.rejected and self._plan.max_rejects is None else 0


def describe(summary: batch.ScoreSummary, *, only_new: bool = False) -> str:
    """Return the summary of a run as a line of text."""
    written = f"{summary.written:,} predictions written to"
    if summary.changed or summary.unchanged:
        kept = f"{summary.unchanged:,} {'kept' if only_new else 'unchanged'}"
        written = (
            f"{summary.written - summary.changed:,} new predictions, {summary.changed:,} changed, {kept} in"
        )
    duplicates = f" ({summary.duplicates:,} with the id of an earlier row)" if summary.duplicates else ""
    counts = [
        f"{written} {summary.target}",
        summary.no_output and f"{summary.no_output:,} without an output",
        summary.rejected and f"{summary.rejected:,} rejected{duplicates}: see {summary.rejects}",
        summary.resumed and f"{summary.resumed:,} of the rows were finished by an earlier run",
    ]
    state = "" if summary.state == "finished" else "stopped: "
    model = f", model {summary.model} {summary.model_version}" if summary.model else ""
    load = f"{summary.load_seconds:g} s of them to load the model, " if summary.model else ""
    speed = f"({summary.seconds:g} s, {load}{summary.rows_per_second:,.0f} rows/s)"
    return (
        f"{state}{summary.predictor}{model}: {summary.read:,} rows of {summary.source}; "
        f"{'; '.join(text for text in counts if text)} {speed}"
    )
