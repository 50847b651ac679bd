"""Writing to a file: finished parts beside it, each with a checkpoint, that become one file at the end.

rides.csv.eventml/   lock  manifest.json  part-00000  rejects.jsonl   while the run is unfinished
rides.csv            all predictions, once the whole source is scored

Parts are Parquet, whatever the format of the file.
"""

from __future__ import annotations

import errno
import shutil
import sqlite3
import time
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.csv import CSVWriter

from eventml.deploy.batch.chunks import (
    Checkpoint,
    RowCounts,
    RunIdentity,
    ScoredChunk,
    Values,
    as_json,
    as_list,
    as_text,
    is_ascending,
)
from eventml.deploy.batch.csv_reader import CsvReader, TextLines
from eventml.deploy.batch.locations import FileFormat, FileLocation
from eventml.deploy.batch.resume import (
    Manifest,
    clear_folder,
    load_manifest,
    lock_folder,
    sync,
    sync_file,
    sync_folder,
)
from eventml.deploy.batch.schema import PREDICTION_COLUMNS, OutputSchema, single_column
from eventml.errors import SourceError, TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ROW_GROUP: Final = 1 << 16
"""Rows in a row group of a Parquet file, which are held in memory until they are written."""

_ERRORS: Final = (OSError, pa.ArrowException, OverflowError)
_NO_SPACE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class FileTarget:
    """Writes a file that holds each id once, and appears, or is replaced, when the whole source is scored.

    A run that finishes replaces the predictions of earlier runs. One that was killed or stopped leaves the
    file as it was, and its parts in the folder `<file>.eventml/`, where the next run resumes.

    Args:
        location: The file.
        every: Seconds between two checkpoints: the work that a kill costs.

    Attributes:
        rejects: The path of the file of rejected rows.

    Raises:
        TargetError: Another run is writing the file, its folder cannot be written to, or it exists and
            holds something else than predictions.
    """

    def __init__(self, location: FileLocation, *, every: float) -> None:
        self._path, self._format = location.path.absolute(), location.format
        self._every = every
        self._folder = self._path.with_name(f"{self._path.name}.eventml")
        self._rejects_path = self._path.with_name(f"{self._path.stem}.rejects.jsonl")
        self.rejects = str(location.path.with_name(self._rejects_path.name))
        with self._translate_errors():
            if not self._path.parent.is_dir():
                raise TargetError(f"{location}: there is no folder {self._path.parent}")
            _check_replaceable(self._path, self._format)
            self._folder.mkdir(exist_ok=True)
            self._lock = lock_folder(self._folder, location)
        self._output_schema: OutputSchema | None = None
        self._schema: pa.Schema | None = None
        self._part: _ParquetWriter | None = None
        self._last_checkpoint = time.monotonic()

    def begin(self, run: RunIdentity, schema: OutputSchema | None) -> Checkpoint:
        """Return the checkpoint in the work folder, if it is one of this run, else a new one."""
        with self._translate_errors():
            found = load_manifest(self._folder)
            if found is None or found.run != run:
                clear_folder(self._folder)
                found = Manifest(run=run)
                found.save(self._folder)
            self._state = found
            self._output_schema = schema
            if found.parts:
                self._schema = pq.read_schema(self._folder / found.parts[0])
            self._checkpoint = found.checkpoint
            self._rejects: BinaryIO = (self._folder / "rejects.jsonl").open("ab")
            self._rejects.truncate(found.reject_bytes)
        return self._checkpoint

    def known(self, _ids: Values) -> set[Any]:
        """Return nothing: the file is written anew."""
        return set()

    def write(self, chunk: ScoredChunk) -> RowCounts:
        """Write a chunk to the current part, and a checkpoint if it is due; return the counts so far."""
        with self._translate_errors():
            if chunk.schema is not None and len(chunk.ids):
                self._append(chunk, chunk.schema)
            self._rejects.write(msgspec.json.Encoder().encode_lines(chunk.rejected))
            counts = self._checkpoint.counts.plus(chunk, written=len(chunk.ids))
            self._checkpoint = Checkpoint(chunk.position, counts)
            if time.monotonic() - self._last_checkpoint >= self._every:
                self._save_checkpoint()
        return counts

    def _append(self, chunk: ScoredChunk, schema: OutputSchema) -> None:
        state = self._state
        if self._schema is None:
            integers = set(map(type, as_list(chunk.ids[:1]))) == {int}
            self._schema = arrow_schema(schema, integer_ids=integers)
        state.ascending = state.ascending and is_ascending(chunk.ids, state.last_id)
        state.last_id = as_list(chunk.ids[-1:])[0]
        if self._part is None:
            self._part = _ParquetWriter(self._folder / "unfinished", self._schema)
        self._part.write(_table_of(chunk, schema, state.run, self._schema))

    def _save_checkpoint(self) -> None:
        """Finish the current part, and put it into the manifest with the checkpoint behind it."""
        state = self._state
        if self._part is not None:
            writer, self._part = self._part, None
            writer.close()
            name = f"part-{len(state.parts):05}"
            sync_file(self._folder / "unfinished")
            (self._folder / "unfinished").replace(self._folder / name)
            state.parts = [*state.parts, name]
        sync(self._rejects)
        state.reject_bytes = self._rejects.tell()
        state.checkpoint = self._checkpoint
        state.save(self._folder)
        self._last_checkpoint = time.monotonic()

    def pause(self) -> None:
        """Store all that was written, so that the next run resumes behind it."""
        with self._translate_errors():
            self._save_checkpoint()

    def finish(self) -> RowCounts:
        """Join the parts to the file, and return the counts, without predictions of ids that came before."""
        with self._translate_errors():
            self._save_checkpoint()
            whole, written = self._join()
            whole.replace(self._path)
            sync_folder(self._path.parent)
            self._rejects.close()
            if self._state.reject_bytes:
                (self._folder / "rejects.jsonl").replace(self._rejects_path)
            else:
                self._rejects_path.unlink(missing_ok=True)
            clear_folder(self._folder)
        counts = self._checkpoint.counts
        duplicates = counts.duplicates + counts.written - written
        return msgspec.structs.replace(counts, written=written, duplicates=duplicates)

    def _join(self) -> tuple[Path, int]:
        """Write the parts to one file in the work folder, and return its path and number of rows."""
        state = self._state
        parts = [self._folder / name for name in state.parts]
        if self._format == "parquet" and len(parts) == 1 and state.ascending:
            return parts[0], self._checkpoint.counts.written
        if self._schema is None:
            self._schema = arrow_schema(self._output_schema or single_column("float"), integer_ids=False)
        whole, rows = self._folder / "whole", 0
        tables = _read(parts)
        if not state.ascending:
            tables = _without_duplicates(tables, self._folder / "ids.sqlite")
        with closing(_WRITERS[self._format](whole, self._schema)) as writer:
            for table in tables:
                writer.write(table)
                rows += table.num_rows
        sync_file(whole)
        return whole, rows

    def close(self) -> None:
        """Release the lock, and delete the work folder if there is nothing to resume."""
        if self._part is not None:
            with suppress(*_ERRORS):  # the part is not in the manifest, and so is written again
                self._part.close()
        if hasattr(self, "_rejects"):
            self._rejects.close()
        self._lock.close()
        if load_manifest(self._folder) is None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except _ERRORS as exc:
            reason = getattr(exc, "strerror", None) or str(exc).partition("\n")[0]
            advice = ""
            if getattr(exc, "errno", None) in _NO_SPACE or "No space left" in str(exc):
                advice = "; the file is unchanged: make room, and the next run resumes at the last checkpoint"
            raise TargetError(f"{self._path}: cannot be written: {reason}{advice}") from exc


def arrow_schema(schema: OutputSchema, *, integer_ids: bool) -> pa.Schema:
    """Return the columns of a file of predictions."""
    kinds = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    outputs = [(column.name, kinds.get(column.kind, pa.string())) for column in schema.columns]
    common = [(name, pa.string()) for name in PREDICTION_COLUMNS[1:]]
    return pa.schema([("id", pa.int64() if integer_ids else pa.string()), *outputs, *common])


def _table_of(chunk: ScoredChunk, schema: OutputSchema, run: RunIdentity, columns: pa.Schema) -> pa.Table:
    """A chunk's predictions as a table of these columns."""
    ids = _array(chunk.ids, columns.field("id").type)
    arrays = {
        column.name: as_json(as_list(values)) if column.kind == "json" else values
        for column, values in zip(schema.columns, chunk.columns, strict=True)
    }
    constants = {"predictor": run.predictor, "model": run.model, "model_version": run.model_version}
    arrays |= {name: pa.repeat(pa.scalar(text), len(ids)) for name, text in constants.items()}
    texts = pc.cast(ids, pa.string())
    arrays |= {"id": ids, "prediction_id": pc.binary_join_element_wise(texts, pa.scalar(run.id_suffix), "/")}
    if arrays.keys() != set(columns.names):
        raise TargetError(
            f"the predictor {run.predictor} returns other fields than before: {', '.join(arrays)}, not "
            f"{', '.join(columns.names)}. Annotate its output's type"
        )
    return pa.Table.from_arrays([_array(arrays[f.name], f.type) for f in columns], schema=columns)


def _array(column: Values, kind: pa.DataType) -> Any:
    if isinstance(column, pa.Array | pa.ChunkedArray):
        return column.cast(kind)
    if kind == pa.string() and isinstance(column, list) and any(type(one) is int for one in column):
        column = as_text(column)
    return pa.array(column, kind)


def _read(parts: Sequence[Path]) -> Iterator[pa.Table]:
    for part in parts:
        with pq.ParquetFile(part, pre_buffer=False, buffer_size=1 << 20) as file:
            for batch in file.iter_batches(ROW_GROUP):
                yield pa.Table.from_batches([batch])


def _without_duplicates(tables: Iterator[pa.Table], path: Path) -> Iterator[pa.Table]:
    """The tables without the rows whose id was there before. The ids are kept in an index on disk."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as index:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -16000"):
            index.execute(f"PRAGMA {pragma}")
        index.execute("CREATE TABLE ids (id PRIMARY KEY) WITHOUT ROWID")
        insert = "INSERT INTO ids VALUES (?) ON CONFLICT DO NOTHING"
        for table in tables:
            index.execute("BEGIN")
            ids = table.column("id").to_pylist()
            new = [number for number, one in enumerate(ids) if index.execute(insert, (one,)).rowcount]
            index.execute("COMMIT")
            yield table if len(new) == len(ids) else table.take(pa.array(new, pa.int64()))


class _ParquetWriter:
    """Writes tables of any size as row groups of one size."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(path, schema, compression="snappy")
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def write(self, table: pa.Table) -> None:
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            waiting, self._waiting, self._rows = self._waiting, [], 0
            self._writer.write_table(pa.concat_tables(waiting))

    def close(self) -> None:
        try:
            self._flush()
        finally:
            self._writer.close()


class _JsonLinesWriter:
    def __init__(self, path: Path, _schema: pa.Schema) -> None:
        self._stream = path.open("wb")
        self._encode = msgspec.json.Encoder().encode_lines

    def write(self, table: pa.Table) -> None:
        self._stream.write(self._encode(table.to_pylist()))

    def close(self) -> None:
        self._stream.close()


_WRITERS: Final[dict[FileFormat, Any]] = {
    "parquet": _ParquetWriter,
    "csv": CSVWriter,
    "jsonl": _JsonLinesWriter,
}


def _check_replaceable(path: Path, form: FileFormat) -> None:
    """Raise TargetError if the file exists and holds something else than predictions."""
    try:
        with path.open("rb") as stream:
            if form == "parquet":
                names = pq.read_schema(stream).names
            elif form == "csv":
                names = CsvReader(TextLines(stream, str(path)), str(path)).columns
            else:
                names = list(msgspec.json.decode(stream.readline() or b"{}", type=dict[str, msgspec.Raw]))
    except FileNotFoundError:
        return
    except (pa.ArrowException, msgspec.DecodeError, SourceError) as exc:
        raise TargetError(
            f"{path}: the file exists and holds no predictions: {exc}. Name another file"
        ) from exc
    if names and not set(PREDICTION_COLUMNS) <= set(names):
        raise TargetError(
            f"{path}: the file exists and holds no predictions, but the columns {', '.join(names)}. Name "
            "another file, or remove this one"
        )
