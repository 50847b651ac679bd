"""Writing to a table: a chunk's predictions, its rejected rows and the checkpoint in one transaction."""

from __future__ import annotations

import hashlib
import time
from itertools import repeat
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from eventml.deploy.batch.chunks import (
    Checkpoint,
    RowCounts,
    RunIdentity,
    ScoredChunk,
    Values,
    as_json,
    as_list,
    as_text,
)
from eventml.deploy.batch.locations import SqlLocation
from eventml.deploy.batch.schema import OutputSchema
from eventml.deploy.batch.sql import (
    check_existing,
    checkpoints_table,
    has_integer_ids,
    insert_new_rows,
    open_engine,
    predictions_table,
    rejects_table,
    split_table_name,
    translate_errors,
)
from eventml.deploy.workers import utc_timestamp
from eventml.errors import TargetError

_IDS_IN_QUERY: Final = 500
_CANNOT: Final = "cannot be written"


class SqlTarget:
    """Writes to a table with the unique key (id, predictor, model version), which is created if missing.

    Beside it are the tables `<table>_rejects` and `eventml_score`, which holds the checkpoints.

    Args:
        location: The table.

    Attributes:
        rejects: The table of the rejected rows, without passwords.

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
        self._reader: sa.Engine | None = None
        self.rejects = f"{location}_rejects"

    def begin(self, run: RunIdentity, schema: OutputSchema | None) -> Checkpoint:
        """Create the tables of rejects and checkpoints, and return the checkpoint to resume at.

        Raises:
            TargetError: The database cannot be written, or the table is none of predictions.
        """
        self._run = run
        self._key = hashlib.sha256(msgspec.json.encode([run, str(self._location)])).hexdigest()
        with translate_errors(self._location, TargetError, _CANNOT), self._engine.connect() as connection:
            with connection.begin():
                self._metadata.create_all(connection, [self._rejects, self._checkpoints])
                self._checkpoint = self._read_checkpoint(connection) or self._new_checkpoint(connection)
            self._connection = self._engine.connect()
            if schema is not None:
                with self._connection.begin():
                    if sa.inspect(self._connection).has_table(self._name, self._schema_name):
                        self._open_table(self._connection, schema, integer_ids=False)
        return self._checkpoint

    def known(self, ids: Values) -> set[Any]:
        """Return those of the ids whose prediction was in the table when the run began, or is now."""
        table = self._table
        if not self._has_predictions or table is None:
            return set()
        present = [one for one in as_list(ids) if one is not None]
        stored = as_text(present) if self._text_ids else present
        found: set[Any] = set()
        # A connection of its own: `write` uses the other one in another thread.
        if self._reader is None:
            self._reader = open_engine(self._location, read_only=True)
        of_this_run = self._of_this_run(table)
        with (
            translate_errors(self._location, TargetError, "cannot be read"),
            self._reader.connect() as db,
        ):
            for start in range(0, len(stored), _IDS_IN_QUERY):
                some = list(stored[start : start + _IDS_IN_QUERY])
                found |= set(db.scalars(sa.select(table.c.id).where(of_this_run, table.c.id.in_(some))))
        return {one for one, as_stored in zip(present, stored, strict=True) if as_stored in found}

    def write(self, chunk: ScoredChunk) -> RowCounts:
        """Write a chunk and the checkpoint in one transaction, and return the counts so far.

        Raises:
            TargetError: Nothing of the chunk was written.
        """
        with translate_errors(self._location, TargetError, _CANNOT), self._connection.begin():
            new = self._insert_predictions(self._connection, chunk)
            self._insert_rejects(self._connection, chunk)
            checkpoint = Checkpoint(chunk.position, self._checkpoint.counts.plus(chunk, written=new))
            self._write_checkpoint(self._connection, checkpoint, "running")
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
        outputs = {
            column.name: as_json(as_list(values)) if column.kind == "json" else as_list(values)
            for column, values in zip(chunk.schema.columns, chunk.columns, strict=True)
        }
        columns: dict[str, Any] = {
            **outputs,
            "id": as_text(ids) if self._text_ids else ids,
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
        texts = {
            name: [_without_null(getattr(row, name)) for row in rows]
            for name in ("id", "exception", "message", "row")
        }
        columns: dict[str, Any] = {
            **texts,
            "attempts": [row.attempts for row in rows],
            "predictor": repeat(self._run.predictor, len(rows)),
            "model_version": repeat(self._run.model_version, len(rows)),
            "run": repeat(self._key, len(rows)),
        }
        insert_new_rows(connection, self._rejects, columns)

    def pause(self) -> None:
        """Do nothing: each chunk is stored with its checkpoint."""

    def finish(self) -> RowCounts:
        """Mark the run as finished, and return its counts."""
        checkpoint = Checkpoint(None, self._checkpoint.counts)
        with translate_errors(self._location, TargetError, _CANNOT), self._connection.begin():
            self._write_checkpoint(self._connection, checkpoint, "finished")
        return checkpoint.counts

    def close(self) -> None:
        """Close the connections."""
        if hasattr(self, "_connection"):
            self._connection.close()
        self._engine.dispose()
        if self._reader is not None:
            self._reader.dispose()

    def _open_table(self, connection: sa.Connection, schema: OutputSchema, *, integer_ids: bool) -> sa.Table:
        """The table of predictions, checked if it exists, else created with such ids."""
        table = predictions_table(
            self._metadata, self._name, self._schema_name, schema, integer_ids=integer_ids
        )
        if check_existing(connection, table, self._location):
            self._text_ids = not has_integer_ids(connection, table)
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

    def _read_checkpoint(self, connection: sa.Connection) -> Checkpoint | None:
        table = self._checkpoints
        row = connection.execute(
            sa.select(table.c.state, table.c.position, table.c.counts).where(table.c.run == self._key)
        ).first()
        if row is None or row.state != "running":
            return None
        counts = msgspec.json.decode(row.counts, type=RowCounts, strict=False)
        return Checkpoint(msgspec.json.decode(row.position), counts)

    def _new_checkpoint(self, connection: sa.Connection) -> Checkpoint:
        connection.execute(self._rejects.delete().where(self._rejects.c.run == self._key))
        checkpoint = Checkpoint()
        self._write_checkpoint(connection, checkpoint, "running")
        return checkpoint

    def _write_checkpoint(self, connection: sa.Connection, checkpoint: Checkpoint, state: str) -> None:
        table, run = self._checkpoints, self._run
        values = {
            "target": str(self._location),
            "predictor": run.predictor,
            "model_version": run.model_version,
            "source": run.source,
            "state": state,
            "position": msgspec.json.encode(checkpoint.position).decode(),
            "counts": msgspec.json.encode(checkpoint.counts).decode(),
            "updated": utc_timestamp(time.time()),
        }
        of_run = table.c.run == self._key
        if connection.execute(table.update().where(of_run).values(values)).rowcount == 0:
            connection.execute(table.insert().values(run=self._key, **values))


def _without_null(text: str) -> str:
    """Escape null characters, which PostgreSQL's text cannot hold."""
    return text.replace("\x00", "\\u0000")
