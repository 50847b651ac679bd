"""A predictor as a function from Arrow to Arrow, for engines with readers and writers of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future
from importlib.util import find_spec
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio
import msgspec
from anyio.from_thread import BlockingPortal

from eventml.bus import import_predictor
from eventml.deploy.batch.chunks import (
    RejectedRow,
    RowChunk,
    RunIdentity,
    bisect_rows,
    require_id_column,
)
from eventml.deploy.batch.output_columns import OutputSchema, schema_of_type
from eventml.deploy.batch.row_decoding import RowDecoder
from eventml.deploy.batch.scoring import Scorer, run_identity, scorable
from eventml.errors import MissingExtraError, OutputError, SourceError
from eventml.event_types import fields_of
from eventml.runtime import task_group

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from eventml.deploy.batch.chunks import ScoredChunk

REJECTED: Final = "rejected"
"""The column of a row's error: null where the row has a prediction."""

_ROWS: Final = 32_768  # in one call, as in a job

_locks: dict[int, Lock] = {}
_loaded: dict[tuple[Any, ...], _Loaded] = {}
"""By process, because a forked one has no thread of its parent's, and by the arguments of the scorer."""


class _Loaded(NamedTuple):
    """A predictor with its model, and the event loop that calls it, in a thread of its own."""

    portal: BlockingPortal
    scorer: Scorer
    run: RunIdentity


class ArrowScorer:
    """Scores tables with one predictor. It can be pickled: it holds names only. Made by `scorer`.

    A process loads the model once, at its first rows, however many scorers it unpickles; the lifespans that
    the predictor needs are entered then, and not left. Calls from several threads take turns.

    Attributes:
        schema: The columns of each result: those that `eventml score` writes, and `rejected`, which is null
            where there is a prediction. For a rejected row it has the fields of the file of rejects (`id`,
            `exception`, `message`, `row`, `attempts`), and the other columns are null.
    """

    def __init__(self, predictor: str, id_column: str | None, output: Any) -> None:
        if find_spec("pyarrow") is None:
            raise MissingExtraError("batch", "scoring Arrow tables")
        self._arguments = (predictor, id_column, output)
        self._bus, self._name = import_predictor(predictor)
        self._handler, self._id = scorable(self._bus, self._name, id_column)
        self._outputs = schema_of_type(self._handler.output_type) or schema_of_type(output)
        if self._outputs is None:
            raise OutputError(
                f"{self._name}: the columns of its output are not known before it is called. Annotate its "
                "output, such as -> list[float], or name the type: scorer(..., output=float)"
            )
        strict = self._bus.declared_topic(self._handler.topic).strict
        self._decoder = RowDecoder(
            self._handler.event_type, self._id, frame=self._handler.frame, strict=strict
        )
        types = {name: type_ for name, _, type_ in fields_of(self._handler.event_type) or ()}
        self.schema = _schema(self._name, self._outputs, integer_ids=types.get(self._id) is int)

    def __reduce__(self) -> tuple[Any, ...]:
        return ArrowScorer, self._arguments

    def __call__(self, data: Any) -> Any:
        """Score rows, and return the predictions in the kind of table that the rows are in.

        A `pyarrow.Table`, a `pyarrow.RecordBatch`, a pandas or a polars DataFrame give one of the same kind
        (in pandas with the types of Arrow). An iterator of such tables gives an iterator of them; anything
        else that can be read as an Arrow stream, such as a DuckDB relation, gives a
        `pyarrow.RecordBatchReader`. Both are scored batch by batch, while the result is read.

        Raises:
            SourceError: The rows lack the column of the ids, or one that the event requires, or have it
                twice; or Arrow knows no type for a value of a pandas DataFrame.
            TargetError: The outputs have other fields than `schema`.
            ModelError: The model cannot be loaded.
        """
        import pyarrow as pa  # noqa: PLC0415 - it comes with an extra

        kinds = {(one.__module__.partition(".")[0], one.__name__) for one in type(data).__mro__}
        if isinstance(data, pa.Table):
            return self._score(data)
        if isinstance(data, pa.RecordBatch):
            return self._score_batch(data)
        if isinstance(data, Iterator) and not hasattr(data, "__arrow_c_stream__"):
            return map(self, data)
        if ("pandas", "DataFrame") in kinds:
            import pandas as pd  # noqa: PLC0415 - it is installed: the rows are pandas's

            return self._score_pandas(data).to_pandas(types_mapper=pd.ArrowDtype)
        if ("polars", "DataFrame") in kinds:
            import polars as pl  # noqa: PLC0415 - as above

            return pl.from_arrow(self._score(pa.table(data)))
        if not hasattr(data, "__arrow_c_stream__"):
            raise TypeError(
                "a scorer takes an Arrow table, a DataFrame or an object with an Arrow stream, "
                f"not {type(data).__name__}"
            )
        reader = pa.RecordBatchReader.from_stream(data)
        return pa.RecordBatchReader.from_batches(self.schema, map(self._score_batch, reader))

    def _score_pandas(self, frame: Any) -> pa.Table:
        """Score a DataFrame, of which only the columns that are needed have to be known to Arrow."""
        import pyarrow as pa  # noqa: PLC0415 - as above

        needed = self._columns([*map(str, frame.columns)]) if len(frame) else []
        frame = frame[[one for one in frame.columns if str(one) in {self._id, *needed}]]

        def convert(start: int, stop: int) -> tuple[int, pa.Table]:
            return start, pa.Table.from_pandas(frame[start:stop], preserve_index=False)

        # A column of objects may have values of several types, of which Arrow takes one at a time.
        tables, errors = bisect_rows(len(frame), convert, pa.ArrowException)
        for number, error in errors.items():
            raise SourceError(f"the table: row {number + 1} cannot be converted to Arrow: {error}") from error
        return pa.concat_tables([self.schema.empty_table(), *(self._score(rows, n) for n, rows in tables)])

    def _score_batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        import pyarrow as pa  # noqa: PLC0415 - as above

        batches = self._score(pa.Table.from_batches([batch])).combine_chunks().to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], self.schema)

    def _columns(self, there: Sequence[str]) -> list[str]:
        """Choose the columns that the event needs."""
        require_id_column("the table", there, self._id)
        columns = self._decoder.columns_to_read(there, "the table")
        for name in (self._id, *columns):
            if there.count(name) > 1:
                raise SourceError(f"the table has two columns {name!r}: rename or remove one")
        return columns

    def _score(self, rows: pa.Table, done: int = 0) -> pa.Table:
        import pyarrow as pa  # noqa: PLC0415 - as above

        if not rows.num_rows:
            return self.schema.empty_table()
        with _locks.setdefault(os.getpid(), Lock()):
            key = (os.getpid(), *self._arguments)
            loaded = _loaded.get(key) or _loaded.setdefault(key, self._load())
            columns, tables = self._columns(rows.column_names), []
            for batch in rows.to_batches(_ROWS):
                done += batch.num_rows
                values = {name: batch.column(name) for name in columns}
                chunk = RowChunk(position=None, ids=batch.column(self._id), columns=values, done=done)
                tables.append(self._table(loaded.portal.call(loaded.scorer.score, chunk), loaded.run))
        return pa.concat_tables(tables)

    def _table(self, chunk: ScoredChunk, run: RunIdentity) -> pa.Table:
        """The predictions of a chunk, and behind them its rejected rows."""
        import pyarrow as pa  # noqa: PLC0415 - as above

        from eventml.deploy.batch.prediction_tables import tables_of  # noqa: PLC0415 - it needs pyarrow

        schema, plain = self.schema, self.schema.remove(len(self.schema) - 1)
        parts = [
            found.append_column(schema.field(REJECTED), pa.nulls(len(found), schema.types[-1]))
            for found in tables_of(chunk, self._outputs or (), run, plain)
        ]
        rejects = [{REJECTED: msgspec.structs.asdict(row)} for row in chunk.rejected]
        return pa.concat_tables([*parts, pa.Table.from_pylist(rejects, schema)])

    def _load(self) -> _Loaded:
        started = Future[_Loaded]()

        async def serve() -> None:
            async with (
                task_group(),
                BlockingPortal() as portal,
                self._bus.loaded_handlers([self._name]) as [one],
            ):
                scorer = Scorer(one, self._decoder)
                scorer.schema = self._outputs
                started.set_result(_Loaded(portal, scorer, run_identity(one, "", "", self._id)))
                await portal.sleep_until_stopped()

        def run() -> None:
            try:
                anyio.run(serve)
            except BaseException as exc:  # noqa: BLE001 - raised where it is waited for
                started.set_exception(exc)

        Thread(target=run, name="eventml-scorer", daemon=True).start()
        return started.result()


def _schema(name: str, outputs: OutputSchema, *, integer_ids: bool) -> pa.Schema:
    import pyarrow as pa  # noqa: PLC0415 - as above

    from eventml.deploy.batch.prediction_tables import arrow_schema  # noqa: PLC0415 - it needs pyarrow

    found = arrow_schema(outputs, integer_ids=integer_ids)
    if REJECTED in map(str.lower, found.names):
        raise OutputError(f"{name}: rename the output's field {REJECTED!r}: a scored table has such a column")
    kinds = {"attempts": pa.int64()}
    error = pa.struct([(field, kinds.get(field, pa.string())) for field in RejectedRow.__struct_fields__])
    return found.append(pa.field(REJECTED, error))
