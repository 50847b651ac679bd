"""One run of a batch job: a source read, a predictor called, a target written, each stage in its own time."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, closing
from typing import TYPE_CHECKING, Any, Literal

import anyio
import msgspec
from anyio import to_thread

from eventml.config import redact
from eventml.deploy.batch.chunks import Answered, Chunk, Counts, Run, Source, Target
from eventml.deploy.batch.decoding import Decoding, without
from eventml.deploy.batch.file_writing import FileTarget
from eventml.deploy.batch.parquet_reading import ParquetSource
from eventml.deploy.batch.places import FilePlace, Place, SqlPlace
from eventml.deploy.batch.scoring import Scorer
from eventml.deploy.batch.shape import Shape
from eventml.deploy.batch.sql_reading import SqlSource
from eventml.deploy.batch.sql_writing import SqlTarget
from eventml.deploy.batch.text_reading import CsvSource, JsonLinesSource
from eventml.errors import ConfigError, JobError
from eventml.runtime import task_group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    from eventml.bus import Bus
    from eventml.runtime import LoadedHandler

CHUNK = 32_768
"""Rows in a chunk by default: a model's cost a call is spread over them, and three are in memory at most."""

CHECKPOINT = 5.0
"""Seconds between two checkpoints of a file target by default."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a job is to do.

    Attributes:
        predictor: The handler's name.
        source: Where rows come from.
        target: Where predictions go to.
        id_column: The column of the rows' ids; None is the `id_field` of the predictor's topic.
        chunk: The most rows that are read, called for and written at once.
        checkpoint: The seconds between two checkpoints of a file target. A table has one a chunk.
        max_rejects: Stop when more rows than that are rejected; None is any number.
    """

    predictor: str
    source: Place
    target: Place
    id_column: str | None = None
    chunk: int = CHUNK
    checkpoint: float = CHECKPOINT
    max_rejects: int | None = None


class Summary(msgspec.Struct, kw_only=True):
    """What a run has done: for people, and as JSON for schedulers.

    `read` is `written + repeated + silent + rejected`, and these include what the runs had done that this
    one goes on from: `resumed` rows of them.
    """

    predictor: str
    model: str
    model_version: str
    source: str
    target: str
    state: Literal["finished", "stopped"]
    read: int
    written: int
    repeated: int
    silent: int
    rejected: int
    resumed: int
    rejects: str | None
    seconds: float
    rows_per_second: float


class Progress(msgspec.Struct):
    """How far a run has come, for whoever shows it.

    Attributes:
        rows: Read so far, those before this run included.
        resumed: Of these, the rows before this run.
        done: How much of the source is finished, in the unit of `total`.
        total: The whole of the source; None while it is not known.
    """

    rows: int = 0
    resumed: int = 0
    done: int = 0
    total: int | None = None


async def score(
    bus: Bus,
    plan: Plan,
    *,
    stop: anyio.Event | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Score what the source holds, from the last checkpoint on if an earlier run was cut short.

    Args:
        bus: The bus that the predictor is registered with. Its backend is not connected.
        plan: What to do.
        stop: Set it to stop at the next checkpoint; the next run goes on from there.
        progress: Called after each chunk that was written.

    Raises:
        SourceError, TargetError: the source cannot be read, or the target not be written. What was finished
            before is kept.
        JobError: more rows were rejected than the plan allows.
        ConfigError: the plan cannot be carried out.
        ModelError: the model cannot be loaded.
    """
    begun = time.monotonic()
    handler = bus.configured_handler(plan.predictor)
    if handler.to is None:
        raise ConfigError(f"{plan.predictor} is a consumer: it answers nothing that could be written")
    id_column = plan.id_column or bus.configured_topic(handler.topic).id_field
    if id_column is None:
        raise ConfigError(
            f"which column holds the rows' ids? Name it with --id, or give the topic "
            f"{handler.topic!r} an id_field"
        )
    async with AsyncExitStack() as stack:
        source = await to_thread.run_sync(open_source, plan.source, id_column)
        stack.callback(source.close)
        shape = Shape(handler.event_type, text=isinstance(source, CsvSource))
        wanted = [] if source.columns is None else shape.wanted(source.columns, plan.source)
        target = await to_thread.run_sync(open_target, plan.target, plan.checkpoint)
        stack.callback(target.close)
        [job] = await stack.enter_async_context(bus.loaded_handlers([plan.predictor]))
        scorer = Scorer(job, Decoding(shape, handler.event_type, id_column, handler.frame))
        run = _run(job, plan, source, id_column)
        checkpoint = await to_thread.run_sync(target.begin, run, scorer.schema)
        work = _Work(plan, source, target, scorer, stop or anyio.Event())
        work.shown.resumed = work.shown.rows = resumed = checkpoint.counts.read
        counts = await work.run(wanted, checkpoint.position, checkpoint.counts, progress)
    seconds = time.monotonic() - begun
    return Summary(
        predictor=run.predictor,
        model=run.model,
        model_version=run.model_version,
        source=run.source,
        target=str(plan.target),
        state="stopped" if work.stopped else "finished",
        **msgspec.structs.asdict(counts),
        resumed=resumed,
        rejects=target.rejects if counts.rejected else None,
        seconds=round(seconds, 3),
        rows_per_second=round((counts.read - resumed) / seconds, 1),
    )


def open_source(place: Place, id_column: str) -> Source:
    """Open what a job reads."""
    if isinstance(place, SqlPlace):
        return SqlSource(place, id_column)
    if place.format == "parquet":
        return ParquetSource(place.path, id_column)
    return CsvSource(place.path, id_column) if place.format == "csv" else JsonLinesSource(place.path)


def open_target(place: Place, checkpoint: float) -> SqlTarget | FileTarget:
    """Open what a job writes."""
    return FileTarget(place, every=checkpoint) if isinstance(place, FilePlace) else SqlTarget(place)


def _run(job: LoadedHandler, plan: Plan, source: Source, id_column: str) -> Run:
    return Run(
        predictor=plan.predictor,
        model=job.model.name if job.model else "",
        model_version=job.model.version if job.model else "",
        source=redact(str(plan.source)) if isinstance(plan.source, SqlPlace) else str(plan.source),
        fingerprint=source.fingerprint(),
        id_column=id_column,
    )


class _Work:
    """The three stages of one run."""

    def __init__(self, plan: Plan, source: Source, target: Target, scorer: Scorer, stop: anyio.Event) -> None:
        self._plan = plan
        self._source = source
        self._target = target
        self._scorer = scorer
        self._stop = stop
        # Two threads that step through SQLite hand the interpreter's lock to and fro with every row, and
        # whoever asks a table what it has must not stand in the way of whoever writes to it.
        self._in_turn = anyio.CapacityLimiter(1 if isinstance(target, SqlTarget) else 2)
        self.stopped = False
        self.shown = Progress()

    async def run(
        self,
        wanted: list[str],
        after: Any,
        counts: Counts,
        progress: Callable[[Progress], None] | None,
    ) -> Counts:
        send_chunk, chunks = anyio.create_memory_object_stream[tuple[Chunk, int]](1)
        send_answer, answers = anyio.create_memory_object_stream[Answered](1)
        # The receiving ends are closed behind the tasks: one that fails must not look like two.
        async with chunks, answers, task_group() as tasks:
            tasks.start_soon(self._read, wanted, after, send_chunk)
            tasks.start_soon(self._call, chunks, send_answer)
            if progress is not None:
                tasks.start_soon(self._count)
            async for answered in answers:
                async with self._in_turn:
                    counts = await to_thread.run_sync(self._target.write, answered)
                self.shown.rows = counts.read
                # A table is read from an id on, and does not know how many rows lie before it.
                self.shown.done = counts.read if isinstance(self._source, SqlSource) else answered.done
                if progress is not None:
                    progress(self.shown)
                await self._check_rejects(counts, answered)
            tasks.cancel_scope.cancel()
        await to_thread.run_sync(self._target.pause if self.stopped else self._target.finish)
        return counts

    async def _check_rejects(self, counts: Counts, answered: Answered) -> None:
        allowed = self._plan.max_rejects
        if allowed is not None and counts.rejected > allowed:
            await to_thread.run_sync(self._target.pause)
            raise JobError(
                f"{counts.rejected} rows of {counts.read} were rejected, and --max-rejects allows {allowed}; "
                f"the last one: {_last(answered)}. They are kept, and the next run goes on behind them"
            )

    async def _read(
        self, wanted: list[str], after: Any, send: MemoryObjectSendStream[tuple[Chunk, int]]
    ) -> None:
        async with send:
            with closing(self._source.chunks(wanted, rows=self._plan.chunk, after=after)) as chunks:  # type: ignore[type-var]  # a generator
                while not self._stop.is_set():
                    async with self._in_turn:
                        found = await to_thread.run_sync(self._next, chunks)
                    if found is None:
                        return
                    await send.send(found)
            self.stopped = True

    def _next(self, chunks: Iterator[Chunk]) -> tuple[Chunk, int] | None:
        chunk = next(chunks, None)
        return None if chunk is None else without(chunk, self._target.known)

    async def _call(
        self,
        chunks: MemoryObjectReceiveStream[tuple[Chunk, int]],
        send: MemoryObjectSendStream[Answered],
    ) -> None:
        async with send:
            async for chunk, repeated in chunks:
                await send.send(await self._scorer.score(chunk, repeated))

    async def _count(self) -> None:
        """How much there is, for the progress bar alone: nothing waits for it."""
        self.shown.total = await to_thread.run_sync(self._source.total)


def _last(answered: Answered) -> str:
    if not answered.rejected:
        return "in an earlier chunk"
    last = answered.rejected[-1]
    return f"{last.id}: {last.exception}: {last.message}"
