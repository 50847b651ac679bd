"""Writing to a table: a chunk's predictions, its rejected rows and the checkpoint in one transaction."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa

from eventml.deploy.batch.chunks import (
    Checkpoint,
    RowCounts,
    RunIdentity,
    ScoredChunk,
    Target,
    as_list,
    is_storable,
)
from eventml.deploy.batch.locations import SqlLocation
from eventml.deploy.batch.output_columns import OutputSchema, Values
from eventml.deploy.batch.sql_tables import (
    check_names,
    checkpoints_table,
    insert_new_rows,
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
        self._text_ids = False
        self._has_predictions = False  # of this predictor and model version, when the run began
        self._connection: sa.Connection | None = None
        self._target = str(location)
        self.rejects = f"{location}_rejects"

    def begin(self, run: RunIdentity, schema: OutputSchema | None) -> Checkpoint:
        """Create the tables of rejects and checkpoints, and return the checkpoint to resume at."""
        self._run = run
        self._key = hashlib.sha256(msgspec.json.encode([run, self._target])).hexdigest()
        check_names(
            self._location, self._engine.dialect, [self._rejects.name, *(c.name for c in schema or ())]
        )
        with self._transaction() as connection:
            self._metadata.create_all(connection, [self._rejects, self._checkpoints])
            self._checkpoint = self._read_checkpoint(connection)
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
        """Return those of the ids whose prediction was in the table when the run began, or is now."""
        table = self._table
        if not self._has_predictions or table is None:
            return set()
        present = list(filter(is_storable, as_list(ids)))
        stored = list(map(str, present)) if self._text_ids else present
        found: set[Any] = set()
        with self._transaction() as connection:
            for start in range(0, len(stored), _IDS_IN_QUERY):
                among = table.c.id.in_(stored[start : start + _IDS_IN_QUERY])
                found |= set(connection.scalars(sa.select(table.c.id).where(self._of_this_run(table), among)))
        return {one for one, as_stored in zip(present, stored, strict=True) if as_stored in found}

    def write(self, chunk: ScoredChunk) -> RowCounts:
        with self._transaction() as connection:
            new = self._insert_predictions(connection, chunk)
            self._insert_rejects(connection, chunk)
            checkpoint = Checkpoint(chunk.position, self._checkpoint.counts.plus(chunk, written=new))
            self._write_checkpoint(connection, checkpoint)
        self._checkpoint = checkpoint
        return checkpoint.counts

    def _insert_predictions(self, connection: sa.Connection, chunk: ScoredChunk) -> int:
        if chunk.schema is None or not len(chunk.ids):
            return 0
        ids = as_list(chunk.ids)
        table = self._table
        if table is None:
            integers = all(type(one) is int for one in ids)
            table = self._open_table(connection, chunk.schema, integer_ids=integers)
        run, suffix = self._run, self._run.id_suffix
        outputs = zip(chunk.schema, map(as_list, chunk.columns), strict=True)
        columns: dict[str, Any] = {
            **{c.name: _replace_nulls(values) if c.kind == "text" else values for c, values in outputs},
            "id": list(map(str, ids)) if self._text_ids else ids,
            "prediction_id": [f"{one}/{suffix}" for one in ids],
            "predictor": repeat(run.predictor, len(ids)),
            "model": repeat(run.model, len(ids)),
            "model_version": repeat(run.model_version, len(ids)),
        }
        return insert_new_rows(connection, table, columns)

    def _insert_rejects(self, connection: sa.Connection, chunk: ScoredChunk) -> None:
        rows = {row.id: row for row in chunk.rejected}.values()
        if not rows:
            return
        columns: dict[str, Any] = {
            name: _replace_nulls([getattr(row, name) for row in rows])
            for name in ("id", "exception", "message", "row")
        }
        columns |= {
            "attempts": [row.attempts for row in rows],
            "predictor": repeat(self._run.predictor, len(rows)),
            "model_version": repeat(self._run.model_version, len(rows)),
            "run": repeat(self._key, len(rows)),
        }
        insert_new_rows(connection, self._rejects, columns)

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

    def _open_table(self, connection: sa.Connection, schema: OutputSchema, *, integer_ids: bool) -> sa.Table:
        """The table of predictions, checked if it exists, else created with such ids."""
        table = predictions_table(
            self._metadata, self._name, self._schema_name, schema, integer_ids=integer_ids
        )
        check_names(self._location, connection.dialect, table.columns.keys())
        found = reflect_predictions(connection, table, self._location)
        if found is not None:
            self._text_ids = not isinstance(found.c.id.type, sa.Integer)
            row = sa.select(sa.literal(1)).where(self._of_this_run(table)).limit(1)
            self._has_predictions = connection.scalar(row) is not None
        else:
            table.create(connection)
            self._text_ids = not integer_ids
        self._table = table
        return table

    def _of_this_run(self, table: sa.Table) -> sa.ColumnElement[bool]:
        run = self._run
        return (table.c.predictor == run.predictor) & (table.c.model_version == run.model_version)

    def _read_checkpoint(self, connection: sa.Connection) -> Checkpoint:
        """The checkpoint of an unfinished run of this identity, else a new one."""
        table = self._checkpoints
        # A finished run has the position null.
        unfinished = (table.c.run == self._key) & (table.c.position != "null")
        row = connection.execute(sa.select(table.c.position, table.c.counts).where(unfinished)).first()
        if row is None:
            return Checkpoint()
        counts = msgspec.json.decode(row.counts, type=RowCounts, strict=False)
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


def _replace_nulls(values: list[Any]) -> list[Any]:
    """Replace null characters in texts, which PostgreSQL cannot hold and SQLite's tools cut off."""
    return [one.replace("\x00", "\\u0000") if isinstance(one, str) else one for one in values]
