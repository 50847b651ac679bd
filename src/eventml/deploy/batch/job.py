"""One run of a batch job: a source is read, a predictor called and a target written, at the same time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from typing import Any, Final, Literal

import anyio
import msgspec
from anyio import to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from eventml.bus import Bus
from eventml.deploy.batch.chunks import (
    Checkpoint,
    RowChunk,
    RowCounts,
    ScoredChunk,
    Source,
    Target,
)
from eventml.deploy.batch.locations import FileLocation, Location, SqlLocation
from eventml.deploy.batch.row_decoding import RowDecoder
from eventml.deploy.batch.row_filters import DuplicateFilter, drop_known, find_duplicates
from eventml.deploy.batch.scoring import Scorer, run_identity, scorable
from eventml.errors import ConfigError, JobError, MissingExtraError
from eventml.runtime import task_group

log = logging.getLogger("eventml")

DEFAULT_CHUNK = 32_768
"""Rows in a chunk: the cost of a call is shared by them, and at most three chunks are in memory."""

DEFAULT_CHECKPOINT = 5.0
"""Seconds between two checkpoints of a file target."""

RESUME_WITHIN: Final = 12 * 3600.0
"""Seconds for which an unfinished run from a table is resumed: the rows before its checkpoint may change."""


class ScorePlan(msgspec.Struct, frozen=True, kw_only=True):
    """A predictor, its source, its target, and how to score.

    Attributes:
        predictor: The handler's name.
        id_column: The column of the rows' ids; None is the `id_field` of the predictor's topic.
        chunk: The most rows that are read, scored and written at once.
        checkpoint: Seconds between two checkpoints of a file target. A table has one for each chunk.
        max_rejects: Stop when more rows than this are rejected; None is no limit.
        csv_formulas: Write texts that a spreadsheet takes for formulas to a CSV as they are.
        partition_by: The columns of predictions by whose values a folder of Parquet files is divided.
        only_new: Do not score the rows whose prediction the table has, by this predictor and model version.

    Raises:
        ConfigError: `only_new` is set and the target is a file, or `partition_by` and it has no partitions.
    """

    predictor: str
    source: Location
    target: Location
    id_column: str | None = None
    chunk: int = DEFAULT_CHUNK
    checkpoint: float = DEFAULT_CHECKPOINT
    max_rejects: int | None = None
    csv_formulas: bool = False
    only_new: bool = False
    partition_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.only_new and isinstance(self.target, FileLocation):
            raise ConfigError(
                f"--only-new: {self.target} is a file, and each run replaces it; name a table in --to"
            )
        if self.partition_by and getattr(self.target, "format", "") != "dataset":
            raise ConfigError(
                f"--partition-by: {self.target} is no folder of Parquet files, whose name ends in /"
            )


class ScoreSummary(RowCounts, kw_only=True):
    """The result of a run, for people and, as JSON, for schedulers.

    The counts of rows include those of the earlier runs that this run resumes: `resumed` of them. `seconds`
    is the time of the whole run; `rows_per_second` leaves out `load_seconds`, that of loading the model.
    """

    predictor: str
    model: str
    model_version: str
    source: str
    target: str
    state: Literal["finished", "stopped"]
    resumed: int
    rejects: str | None
    seconds: float
    load_seconds: float
    rows_per_second: float


class ScoreProgress(msgspec.Struct):
    """How far a run is, for a progress bar.

    Attributes:
        rows: Rows that this run has finished.
        done: How much of the source is finished, in the unit of `total`.
        total: The size of the source; None while it is not known.
    """

    rows: int = 0
    done: int = 0
    total: int | None = None


async def score(
    bus: Bus,
    plan: ScorePlan,
    *,
    stop: anyio.Event | None = None,
    progress: Callable[[ScoreProgress], None] | None = None,
) -> ScoreSummary:
    """Score the rows of a source, from the last checkpoint on if an earlier run was cut short.

    Args:
        bus: The bus that the predictor is registered with. Its backend is not connected.
        plan: What to score.
        stop: An event that stops the run at the next checkpoint; the next run resumes there.
        progress: Called once the model is loaded, and after each chunk that was written.

    Raises:
        SourceError: The source cannot be read. What was finished before is kept, here and below.
        TargetError: The target cannot be written.
        JobError: More rows were rejected than the plan allows.
        ConfigError: The plan cannot be carried out.
        ModelError: The model cannot be loaded.
        MissingExtraError: The extra `batch` is not installed.
    """
    if find_spec("sqlalchemy") is None or find_spec("pyarrow") is None:
        raise MissingExtraError("batch", "scoring tables and files")
    started = time.monotonic()
    handler, id_column = scorable(bus, plan.predictor, plan.id_column)
    async with AsyncExitStack() as stack:
        source = await to_thread.run_sync(open_source, plan.source, id_column, handler.event_type)
        stack.callback(source.close)
        from_text = isinstance(plan.source, FileLocation) and plan.source.format == "csv"
        strict = bus.declared_topic(handler.topic).strict
        decoder = RowDecoder(
            handler.event_type, id_column, frame=handler.frame, from_text=from_text, strict=strict
        )
        columns = [] if source.columns is None else decoder.columns_to_read(source.columns, plan.source)
        target = await to_thread.run_sync(open_target, plan)
        stack.callback(target.close)
        in_table = isinstance(plan.source, SqlLocation)
        duplicates = None  # a table is read in the order of the ids
        if not in_table:
            duplicates = await to_thread.run_sync(find_duplicates, source, decoder, plan.chunk)
        for label, first in islice((duplicates or {}).items(), 3):
            log.warning("%s: %s has the id of %s, and is rejected", plan.source, label, first)
        begin_load = time.monotonic()
        [loaded] = await stack.enter_async_context(bus.loaded_handlers([plan.predictor]))
        scorer = Scorer(loaded, decoder)
        run = run_identity(loaded, str(plan.source), source.fingerprint(), id_column, only_new=plan.only_new)
        load_seconds = time.monotonic() - begin_load
        # A file that has changed has another fingerprint. Of a table's rows it is not known.
        since = time.time() - RESUME_WITHIN if in_table else 0
        checkpoint = await to_thread.run_sync(target.begin, run, scorer.schema, since)
        resumed = checkpoint.counts.read
        unique = DuplicateFilter(decoder, duplicates)
        stages = _Stages(plan, source, target, scorer, unique, stop or anyio.Event(), progress)
        counts = await stages.run(columns, checkpoint)
    seconds = time.monotonic() - started
    return ScoreSummary(
        predictor=run.predictor,
        model=run.model,
        model_version=run.model_version,
        source=run.source,
        target=str(plan.target),
        state="stopped" if stages.stopped else "finished",
        **msgspec.structs.asdict(counts),
        resumed=resumed,
        rejects=target.rejects if counts.rejected else None,
        seconds=round(seconds, 3),
        load_seconds=round(load_seconds, 3),
        rows_per_second=round((counts.read - resumed) / (seconds - load_seconds), 1),
    )


def open_source(location: Location, id_column: str, event_type: Any = dict) -> Source:
    """Open the source of a job that makes events of this type."""
    # Each module is imported only where it is needed: SQLAlchemy and pyarrow come with an extra.
    if isinstance(location, SqlLocation):
        from eventml.deploy.batch.sql_source import SqlSource  # noqa: PLC0415

        return SqlSource(location, id_column)
    from eventml.deploy.batch import datasets, file_source  # noqa: PLC0415

    if location.format == "jsonl":
        return file_source.JsonLinesSource(location)
    if location.format == "csv":
        return file_source.CsvSource(location, id_column)
    return datasets.DatasetSource(location, id_column, event_type)


def open_target(plan: ScorePlan) -> Target:
    """Open the target of a job."""
    if isinstance(plan.target, SqlLocation):
        from eventml.deploy.batch.sql_target import SqlTarget  # noqa: PLC0415 - as above

        return SqlTarget(plan.target)
    from eventml.deploy.batch.file_target import FileTarget  # noqa: PLC0415 - as above

    return FileTarget(
        plan.target,
        every=plan.checkpoint,
        formulas=plan.csv_formulas,
        source=plan.source if isinstance(plan.source, FileLocation) else None,
        partition_by=plan.partition_by,
    )


@dataclass
class _Stages:
    """The three stages of one run, each in its own task: read, score and write."""

    plan: ScorePlan
    source: Source
    target: Target
    scorer: Scorer
    unique: Callable[[RowChunk], RowChunk]
    stop: anyio.Event
    report: Callable[[ScoreProgress], None] | None
    stopped: bool = False

    def __post_init__(self) -> None:
        # A table is asked for known ids while it is read, and a target is called one at a time. Also, two
        # threads that step through SQLite pass the interpreter's lock to and fro with every row.
        self._io = anyio.CapacityLimiter(1 if isinstance(self.plan.target, SqlLocation) else 2)
        self._progress = ScoreProgress()

    async def run(self, columns: list[str], checkpoint: Checkpoint) -> RowCounts:
        """Run the stages until the source ends or `stop` is set, and return the counts."""
        counts = checkpoint.counts
        send_rows, rows = anyio.create_memory_object_stream[RowChunk](1)
        send_scored, scored = anyio.create_memory_object_stream[ScoredChunk](1)
        # The receiving ends are closed after the tasks, so that one failure does not cause a second one.
        async with rows, scored, task_group() as tasks:
            tasks.start_soon(self._read, columns, checkpoint.position, send_rows)
            tasks.start_soon(self._score, rows, send_scored)
            if self.report is not None:
                self.report(self._progress)
                tasks.start_soon(self._count_rows)
            async for chunk in scored:
                async with self._io:
                    counts = await to_thread.run_sync(self.target.write, chunk)
                if self.report is not None:
                    self._progress.rows = counts.read - checkpoint.counts.read
                    # A table is read from an id on, and does not know how many rows lie before it.
                    in_table = isinstance(self.plan.source, SqlLocation)
                    self._progress.done = counts.read if in_table else chunk.done
                    self.report(self._progress)
                await self._check_rejects(counts, chunk)
            tasks.cancel_scope.cancel()
        await to_thread.run_sync(self.target.pause if self.stopped else self.target.finish)
        return counts

    async def _read(self, columns: list[str], after: Any, send: MemoryObjectSendStream[RowChunk]) -> None:
        chunks: Any = self.source.chunks(columns, rows=self.plan.chunk, after=after)
        new_rows = (drop_known(self.unique(chunk), self.target.known) for chunk in chunks)
        async with send:
            with closing(chunks):
                while not self.stop.is_set():
                    async with self._io:
                        found = await to_thread.run_sync(next, new_rows, None)
                    if found is None:
                        return
                    await send.send(found)
            self.stopped = True

    async def _score(
        self, rows: MemoryObjectReceiveStream[RowChunk], send: MemoryObjectSendStream[ScoredChunk]
    ) -> None:
        async with send:
            async for chunk in rows:
                await send.send(await self.scorer.score(chunk))

    async def _check_rejects(self, counts: RowCounts, chunk: ScoredChunk) -> None:
        allowed = self.plan.max_rejects
        if allowed is None or counts.rejected <= allowed:
            return
        await to_thread.run_sync(self.target.pause)
        last = chunk.rejected[-1] if chunk.rejected else None
        shown = f"{last.id}: {last.exception}: {last.message}" if last else "in an earlier chunk"
        raise JobError(
            f"{counts.rejected} rows of {counts.read} were rejected, and --max-rejects allows {allowed}; the "
            f"last one: {shown}. They are kept in {self.target.rejects}; the next run resumes behind them"
        )

    async def _count_rows(self) -> None:
        """Find the size of the source for the progress bar, while the run goes on."""
        self._progress.total = await to_thread.run_sync(self.source.total)
