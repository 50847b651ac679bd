"""Writing to a file: finished parts beside it, each with a checkpoint, that become one file at the end.

rides.csv.eventml/   lock  manifest.json  part-00000  rejects.jsonl   while the run is unfinished
rides.csv            all predictions, once the whole source is scored

Parts are Parquet, whatever the format of the file. The manifest is replaced in one step, and says how many
parts are finished. Any other file in the folder was being written when the run was killed.
"""

from __future__ import annotations

import errno
import logging
import math
import operator
import os
import re
import time
from contextlib import closing, contextmanager, suppress
from typing import IO, TYPE_CHECKING, Annotated, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.csv import CSVWriter

from eventml.deploy.batch.chunks import Checkpoint, RejectedRow, RowCounts, RunIdentity, ScoredChunk, Target
from eventml.deploy.batch.csv_reader import FORMULA, NUMBER
from eventml.deploy.batch.datasets import has_other_columns, replace_partitions
from eventml.deploy.batch.locations import FileLocation
from eventml.deploy.batch.output_columns import PREDICTION_COLUMNS, OutputSchema, as_list, single_column
from eventml.deploy.batch.prediction_tables import arrow_schema, tables_of
from eventml.deploy.batch.replaceable import check_replaceable, is_in_source
from eventml.deploy.batch.stores import check_bucket, store_errors
from eventml.deploy.batch.work_folder import WorkFolder
from eventml.errors import ConfigError, TargetError
from eventml.models import open_store
from eventml.printable import printable_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

log = logging.getLogger("eventml")

ROW_GROUP: Final = 1 << 16  # rows that are held in memory while the parts are joined

_MANIFEST: Final = "manifest.json"
_REJECTS: Final = "rejects.jsonl"
_OWN_NAMES: Final = re.compile(r"manifest\.json(\.new)?|part-[0-9]{5,}|rejects\.jsonl|unfinished|whole")
_ERRORS: Final = (OSError, pa.ArrowException, OverflowError)
_NO_SPACE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Manifest(msgspec.Struct, kw_only=True):
    """The state of an unfinished run. It names no file, so that it can lead to none.

    Attributes:
        run: The run's identity.
        checkpoint: Where the source is read on, and the rows before it.
        parts: Number of the finished parts.
        reject_bytes: Length of the file of rejected rows, in bytes.
    """

    run: RunIdentity
    checkpoint: Checkpoint = msgspec.field(default_factory=Checkpoint)
    parts: Annotated[int, msgspec.Meta(ge=0)] = 0
    reject_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0

    def save(self, folder: WorkFolder) -> None:
        """Replace the manifest on disk. It is durable when this returns."""
        with folder.open(f"{_MANIFEST}.new", "wb") as stream:
            stream.write(msgspec.json.encode(self))
            _sync(stream)
        folder.rename(f"{_MANIFEST}.new", _MANIFEST)


class FileTarget(Target):
    """Writes a file that has a row for each prediction, and appears when the whole source is scored.

    A run that finishes replaces the predictions of earlier runs. One that was killed or stopped leaves the
    file as it was, and its parts in the folder `<file>.eventml/`, where the next run resumes.

    Args:
        location: The file.
        every: Seconds between two checkpoints: the work that a kill costs.
        formulas: Whether a CSV may have texts that a spreadsheet takes for formulas; otherwise an apostrophe
            is put before them, which `CsvReader` removes.
        source: The file that is read, if it is one. It exists.
        partition_by: The columns by whose values a folder is divided.

    Raises:
        TargetError: Another run is writing the file, its folder cannot be written to or is not as a run
            makes it, or the file or that of the rejects is a link, is the source, or holds something else.
    """

    def __init__(
        self,
        location: FileLocation,
        *,
        every: float,
        formulas: bool = False,
        source: FileLocation | None = None,
        partition_by: Sequence[str] = (),
    ) -> None:
        self._location, self._path, self._format = location, location.path.absolute(), location.format
        self._every = every
        self._partition_by = partition_by
        csv = CSVWriter if formulas else _CsvWriter
        writers = {"csv": csv, "jsonl": _JsonLinesWriter}
        self._writer = writers.get(self._format, pq.ParquetWriter)
        self._rejects_location = rejects = location.rejects()
        work = self._path.with_name(f"{self._path.name}.eventml")
        self.rejects = str(location.path.with_name(work.name) / _REJECTS)  # until the run is finished
        with self._translate_errors():
            if location.url:
                self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self._path.parent.is_dir():
                raise TargetError(f"{location}: there is no folder {self._path.parent}")
            for one in (location, rejects, FileLocation(work / _REJECTS, "jsonl")):
                if source is not None and is_in_source(one, source):
                    raise TargetError(f"{one}: the run would write into its own source. Name another target")
            check_bucket(location)
            check_replaceable(location, PREDICTION_COLUMNS, "predictions", partition_by)
            check_replaceable(rejects, RejectedRow.__struct_fields__, "rejects")
            self._folder = WorkFolder(work, _OWN_NAMES)
        self._schema: pa.Schema | None = None
        self._part: pq.ParquetWriter | None = None
        self._last_checkpoint = time.monotonic()

    def begin(
        self, run: RunIdentity, schema: OutputSchema | None, since: float = 0, max_rejects: float = math.inf
    ) -> Checkpoint:
        with self._translate_errors():
            found = _load_manifest(self._folder)
            earlier = Checkpoint() if found is None else found.checkpoint
            if (
                found is None
                or found.run != run
                or earlier.saved < since
                or earlier.counts.rejected > max_rejects
            ):
                self._folder.clear()
                found = Manifest(run=run)
                found.save(self._folder)
            self._state = found
            self._output_schema = schema
            names = arrow_schema(schema or (), integer_ids=False).names
            if missing := [name for name in self._partition_by if schema and name not in names]:
                there = f"there is no column {missing[0]!r}; there are: {', '.join(names)}"
                raise ConfigError(f"--partition-by: {there}")
            if schema and self._partition_by:
                # Without the id, whose type the first one will tell.
                columns = arrow_schema(schema, integer_ids=False).remove(0)
                has_other_columns(self._location, columns, self._partition_by)
            if found.parts:
                with self._folder.open(_part(0), "rb") as part:
                    self._schema = pq.read_schema(part)
            self._rejects = self._folder.open(_REJECTS, "ab")
            self._rejects.truncate(found.reject_bytes)
            self._rejects.seek(0, os.SEEK_END)  # `tell` stays where it was, and is what a checkpoint saves
        return found.checkpoint

    def write(self, chunk: ScoredChunk) -> RowCounts:
        with self._translate_errors():
            if chunk.schema is not None and len(chunk.ids):
                if self._schema is None:
                    self._schema = arrow_schema(chunk.schema, integer_ids=type(as_list(chunk.ids)[0]) is int)
                if self._part is None:
                    self._part_stream = self._folder.open("unfinished", "wb")
                    self._part = pq.ParquetWriter(self._part_stream, self._schema)
                for table in tables_of(chunk, chunk.schema, self._state.run, self._schema):
                    self._part.write_table(table)
            encoded = map(printable_json, map(msgspec.json.encode, chunk.rejected))
            self._rejects.writelines(line + b"\n" for line in encoded)
            counts = self._state.checkpoint.counts.plus(chunk, new=len(chunk.ids))
            # Ahead of the file until `_save_checkpoint`, the only place that saves it from here on.
            self._state.checkpoint = Checkpoint(chunk.position, counts)
            if time.monotonic() - self._last_checkpoint >= self._every:
                self._save_checkpoint()
        return counts

    def _save_checkpoint(self) -> None:
        """Finish the current part, and count it in the manifest with the checkpoint behind it."""
        state = self._state
        if self._part is not None:
            writer, self._part = self._part, None
            with self._part_stream as stream:
                writer.close()
                _sync(stream)
            self._folder.rename("unfinished", _part(state.parts))
            state.parts += 1
        _sync(self._rejects)
        state.reject_bytes = self._rejects.tell()
        state.save(self._folder)
        self._last_checkpoint = time.monotonic()

    def pause(self) -> None:
        with self._translate_errors():
            self._save_checkpoint()

    def finish(self) -> None:
        """Join the parts to the file, or write them to the folder."""
        rejects = self._rejects_location
        with self._translate_errors():
            self._save_checkpoint()
            if self._format == "dataset":
                replace_partitions(self._location, self._reader, self._partition_by)
            else:
                self._publish(self._join(), self._location)
            self._rejects.close()
            self.rejects = str(rejects)
            if self._state.reject_bytes:
                self._publish(_REJECTS, rejects)
            elif rejects.url:
                store, remote = open_store(rejects.url)
                with store_errors(rejects, TargetError, "deleted"), suppress(FileNotFoundError):
                    store.rm_file(remote)
            else:
                self._folder.delete_beside(rejects.path.name)
            self._folder.clear()

    def _publish(self, name: str, to: FileLocation) -> None:
        """Replace a file by one of the work folder, in one step."""
        if to.url:
            with store_errors(to, TargetError, "written"):
                store, remote = open_store(to.url)
                store.put_file(str(self._folder.path / name), remote)
        else:
            self._folder.move_out(name, to.path.name)

    def _join(self) -> str:
        """Write the parts to one file in the work folder, and return its name."""
        if self._format == "parquet" and self._state.parts == 1:
            return _part(0)
        with self._folder.open("whole", "wb") as whole:
            with closing(self._writer(whole, self._known_schema())) as writer:
                for batch in self._batches():
                    writer.write_batch(batch)
            _sync(whole)
        return "whole"

    def _known_schema(self) -> pa.Schema:
        if self._schema is None:
            self._schema = arrow_schema(self._output_schema or single_column("float"), integer_ids=False)
        return self._schema

    def _reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self._known_schema(), self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for number in range(self._state.parts):
            with self._folder.open(_part(number), "rb") as part:
                file = pq.ParquetFile(part, pre_buffer=False, buffer_size=1 << 20)
                yield from file.iter_batches(ROW_GROUP)

    def close(self) -> None:
        """Release the lock, and delete the work folder if there is nothing to resume."""
        if self._part is not None:
            with suppress(*_ERRORS), self._part_stream:  # not in the manifest, and so is written again
                self._part.close()
        delete = False
        with suppress(OSError):  # the error that ended the run is raised already
            if hasattr(self, "_rejects"):
                self._rejects.close()
            delete = _load_manifest(self._folder) is None
        self._folder.close(delete=delete)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except _ERRORS as exc:
            reason = getattr(exc, "strerror", None) or str(exc).partition("\n")[0]
            advice = ""
            if getattr(exc, "errno", None) in _NO_SPACE or "No space left" in str(exc):
                advice = "; the file is unchanged: make room, and the next run resumes at the last checkpoint"
            raise TargetError(f"{self._location}: cannot be written: {reason}{advice}") from exc


def _part(number: int) -> str:
    return f"part-{number:05}"


def _load_manifest(folder: WorkFolder) -> Manifest | None:
    """Return the manifest of an earlier run; None if there is none, or it, a part or the rejects are gone.

    A run that is killed at its end may have moved them out.
    """
    names = folder.names()
    try:
        with folder.open(_MANIFEST, "rb") as stream:
            found = msgspec.json.decode(stream.read(), type=Manifest)
        with folder.open(_REJECTS, "rb") as rejects:
            whole = rejects.seek(0, os.SEEK_END) >= found.reject_bytes
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return found if whole and all(_part(number) in names for number in range(found.parts)) else None


def _sync(stream: IO[bytes]) -> None:
    """Flush an open file to the disk."""
    stream.flush()
    os.fsync(stream.fileno())


class _JsonLinesWriter:
    def __init__(self, stream: IO[bytes], _schema: pa.Schema) -> None:
        self._stream = stream

    def write_batch(self, batch: pa.RecordBatch) -> None:
        self._stream.write(msgspec.json.Encoder().encode_lines(batch.to_pylist()))

    def close(self) -> None:
        pass  # the stream is closed by its owner


class _CsvWriter:
    """Writes CSV whose texts, names of columns included, a spreadsheet does not take for formulas."""

    def __init__(self, stream: IO[bytes], schema: pa.Schema) -> None:
        names = escape_formulas(pa.array(schema.names, pa.string())).to_pylist()
        self._schema = pa.schema(list(zip(names, schema.types, strict=True)))
        self._writer = CSVWriter(stream, self._schema)
        self._escaped = False

    def write_batch(self, batch: pa.RecordBatch) -> None:
        found = batch.columns
        columns = [escape_formulas(c) if pa.types.is_string(c.type) else c for c in found]
        self._escaped |= any(map(operator.is_not, columns, found))
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        self._writer.close()
        if self._escaped:
            log.warning(
                "an apostrophe was put before the texts of the CSV that a spreadsheet would run (=, +, -, "
                "@); --csv-formulas writes them as they are"
            )


def escape_formulas(texts: pa.Array) -> pa.Array:
    """Put an apostrophe before the texts that `csv_reader.is_formula` names."""
    formulas = pc.match_substring_regex(texts, f"^{FORMULA}")
    if pc.any(formulas).as_py():
        formulas = pc.and_not(formulas, pc.match_substring_regex(texts, f"^(?:{NUMBER})$"))
    if not pc.any(formulas).as_py():
        return texts
    return pc.if_else(formulas, pc.binary_join_element_wise("'", texts, ""), texts)
