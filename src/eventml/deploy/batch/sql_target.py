"""Writing to a table: a chunk's predictions, its rejected rows and the checkpoint in one transaction."""

from __future__ import annotations

import hashlib
import math
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa

from eventml.deploy.batch.chunks import (
    Checkpoint,
    RowCounts,
    RunIdentity,
    ScoredChunk,
    Target,
    bisect_rows,
    is_storable,
    to_integer,
)
from eventml.deploy.batch.locations import SqlLocation
from eventml.deploy.batch.output_columns import OutputSchema, Values, as_list
from eventml.deploy.batch.sql_rows import Columns, has_id, write_rows
from eventml.deploy.batch.sql_tables import (
    KEY,
    InvalidRowError,
    check_names,
    checkpoints_table,
    open_engine,
    predictions_table,
    reflect_predictions,
    rejects_table,
    split_table_name,
    translate_errors,
)
from eventml.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator

_IDS_IN_QUERY: Final = 500
_MAX_REJECT_ID: Final = 600  # characters: PostgreSQL's index holds 2.7 kB


class SqlTarget(Target):
    """Writes to a table with the unique key (id, predictor, model version), which is created if missing.

    Beside it are the tables `<table>_rejects` and `eventml_score`, which holds the checkpoints.

    Raises:
        ConfigError: The URL cannot be used.
    """

    def __init__(self, location: SqlLocation) -> None:
        self._location = location
        self._engine = open_engine(location, read_only=False)
        self._name, self._schema_name = split_table_name(location, self._engine.dialect.name)
        self._metadata = sa.MetaData()
        self._rejects = rejects_table(self._metadata, self._name, self._schema_name)
        self._checkpoints = checkpoints_table(self._metadata, self._schema_name)
        self._table: sa.Table | None = None
        self._has_predictions = False  # of this predictor and model version, when the run began
        self._connection: sa.Connection | None = None
        self._target = str(location)
        self.rejects = f"{location}_rejects"

    def begin(
        self, run: RunIdentity, schema: OutputSchema | None, since: float = 0, max_rejects: float = math.inf
    ) -> Checkpoint:
        """Create the tables of rejects and checkpoints, and return the checkpoint to resume at."""
        self._run = run
        self._key = hashlib.sha256(msgspec.json.encode([run, self._target])).hexdigest()
        check_names(
            self._location, self._engine.dialect, [self._rejects.name, *(c.name for c in schema or ())]
        )
        with self._transaction() as connection:
            _lock_creation(connection)
            self._metadata.create_all(connection, [self._rejects, self._checkpoints])
            self._checkpoint = self._read_checkpoint(connection, since, max_rejects)
            if self._checkpoint.position is None:
                connection.execute(self._rejects.delete().where(self._rejects.c.run == self._key))
                self._write_checkpoint(connection, self._checkpoint)
        # In a transaction of its own: a table that cannot be used leaves the two others as they are.
        with self._transaction() as connection:
            if schema is not None and sa.inspect(connection).has_table(self._name, self._schema_name):
                self._open_table(connection, schema, integer_ids=False)
        return self._checkpoint

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        """A transaction on the target's one connection, whose errors are translated."""
        with translate_errors(self._location, TargetError):
            if self._connection is None:
                self._connection = self._engine.connect()
            with self._connection.begin():
                yield self._connection

    def known(self, ids: Values) -> set[Any]:
        """For a run of new rows: those of the ids whose prediction was there when it began, or is now."""
        if not self._run.only_new:
            return set()
        present = list(filter(is_storable, as_list(ids)))
        found: set[str] = set()
        for table, earlier in self._earlier(present):
            # An id that cannot be in the table: the rows are scored, and inserted if they are new.
            with suppress(InvalidRowError), self._transaction() as connection:
                found |= set(map(str, connection.scalars(sa.select(table.c.id).where(earlier))))
        return {one for one in present if str(one) in found}

    def _earlier(self, ids: list[Any]) -> Iterator[tuple[sa.Table, sa.ColumnElement[bool]]]:
        """The table, and conditions for its predictions of some ids, if it had any before the run."""
        table = self._table
        if table is None or not self._has_predictions:
            return
        if isinstance(table.c.id.type, sa.Integer):  # a database might take 007 for 7
            ids = list(filter(_is_integer, ids))
        for start in range(0, len(ids), _IDS_IN_QUERY):
            among = has_id(table, self._engine.dialect.name, ids[start : start + _IDS_IN_QUERY])
            yield table, self._of_this_run(table) & among

    def write(self, chunk: ScoredChunk) -> RowCounts:
        if self._table is None and chunk.schema is not None and len(chunk.ids):
            integers = all(type(one) is int for one in as_list(chunk.ids))
            with self._transaction() as connection:
                self._open_table(connection, chunk.schema, integer_ids=integers)
        try:
            with self._transaction() as connection:
                counts = self._write(connection, chunk, 0, len(chunk.ids))
                checkpoint = self._store(connection, chunk, *counts)
        except InvalidRowError:
            if self._engine.dialect.name == "duckdb":  # which has no savepoints
                raise
            checkpoint = self._write_valid_rows(chunk)
        self._checkpoint = checkpoint
        return checkpoint.counts

    def _write_valid_rows(self, chunk: ScoredChunk) -> Checkpoint:
        """Write as `write` does, with savepoints, and reject the rows that the table cannot hold."""
        with self._transaction() as connection:
            if connection.dialect.name == "postgresql":
                # Each savepoint has to find its own errors: none may be left for the commit.
                connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")

            def write(start: int, stop: int) -> tuple[int, int]:
                with translate_errors(self._location, TargetError), connection.begin_nested():
                    return self._write(connection, chunk, start, stop)

            written, errors = bisect_rows(len(chunk.ids), write, InvalidRowError)
            chunk.reject(errors, TargetError.__name__)
            return self._store(connection, chunk, *map(sum, zip((0, 0), *written, strict=True)))

    def _store(self, connection: sa.Connection, chunk: ScoredChunk, new: int, changed: int) -> Checkpoint:
        for table, earlier in () if self._run.only_new else self._earlier(as_list(chunk.no_output)):
            savepoints = connection.dialect.name != "duckdb"
            nested = connection.begin_nested() if savepoints else nullcontext()
            refused = suppress(InvalidRowError) if savepoints else nullcontext()  # as in `known`
            with refused, translate_errors(self._location, TargetError), nested:
                connection.execute(sa.delete(table).where(earlier))
        self._insert_rejects(connection, chunk)
        checkpoint = Checkpoint(chunk.position, self._checkpoint.counts.plus(chunk, new=new, changed=changed))
        self._write_checkpoint(connection, checkpoint)
        return checkpoint

    def _write(self, connection: sa.Connection, chunk: ScoredChunk, start: int, stop: int) -> tuple[int, int]:
        """Write the predictions of some of the chunk's ids; return how many are new, and how many changed."""
        ids = as_list(chunk.ids[start:stop])
        table = self._table
        if chunk.schema is None or table is None or not ids:
            return 0, 0
        run, suffix = self._run, self._run.id_suffix
        outputs = zip(chunk.schema, (as_list(column[start:stop]) for column in chunk.columns), strict=True)
        columns: Columns = {
            **{
                c.name: (c.kind, _replace_nulls(values) if c.kind == "text" else values)
                for c, values in outputs
            },
            "id": ("int" if type(ids[0]) is int else "text", ids),
            "prediction_id": ("text", [f"{one}/{suffix}" for one in ids]),
            "predictor": ("text", [run.predictor] * len(ids)),
            "model": ("text", [run.model] * len(ids)),
            "model_version": ("text", [run.model_version] * len(ids)),
        }
        return write_rows(connection, table, KEY, columns, replace=not run.only_new)

    def _insert_rejects(self, connection: sa.Connection, chunk: ScoredChunk) -> None:
        rows = {row.id: row for row in chunk.rejected}.values()
        if not rows:
            return
        columns: Columns = {
            **{
                name: ("text", _replace_nulls([getattr(row, name) for row in rows]))
                for name in ("exception", "message", "row")
            },
            "id": ("text", _replace_nulls([row.id[:_MAX_REJECT_ID] for row in rows])),
            "attempts": ("int", [row.attempts for row in rows]),
            "predictor": ("text", [self._run.predictor] * len(rows)),
            "model_version": ("text", [self._run.model_version] * len(rows)),
            "run": ("text", [self._key] * len(rows)),
        }
        write_rows(connection, self._rejects, ("run", "id"), columns, replace=False)

    def pause(self) -> None:
        pass  # each chunk is stored with its checkpoint

    def finish(self) -> None:
        """Mark the run as finished: the next one begins anew."""
        with self._transaction() as connection:
            self._write_checkpoint(connection, Checkpoint(None, self._checkpoint.counts))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._engine.dispose()

    def _open_table(self, connection: sa.Connection, schema: OutputSchema, *, integer_ids: bool) -> None:
        """Check the table of predictions if it exists, else create it with such ids."""
        _lock_creation(connection)
        table = predictions_table(
            self._metadata, self._name, self._schema_name, schema, integer_ids=integer_ids
        )
        check_names(self._location, connection.dialect, table.columns.keys())
        found = reflect_predictions(connection, table, self._location)
        if found is not None:
            row = sa.select(sa.literal(1)).where(self._of_this_run(found)).limit(1)
            self._has_predictions = connection.scalar(row) is not None
        else:
            table.create(connection)
        self._table = table if found is None else found

    def _of_this_run(self, table: sa.Table) -> sa.ColumnElement[bool]:
        run = self._run
        return (table.c.predictor == run.predictor) & (table.c.model_version == run.model_version)

    def _read_checkpoint(self, connection: sa.Connection, since: float, max_rejects: float) -> Checkpoint:
        """The checkpoint that an unfinished run of this identity saved, as for `begin`, else a new one."""
        table = self._checkpoints
        # A finished run has the position null.
        unfinished = (table.c.run == self._key) & (table.c.position != "null")
        unfinished &= table.c.updated >= datetime.fromtimestamp(since, UTC).isoformat(timespec="seconds")
        row = connection.execute(sa.select(table.c.position, table.c.counts).where(unfinished)).first()
        if row is None:
            return Checkpoint()
        counts = msgspec.json.decode(row.counts, type=RowCounts, strict=False)
        if counts.rejected > max_rejects:
            return Checkpoint()
        return Checkpoint(msgspec.json.decode(row.position), counts)

    def _write_checkpoint(self, connection: sa.Connection, checkpoint: Checkpoint) -> None:
        table, run = self._checkpoints, self._run
        values = {
            "target": self._target,
            "predictor": run.predictor,
            "model_version": run.model_version,
            "source": run.source,
            "position": msgspec.json.encode(checkpoint.position).decode(),
            "counts": msgspec.json.encode(checkpoint.counts).decode(),
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        of_run = table.c.run == self._key
        if connection.execute(table.update().where(of_run).values(values)).rowcount == 0:
            connection.execute(table.insert().values(run=self._key, **values))


def _is_integer(row_id: int | str) -> bool:
    try:
        return is_storable(to_integer(row_id))
    except ValueError:
        return False


def _lock_creation(connection: sa.Connection) -> None:
    """Let other runs wait until this transaction ends before they create tables, or write a first checkpoint.

    PostgreSQL looks for a table before another run's is committed, and fails to create it then. SQLite has a
    lock for the whole file.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('eventml_score'))")


def _replace_nulls(values: list[Any]) -> list[Any]:
    """Replace null characters in texts, which PostgreSQL cannot hold and SQLite's tools cut off."""
    return [one.replace("\x00", "\\u0000") if isinstance(one, str) else one for one in values]
