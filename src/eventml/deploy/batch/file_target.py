"""Writing to a file: finished parts beside it, each with a checkpoint, that become one file at the end.

rides.csv.eventml/   lock  manifest.json  part-00000  rejects.jsonl   while the run is unfinished
rides.csv            all predictions, once the whole source is scored

Parts are Parquet, whatever the format of the file. The manifest is replaced in one step, and names the parts
that are finished. Any other file in the folder was being written when the run was killed.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.csv import CSVWriter

from eventml.deploy.batch.chunks import Checkpoint, RowCounts, RunIdentity, ScoredChunk, Target, as_list
from eventml.deploy.batch.csv_reader import CsvReader, TextLines
from eventml.deploy.batch.locations import FileFormat, FileLocation
from eventml.deploy.batch.output_columns import PREDICTION_COLUMNS, OutputSchema, Values, single_column
from eventml.errors import SourceError, TargetError
from eventml.printable import printable_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROW_GROUP: Final = 1 << 16
"""Rows that are held in memory while the parts are joined."""

_LOCK: Final = "lock"
_MANIFEST: Final = "manifest.json"
_ERRORS: Final = (OSError, pa.ArrowException, OverflowError)
_NO_SPACE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Manifest(msgspec.Struct, kw_only=True):
    """The state of an unfinished run.

    Attributes:
        run: The run's identity.
        checkpoint: Where the source is read on, and the rows before it.
        parts: The names of the finished parts, in order.
        reject_bytes: Length of the file of rejected rows, in bytes.
    """

    run: RunIdentity
    checkpoint: Checkpoint = msgspec.field(default_factory=Checkpoint)
    parts: list[str] = []
    reject_bytes: int = 0

    def save(self, folder: Path) -> None:
        """Replace the manifest on disk. It is durable when this returns."""
        new = folder / f"{_MANIFEST}.new"
        new.write_bytes(msgspec.json.encode(self))
        _sync(new)
        new.replace(folder / _MANIFEST)
        _sync(folder)


class FileTarget(Target):
    """Writes a file that has a row for each prediction, and appears when the whole source is scored.

    A run that finishes replaces the predictions of earlier runs. One that was killed or stopped leaves the
    file as it was, and its parts in the folder `<file>.eventml/`, where the next run resumes.

    Args:
        location: The file.
        every: Seconds between two checkpoints: the work that a kill costs.

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
            self._lock = _lock_folder(self._folder, location)
        self._schema: pa.Schema | None = None
        self._part: pq.ParquetWriter | None = None
        self._last_checkpoint = time.monotonic()

    def begin(self, run: RunIdentity, schema: OutputSchema | None) -> Checkpoint:
        with self._translate_errors():
            found = _load_manifest(self._folder)
            if found is None or found.run != run:
                self._clear_folder()
                found = Manifest(run=run)
                found.save(self._folder)
            self._state = found
            self._output_schema = schema
            if found.parts:
                self._schema = pq.read_schema(self._folder / found.parts[0])
            self._rejects: BinaryIO = (self._folder / "rejects.jsonl").open("ab")
            self._rejects.truncate(found.reject_bytes)
            self._rejects.seek(0, os.SEEK_END)  # `tell` stays where it was, and is what a checkpoint saves
        return found.checkpoint

    def write(self, chunk: ScoredChunk) -> RowCounts:
        with self._translate_errors():
            if chunk.schema is not None and len(chunk.ids):
                if self._schema is None:
                    integers = set(map(type, as_list(chunk.ids[:1]))) == {int}
                    self._schema = arrow_schema(chunk.schema, integer_ids=integers)
                if self._part is None:
                    self._part = pq.ParquetWriter(self._folder / "unfinished", self._schema)
                self._part.write_table(_table_of(chunk, chunk.schema, self._state.run, self._schema))
            lines = (printable_json(msgspec.json.encode(row)) for row in chunk.rejected)
            self._rejects.write(b"".join(line + b"\n" for line in lines))
            counts = self._state.checkpoint.counts.plus(chunk, written=len(chunk.ids))
            # Ahead of the file until `_save_checkpoint`, the only place that saves it from here on.
            self._state.checkpoint = Checkpoint(chunk.position, counts)
            if time.monotonic() - self._last_checkpoint >= self._every:
                self._save_checkpoint()
        return counts

    def _save_checkpoint(self) -> None:
        """Finish the current part, and put it into the manifest with the checkpoint behind it."""
        state = self._state
        if self._part is not None:
            writer, self._part = self._part, None
            writer.close()
            name = f"part-{len(state.parts):05}"
            _sync(self._folder / "unfinished")
            (self._folder / "unfinished").replace(self._folder / name)
            state.parts = [*state.parts, name]
        self._rejects.flush()
        _sync(self._folder / "rejects.jsonl")
        state.reject_bytes = self._rejects.tell()
        state.save(self._folder)
        self._last_checkpoint = time.monotonic()

    def pause(self) -> None:
        with self._translate_errors():
            self._save_checkpoint()

    def finish(self) -> None:
        """Join the parts to the file."""
        with self._translate_errors():
            self._save_checkpoint()
            self._join().replace(self._path)
            _sync(self._path.parent)
            self._rejects.close()
            if self._state.reject_bytes:
                (self._folder / "rejects.jsonl").replace(self._rejects_path)
            else:
                self._rejects_path.unlink(missing_ok=True)
            self._clear_folder()

    def _join(self) -> Path:
        """Write the parts to one file in the work folder, and return its path."""
        parts = [self._folder / name for name in self._state.parts]
        if self._format == "parquet" and len(parts) == 1:
            return parts[0]
        if self._schema is None:
            self._schema = arrow_schema(self._output_schema or single_column("float"), integer_ids=False)
        whole = self._folder / "whole"
        with closing(_WRITERS[self._format](whole, self._schema)) as writer:
            for part in parts:
                with pq.ParquetFile(part, pre_buffer=False, buffer_size=1 << 20) as file:
                    for batch in file.iter_batches(ROW_GROUP):
                        writer.write_batch(batch)
        _sync(whole)
        return whole

    def _clear_folder(self) -> None:
        """Delete all files in the work folder but the lock."""
        for path in self._folder.iterdir():
            if path.name != _LOCK:
                path.unlink()

    def close(self) -> None:
        """Release the lock, and delete the work folder if there is nothing to resume."""
        if self._part is not None:
            with suppress(*_ERRORS):  # the part is not in the manifest, and so is written again
                self._part.close()
        if hasattr(self, "_rejects"):
            self._rejects.close()
        self._lock.close()
        if _load_manifest(self._folder) is None:
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


def _load_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of an earlier run; None if there is none, or it or a part cannot be read."""
    try:
        found = msgspec.json.decode((folder / _MANIFEST).read_bytes(), type=Manifest)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return found if all((folder / part).exists() for part in found.parts) else None


def _lock_folder(folder: Path, target: object) -> BinaryIO:
    """Lock the folder until the returned file is closed or the process ends. Windows has no such locks."""
    stream = (folder / _LOCK).open("ab")
    try:
        import fcntl  # noqa: PLC0415 - not on Windows

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except BlockingIOError as exc:
        stream.close()
        raise TargetError(f"{target}: another run is writing it; wait for its end") from exc
    return stream


def _sync(path: Path) -> None:
    """Flush a closed file, or the names in a folder, to the disk. Windows opens no folders."""
    with suppress(PermissionError):
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def arrow_schema(schema: OutputSchema, *, integer_ids: bool) -> pa.Schema:
    """Return the columns of a file of predictions."""
    kinds = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    outputs = [(column.name, kinds.get(column.kind, pa.string())) for column in schema]
    common = [(name, pa.string()) for name in PREDICTION_COLUMNS[1:]]
    return pa.schema([("id", pa.int64() if integer_ids else pa.string()), *outputs, *common])


def _table_of(chunk: ScoredChunk, schema: OutputSchema, run: RunIdentity, columns: pa.Schema) -> pa.Table:
    """A chunk's predictions as a table of these columns."""
    ids = _array(chunk.ids, columns.field("id").type)
    arrays = {c.name: values for c, values in zip(schema, chunk.columns, strict=True)}
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
        column = list(map(str, column))
    return pa.array(column, kind)


class _JsonLinesWriter:
    def __init__(self, path: Path, _schema: pa.Schema) -> None:
        self._stream = path.open("wb")
        self._encode = msgspec.json.Encoder().encode_lines

    def write_batch(self, batch: pa.RecordBatch) -> None:
        self._stream.write(self._encode(batch.to_pylist()))

    def close(self) -> None:
        self._stream.close()


_WRITERS: Final[dict[FileFormat, Any]] = {
    "parquet": pq.ParquetWriter,
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
        problem = str(exc)
    else:
        problem = f"it has the columns {', '.join(names)}"
        if not names or set(PREDICTION_COLUMNS) <= set(names):
            return
    raise TargetError(f"{path}: the file exists and holds no predictions: {problem}. Name another file")
