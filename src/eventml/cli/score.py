"""`eventml score`: a predictor's answers to the rows of a table or a file."""

import logging
import signal
from datetime import datetime, timedelta
from typing import Annotated

import anyio
import msgspec
import typer
from anyio.abc import TaskStatus

from eventml.bus import Bus
from eventml.cli.buses import configure, find_predictor
from eventml.cli.output import (
    JsonOption,
    UsageError,
    handle_errors,
    leaf_errors,
    print_message,
    start_logging,
)
from eventml.cli.scoring import describe, showing
from eventml.deploy.batch import CHECKPOINT, CHUNK, Cron, Every, Plan, Summary, parse
from eventml.deploy.batch import score as run_job
from eventml.errors import ConfigError, EventMLError
from eventml.runtime import task_group

log = logging.getLogger("eventml")

_INTERRUPTED = 130
_REJECTS = 3


@handle_errors()
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
            help="Where rows are: URL#table, as SQLAlchemy has URLs, or a .parquet, .csv or .jsonl file.",
        ),
    ],
    target: Annotated[
        str,
        typer.Option("--to", metavar="TARGET", help="Where predictions are written: the same."),
    ],
    query: Annotated[
        str,
        typer.Option("--query", metavar="SQL", help="Read what this asks of --from, a URL without a table."),
    ] = "",
    id_column: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="COLUMN", help="The column that tells rows apart; else the topic's id_field."
        ),
    ] = None,
    chunk: Annotated[
        int, typer.Option("--chunk", metavar="ROWS", min=1, help="Rows in one read, call and write.")
    ] = CHUNK,
    checkpoint: Annotated[
        float,
        typer.Option(
            "--checkpoint",
            metavar="SECONDS",
            min=0,
            help="Between two checkpoints of a file; a table has one a chunk.",
        ),
    ] = CHECKPOINT,
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
            "--every", metavar="SECONDS", min=0.1, help="Run again and again, so long from start to start."
        ),
    ] = None,
    cron: Annotated[
        str | None, typer.Option("--cron", metavar="EXPR", help="Run at these times, by the local clock.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score the rows of a table or a file, and write the predictions to another one.

    It goes on where a run that was cut short had come to, and writes no row twice. SIGTERM and SIGINT
    end it at the next checkpoint.

    The exit status is 0 if all rows have their prediction, 3 if some were rejected, 1 if it failed.
    """
    try:
        plan = Plan(
            predictor="",
            source=parse(source, option="--from", query=query),
            target=parse(target, option="--to"),
            id_column=id_column,
            chunk=chunk,
            checkpoint=checkpoint,
            max_rejects=max_rejects,
        )
        times = _times(every, cron)
    except ConfigError as exc:
        raise UsageError(str(exc)) from exc
    bus, name = find_predictor(predictor)
    configure(bus, None)
    plan = msgspec.structs.replace(plan, predictor=name)
    start_logging()
    _spare_memory()
    command = _Command(bus, plan, as_json=as_json)
    status = anyio.run(command.once) if times is None else anyio.run(command.repeat, times)
    if status == _REJECTS and allow_rejects:
        status = 0
    if status:
        raise typer.Exit(status)


def _spare_memory() -> None:
    """Take Arrow's memory from the system, in place of a pool that keeps what it has had: 0.8 of the peak."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - it comes with an extra
    except ImportError:
        return
    pa.set_memory_pool(pa.system_memory_pool())


def _times(every: float | None, cron: str | None) -> Every | Cron | None:
    if every is not None and cron is not None:
        raise ConfigError("--every and --cron: choose one")
    return Every(every) if every is not None else Cron(cron) if cron is not None else None


class _Command:
    """The job as the command line runs it: once or by the clock, until a signal ends it."""

    def __init__(self, bus: Bus, plan: Plan, *, as_json: bool) -> None:
        self._bus = bus
        self._plan = plan
        self._as_json = as_json
        self._stop = anyio.Event()

    async def once(self) -> int:
        """One run. Returns the exit status; what fails is raised."""
        status = _INTERRUPTED  # unless it comes to an end before its second signal
        async with task_group() as tasks:
            await tasks.start(self._heed_signals, tasks.cancel_scope)
            status = _status(await self._run())
            tasks.cancel_scope.cancel()
        return status

    async def repeat(self, times: Every | Cron) -> int:
        """Run after run. One that fails is logged, and the next one has its turn."""
        async with task_group() as tasks:
            await tasks.start(self._heed_signals, tasks.cancel_scope)
            if isinstance(times, Cron):
                await self._sleep(times, datetime.now().astimezone())
            while not self._stop.is_set():
                started = datetime.now().astimezone()
                try:
                    await self._run()
                except Exception as exc:
                    reasons = list(leaf_errors(exc))
                    if not all(isinstance(reason, EventMLError) for reason in reasons):
                        raise
                    for reason in dict.fromkeys(map(str, reasons)):
                        print_message(reason, "error")
                if not self._stop.is_set():
                    await self._sleep(times, started)
            tasks.cancel_scope.cancel()
        return 0

    async def _sleep(self, times: Every | Cron, started: datetime) -> None:
        now = datetime.now().astimezone()
        seconds = times.wait(started, now)
        at = now + timedelta(seconds=seconds)
        log.info("the next run is at %s", at.isoformat(sep=" ", timespec="seconds"))
        with anyio.move_on_at(anyio.current_time() + seconds):
            await self._stop.wait()

    async def _run(self) -> Summary:
        with showing() as moved:
            summary = await run_job(self._bus, self._plan, stop=self._stop, progress=moved)
        typer.echo(msgspec.json.encode(summary) if self._as_json else describe(summary))
        return summary

    async def _heed_signals(
        self, work: anyio.CancelScope, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for heard in signals:
                if self._stop.is_set():
                    log.warning("%s again: giving up on what is in hand", heard.name)
                    work.cancel()
                else:
                    log.info("%s: stopping behind what is in hand", heard.name)
                    self._stop.set()


def _status(summary: Summary) -> int:
    if summary.state == "stopped":
        return _INTERRUPTED
    return _REJECTS if summary.rejected else 0
