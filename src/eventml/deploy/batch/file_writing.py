"""Writing to a file: parts beside it, each with a checkpoint, that become one file at the end.

rides.parquet.eventml/   lock  manifest.json  part-00000.parquet  rejects.jsonl   while it runs
rides.parquet            the whole of it, when all has been read
"""

from __future__ import annotations

import errno
import shutil
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from eventml.deploy.batch import formats, manifest
from eventml.deploy.batch.chunks import Answered, Checkpoint, Counts, Run
from eventml.deploy.batch.columns import as_list, take
from eventml.deploy.batch.locking import locked
from eventml.deploy.batch.manifest import Manifest
from eventml.deploy.batch.schema import VALUE, Field, Schema
from eventml.deploy.batch.seen import Seen
from eventml.errors import MissingExtraError, TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventml.deploy.batch.chunks import Column
    from eventml.deploy.batch.places import FilePlace

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class FileTarget:
    """A file that holds each (id, predictor, model version) once.

    It appears, or is replaced, when all has been read, and is complete then. Until that, what is done
    lies beside it. A file that is there already is added to.

    Args:
        place: The file.
        every: How long a part is written to, in seconds: what a kill costs.

    Raises:
        TargetError: another run is at work on it, or its folder cannot be written to.
    """

    def __init__(self, place: FilePlace, *, every: float) -> None:
        try:
            import pyarrow as pa  # noqa: PLC0415 - it comes with an extra
        except ImportError as exc:
            raise MissingExtraError("batch", "writing files") from exc
        self._errors = (OSError, pa.ArrowException, OverflowError)
        self._path, self._form = place.path.absolute(), place.format
        self._every = every
        self._folder = self._path.with_name(f"{self._path.name}.eventml")
        self._rejects_path = self._path.with_name(f"{self._path.stem}.rejects.jsonl")
        self.rejects = str(place.path.with_name(self._rejects_path.name))
        with self._translated():
            if not self._path.parent.is_dir():
                raise TargetError(f"{place}: there is no folder {self._path.parent}")
            self._folder.mkdir(exist_ok=True)
            self._lock = locked(self._folder / "lock", place)
        self._schema: Any = None
        self._open: formats.Writer | None = None
        self._opened_at = 0.0
        self._state: Manifest | None = None
        self._rejects: BinaryIO | None = None
        self._seen: Seen | None = None

    # Beginning

    def begin(self, run: Run, schema: Schema | None) -> Checkpoint:
        with self._translated():
            found = manifest.load(self._folder)
            if found is not None and manifest.was_finished(found, self._path):
                self._hand_over_rejects(found)
                found = None
            if found is not None and manifest.resumes(found, run, self._folder, self._path):
                self._state = found
            else:
                self._clear()
                base = manifest.identity_of(self._path)
                self._state = Manifest(run=run, base=base)
                manifest.save(self._folder, self._state)
            state = self._state
            self._counts = msgspec.structs.replace(state.checkpoint.counts)
            self._position = state.checkpoint.position
            self._rejects = (self._folder / "rejects.jsonl").open("ab")
            self._rejects.truncate(state.rejects)
            self._seen = Seen(self._folder / "seen.sqlite", state.last)
            if schema is not None and (state.base or not state.ascending):
                self._shape(schema, integer_ids=None)
        return Checkpoint(self._position, self._counts)

    def _clear(self) -> None:
        """Leave nothing in the folder but the lock."""
        for path in self._folder.iterdir():
            if path.name != "lock":
                path.unlink()

    def _shape(self, schema: Schema, *, integer_ids: bool | None) -> None:
        """The columns are known now: look whether what is there has the same."""
        state, seen = self._begun()
        files = [self._path, *self._parts()] if state.base else self._parts()
        if integer_ids is None or files:
            integer_ids = bool(files) and self._has_integers(files[0])
        self._schema = formats.arrow_schema(schema, integer_ids=integer_ids)
        if state.base:
            formats.check_existing(self._path, self._form, self._schema)
        if state.base or not state.ascending:
            seen.begin_index(self._earlier())

    def _has_integers(self, path: Any) -> bool:
        import pyarrow as pa  # noqa: PLC0415 - it comes with an extra
        import pyarrow.parquet as pq  # noqa: PLC0415 - it comes with an extra

        if self._form == "parquet":
            schema = pq.read_schema(path)
            return "id" in schema.names and bool(pa.types.is_integer(schema.field("id").type))
        if self._form == "csv":
            return False
        with path.open("rb") as stream:
            first = msgspec.json.decode(stream.readline() or b"{}")
        return isinstance(first, dict) and type(first.get("id")) is int

    def _earlier(self) -> Iterator[Sequence[Any]]:
        """The ids that this predictor and version have answered, in the target and in the parts."""
        state, _ = self._begun()
        wanted = ["id", "predictor", "model_version"]
        for path in [self._path, *self._parts()] if state.base else self._parts():
            for table in formats.read(path, self._form, self._schema, wanted):
                rows = zip(*(table.column(name).to_pylist() for name in wanted), strict=True)
                mine = (state.run.predictor, state.run.model_version)
                yield [one for one, *whose in rows if tuple(whose) == mine]

    # Writing

    def known(self, ids: Column) -> set[Any]:
        return set() if self._seen is None else self._seen.known(ids)

    def write(self, answered: Answered) -> Counts:
        state, seen = self._begun()
        with self._translated():
            fresh = self._fresh(answered, seen)
            if self._schema is not None and len(fresh.ids):
                self._append(formats.table_of(fresh, state.run, self._schema))
            if self._rejects is not None and answered.rejected:
                self._rejects.write(msgspec.json.Encoder().encode_lines(answered.rejected))
            counts = self._counts
            counts.read += answered.read
            counts.written += len(fresh.ids)
            counts.repeated += answered.repeated + len(answered.ids) - len(fresh.ids)
            counts.silent += answered.silent
            counts.rejected += len(answered.rejected)
            self._position = answered.after
            if self._opened_at and time.monotonic() - self._opened_at >= self._every:
                self._keep()
            elif not self._opened_at:
                self._opened_at = time.monotonic()
        return msgspec.structs.replace(counts)

    def _fresh(self, answered: Answered, seen: Seen) -> Answered:
        """Those of the predictions that the file does not have yet."""
        if answered.schema is None or not len(answered.ids):
            return answered
        ids = answered.ids
        if self._schema is None:
            kinds = set(map(type, as_list(ids[:1])))
            self._shape(answered.schema, integer_ids=kinds == {int})
        new = seen.new(ids, self._all_earlier)
        if new is None:
            return answered
        columns = [take(column, new) for column in answered.columns]
        return msgspec.structs.replace(answered, ids=take(ids, new), columns=columns)

    def _all_earlier(self) -> Iterator[Sequence[Any]]:
        """The ids written so far, those of the part at hand included: it ends here."""
        self._keep()
        return self._earlier()

    def _append(self, table: Any) -> None:
        if self._open is None:
            self._open = formats.writer(self._folder / "open", self._form, self._schema)
            self._opened_at = time.monotonic()
        self._open.write(table)

    def _keep(self) -> None:
        """Finish the part at hand, and put it into the manifest with the checkpoint behind it."""
        state, seen = self._begun()
        if self._open is not None:
            writer, self._open = self._open, None
            writer.close()
            name = f"part-{len(state.parts):05}"
            _sync(self._folder / "open")
            (self._folder / "open").replace(self._folder / name)
            state.parts = [*state.parts, name]
        if self._rejects is not None:
            manifest.synced(self._rejects)
            state.rejects = self._rejects.tell()
        state.checkpoint = Checkpoint(self._position, msgspec.structs.replace(self._counts))
        state.last, state.ascending = seen.last, seen.ascending
        manifest.save(self._folder, state)
        self._opened_at = 0.0

    def pause(self) -> None:
        with self._translated():
            self._keep()

    # Finishing

    def finish(self) -> None:
        state, _ = self._begun()
        with self._translated():
            self._keep()
            parts = self._parts()
            if not state.base and not parts and self._schema is None:
                self._shape(Schema((Field(VALUE, "", "float"),)), integer_ids=False)
            if parts or not state.base:
                whole = self._whole(state, parts)
                state.finished = manifest.identity_of(whole)
                manifest.save(self._folder, state)
                whole.replace(self._path)
                manifest.sync_folder(self._path.parent)
            self._hand_over_rejects(state)
            self._clear()

    def _whole(self, state: Manifest, parts: Sequence[Any]) -> Any:
        """One file of all there is, on the disk."""
        if len(parts) == 1 and not state.base:
            return parts[0]
        whole = self._folder / "whole"
        if self._schema is None:  # this run had nothing left to write
            self._schema = formats.schema_of(parts[0], self._form)
        if parts:
            formats.join([self._path, *parts] if state.base else parts, whole, self._form, self._schema)
        else:
            formats.writer(whole, self._form, self._schema).close()
        _sync(whole)
        return whole

    def _hand_over_rejects(self, state: Manifest) -> None:
        """The rejects of this run take the place of an earlier one's."""
        if self._rejects is not None:
            self._rejects.close()
            self._rejects = None
        written = self._folder / "rejects.jsonl"
        if state.rejects and written.exists():
            written.replace(self._rejects_path)
        else:
            self._rejects_path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._open is not None:
            writer, self._open = self._open, None
            with suppress(*self._errors):  # it is not in the manifest: nothing of it counts
                writer.close()
        if self._rejects is not None:
            self._rejects.close()
        if self._seen is not None:
            self._seen.close()
        self._lock.close()
        if manifest.load(self._folder) is None:  # nothing is left to go on with
            shutil.rmtree(self._folder, ignore_errors=True)

    def _parts(self) -> list[Any]:
        state, _ = self._begun()
        return [self._folder / name for name in state.parts]

    def _begun(self) -> tuple[Manifest, Seen]:
        if self._state is None or self._seen is None:
            raise RuntimeError("begin() comes first")
        return self._state, self._seen

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._errors as exc:
            why = getattr(exc, "strerror", None) or str(exc).partition("\n")[0]
            advice = ""
            if getattr(exc, "errno", None) in _NO_SPACE or "No space left" in str(exc):
                advice = (
                    "; the file is as it was: make room, and the next run goes on from the last checkpoint"
                )
            raise TargetError(f"{self._path}: cannot be written: {why}{advice}") from exc


def _sync(path: Any) -> None:
    with path.open("rb+") as stream:
        manifest.synced(stream)
