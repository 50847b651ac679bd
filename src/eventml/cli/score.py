"""`eventml score`: scores the rows of a table or a file, once or by a schedule."""

import logging
from typing import Annotated, Final

import anyio
import msgspec
import typer

from eventml.bus import Bus, stop_on_signals
from eventml.cli.buses import configure, find_predictor
from eventml.cli.output import (
    JsonOption,
    UsageError,
    expected_errors,
    print_message,
    progress_bar,
    start_logging,
)
from eventml.deploy.batch import (
    DEFAULT_CHECKPOINT,
    DEFAULT_CHUNK,
    Cron,
    Every,
    Schedule,
    ScorePlan,
    ScoreSummary,
    parse_location,
    repeat,
)
from eventml.deploy.batch import score as score_rows
from eventml.errors import ConfigError
from eventml.runtime import task_group

log = logging.getLogger("eventml")

_INTERRUPTED: Final = 130  # the exit status of a shell for a command ended by SIGINT
_REJECTS: Final = 3


def score(  # noqa: PLR0913 - a command's options
    predictor: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:PREDICTOR",
            help="The module and the name of a predictor in it, such as examples.rides.app:duration.",
        ),
    ],
    *,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="What to score: URL#table, with a SQLAlchemy URL, or a .parquet, .csv or .jsonl file.",
        ),
    ],
    target: Annotated[
        str,
        typer.Option("--to", metavar="TARGET", help="Where to write the predictions, in the same forms."),
    ],
    query: Annotated[
        str,
        typer.Option(
            "--query",
            metavar="SQL",
            help="Score the rows of this query; --from is a URL without a table then.",
        ),
    ] = "",
    id_column: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="COLUMN", help="The column of the rows' ids; by default the topic's id_field."
        ),
    ] = None,
    chunk: Annotated[
        int, typer.Option("--chunk", metavar="ROWS", min=1, help="Rows in one read, call and write.")
    ] = DEFAULT_CHUNK,
    checkpoint: Annotated[
        float,
        typer.Option(
            "--checkpoint",
            metavar="SECONDS",
            min=0,
            help="Time between two checkpoints of a file; a table has one for each chunk.",
        ),
    ] = DEFAULT_CHECKPOINT,
    max_rejects: Annotated[
        int | None,
        typer.Option(
            "--max-rejects", metavar="N", min=0, help="Stop, with status 1, when more rows are rejected."
        ),
    ] = None,
    allow_rejects: Annotated[
        bool, typer.Option("--allow-rejects", help="Exit with status 0 though rows were rejected.")
    ] = False,
    every: Annotated[
        float | None,
        typer.Option(
            "--every",
            metavar="SECONDS",
            min=0.1,
            help="Run again and again, with this time from start to start.",
        ),
    ] = None,
    cron: Annotated[
        str | None, typer.Option("--cron", metavar="EXPR", help="Run at these times, by the local clock.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score the rows of a table or a file, and write the predictions to another one.

    A run that was cut short is resumed at its last checkpoint, and no prediction is written twice. SIGTERM
    and SIGINT stop the run at the next checkpoint.

    The exit status is 0 if all rows were scored, 3 if some were rejected, 1 if the run failed.
    """
    try:
        plan = ScorePlan(
            predictor="",
            source=parse_location(source, option="--from", query=query),
            target=parse_location(target, option="--to"),
            id_column=id_column,
            chunk=chunk,
            checkpoint=checkpoint,
            max_rejects=max_rejects,
        )
        schedule = _schedule(every, cron)
    except ConfigError as exc:
        raise UsageError(str(exc)) from exc
    bus, name = find_predictor(predictor)
    configure(bus, None)
    plan = msgspec.structs.replace(plan, predictor=name)
    start_logging()
    _use_system_memory()
    command = _Command(bus, plan, as_json=as_json)
    status = anyio.run(command.run, schedule)
    if status == _REJECTS and allow_rejects:
        status = 0
    if status:
        raise typer.Exit(status)


def _use_system_memory() -> None:
    """Let Arrow free its memory to the system, in place of keeping it in a pool: 0.8 of the peak."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - it comes with an extra
    except ImportError:
        return
    pa.set_memory_pool(pa.system_memory_pool())


def _schedule(every: float | None, cron: str | None) -> Schedule | None:
    if every is not None and cron is not None:
        raise ConfigError("--every and --cron: choose one")
    return Every(every) if every is not None else Cron(cron) if cron is not None else None


class _Command:
    """Runs the job once or by a schedule, until a signal stops it."""

    def __init__(self, bus: Bus, plan: ScorePlan, *, as_json: bool) -> None:
        self._bus = bus
        self._plan = plan
        self._as_json = as_json
        self._stop = anyio.Event()

    def stop(self) -> None:
        """Stop at the next checkpoint."""
        log.info("stopping after the chunks in flight; a second signal abandons them")
        self._stop.set()

    def abandon(self) -> None:
        """Stop at once."""
        log.warning("abandoning the chunks in flight")
        self._scope.cancel()

    async def run(self, schedule: Schedule | None) -> int:
        """Run the job once, or by a schedule until a signal, and return the exit status.

        Raises:
            EventMLError: The run failed. By a schedule, it is reported and the next run follows.
        """
        status = _INTERRUPTED  # unless the work ends before a second signal
        async with task_group() as tasks:
            tasks.start_soon(stop_on_signals, self)
            with anyio.CancelScope() as self._scope:
                if schedule is None:
                    status = _status(await self._run())
                else:
                    await repeat(self._try_run, schedule, self._stop)
                    status = 0
            tasks.cancel_scope.cancel()
        return status

    async def _try_run(self) -> None:
        try:
            await self._run()
        except Exception as exc:  # noqa: BLE001 - `expected_errors` raises all others again
            for text in dict.fromkeys(map(str, expected_errors(exc))):
                print_message(text, "error")

    async def _run(self) -> ScoreSummary:
        with progress_bar("rows") as update:
            summary = await score_rows(
                self._bus,
                self._plan,
                stop=self._stop,
                progress=lambda now: update(now.total, now.done, now.rows - now.resumed),
            )
        typer.echo(msgspec.json.encode(summary) if self._as_json else describe(summary))
        return summary


def _status(summary: ScoreSummary) -> int:
    if summary.state == "stopped":
        return _INTERRUPTED
    return _REJECTS if summary.rejected else 0


def describe(summary: ScoreSummary) -> str:
    """Return the summary of a run as a line of text."""
    counts = [
        f"{summary.written:,} predictions written to {summary.target}",
        summary.duplicates and f"{summary.duplicates:,} rows already had one",
        summary.no_output and f"{summary.no_output:,} without an output",
        summary.rejected and f"{summary.rejected:,} rejected: see {summary.rejects}",
        summary.resumed and f"{summary.resumed:,} of the rows were finished by an earlier run",
    ]
    state = "" if summary.state == "finished" else "stopped: "
    model = f", model {summary.model} {summary.model_version}" if summary.model else ""
    speed = f"({summary.seconds:g} s, {summary.rows_per_second:,.0f} rows/s)"
    return (
        f"{state}{summary.predictor}{model}: {summary.read:,} rows of {summary.source}; "
        f"{'; '.join(text for text in counts if text)} {speed}"
    )
