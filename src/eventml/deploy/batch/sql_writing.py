"""Writing to a table: a chunk's predictions, its rejects and the checkpoint in one transaction."""

from __future__ import annotations

import hashlib
import time
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml.deploy.batch.chunks import Answered, Checkpoint, Counts, Run
from eventml.deploy.batch.columns import as_list, json_texts, texts
from eventml.deploy.batch.databases import engine_of, translated
from eventml.deploy.batch.inserting import inserting
from eventml.deploy.batch.sql_reading import split_name
from eventml.deploy.batch.sql_tables import (
    check_existing,
    checkpoints,
    ids_are_integers,
    predictions,
    rejects,
)
from eventml.deploy.workers import utc_timestamp
from eventml.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Engine, Table

    from eventml.deploy.batch.chunks import Column
    from eventml.deploy.batch.places import SqlPlace
    from eventml.deploy.batch.schema import Schema

_ASKED: Final = 500  # ids in one question
_CANNOT: Final = "cannot be written"


class SqlTarget:
    """A table with the unique key (id, predictor, model version), created where there is none.

    Beside it are `<table>_rejects` and `eventml_score`, the checkpoints.

    Args:
        place: The table.

    Raises:
        ConfigError: the URL cannot be used.
    """

    def __init__(self, place: SqlPlace) -> None:
        import sqlalchemy as sa  # noqa: PLC0415 - it comes with an extra

        self._place = place
        self._engine = engine_of(place, read_only=False)
        self._dialect = self._engine.dialect.name
        self._name, self._schema_name = split_name(place, self._dialect)
        self._metadata = sa.MetaData()
        self._rejects = rejects(self._metadata, self._name, self._schema_name)
        self._checkpoints = checkpoints(self._metadata, self._schema_name)
        self._table: Table | None = None
        self._may_know = False
        self._reader: Engine | None = None
        self.rejects = f"{place}_rejects"

    def begin(self, run: Run, schema: Schema | None) -> Checkpoint:
        self._run = run
        self._key = _digest(run, self._place)
        with translated(self._place, TargetError, _CANNOT), self._engine.connect() as connection:
            with connection.begin():
                self._metadata.create_all(connection, [self._rejects, self._checkpoints])
                self._checkpoint = self._read_checkpoint(connection) or self._begin_anew(connection)
            self._connection = self._engine.connect()
            if schema is not None and self._there(self._connection):
                self._open_table(self._connection, schema, integer_ids=False)
        return self._checkpoint

    def _there(self, connection: Connection) -> bool:
        import sqlalchemy as sa  # noqa: PLC0415 - it comes with an extra

        with connection.begin():
            return bool(sa.inspect(connection).has_table(self._name, self._schema_name))

    def known(self, ids: Column) -> set[Any]:
        table = self._table
        if not self._may_know or table is None:
            return set()
        import sqlalchemy as sa  # noqa: PLC0415 - it comes with an extra

        named = [one for one in as_list(ids) if one is not None]
        asked = self._stored(named)
        found: set[Any] = set()
        mine = (table.c.predictor == self._run.predictor) & (table.c.model_version == self._run.model_version)
        if self._reader is None:
            self._reader = engine_of(self._place, read_only=True)
        with translated(self._place, TargetError, "cannot be read"), self._reader.connect() as connection:
            for start in range(0, len(asked), _ASKED):
                some = list(asked[start : start + _ASKED])
                found |= set(connection.scalars(sa.select(table.c.id).where(mine, table.c.id.in_(some))))
        return {mine for mine, theirs in zip(named, asked, strict=True) if theirs in found}

    def write(self, answered: Answered) -> Counts:
        counts = msgspec.structs.replace(self._checkpoint.counts)
        checkpoint = Checkpoint(answered.after, counts)
        with translated(self._place, TargetError, _CANNOT), self._connection.begin():
            new = self._insert(self._connection, answered)
            self._insert_rejects(self._connection, answered)
            counts.read += answered.read
            counts.written += new
            counts.repeated += answered.repeated + len(answered.ids) - new
            counts.silent += answered.silent
            counts.rejected += len(answered.rejected)
            self._write_checkpoint(self._connection, checkpoint, "running")
        self._checkpoint = checkpoint
        return counts

    def _insert(self, connection: Connection, answered: Answered) -> int:
        if answered.schema is None or not len(answered.ids):
            return 0
        ids = as_list(answered.ids)
        table = self._table
        if table is None:
            integers = all(type(one) is int for one in ids)
            table = self._open_table(connection, answered.schema, integer_ids=integers)
        stored = self._stored(ids)
        run, suffix = self._run, self._run.suffix
        values = [
            json_texts(as_list(column)) if field.kind == "json" else as_list(column)
            for field, column in zip(answered.schema.fields, answered.columns, strict=True)
        ]
        columns = {
            "id": stored,
            **{field.name: column for field, column in zip(answered.schema.fields, values, strict=True)},
            "prediction_id": [f"{one}/{suffix}" for one in ids],
            "predictor": repeat(run.predictor, len(ids)),
            "model": repeat(run.model, len(ids)),
            "model_version": repeat(run.model_version, len(ids)),
        }
        return inserting(self._dialect)(connection, table, columns)

    def _insert_rejects(self, connection: Connection, answered: Answered) -> None:
        rows = {row.id: row for row in answered.rejected}.values()
        if not rows:
            return
        run = self._run
        columns = {
            **{
                name: [_storable(getattr(row, name)) for row in rows]
                for name in ("id", "exception", "message", "row")
            },
            "predictor": repeat(run.predictor, len(rows)),
            "model_version": repeat(run.model_version, len(rows)),
            "run": repeat(self._key, len(rows)),
            "attempts": [row.attempts for row in rows],
        }
        inserting(self._dialect)(connection, self._rejects, columns)

    def pause(self) -> None:
        """Every chunk has been kept already."""

    def finish(self) -> None:
        with translated(self._place, TargetError, _CANNOT), self._connection.begin():
            self._write_checkpoint(self._connection, Checkpoint(None, self._checkpoint.counts), "finished")

    def close(self) -> None:
        if hasattr(self, "_connection"):
            self._connection.close()
        self._engine.dispose()
        if self._reader is not None:
            self._reader.dispose()

    # The tables

    def _open_table(self, connection: Connection, schema: Schema, *, integer_ids: bool) -> Table:
        """The table of predictions, created if need be. In a transaction, or in one of its own."""
        table = predictions(self._metadata, self._name, self._schema_name, schema, integer_ids=integer_ids)
        if connection.in_transaction():
            self._create(connection, table, integer_ids=integer_ids)
        else:
            with connection.begin():
                self._create(connection, table, integer_ids=integer_ids)
        self._table = table
        return table

    def _create(self, connection: Connection, table: Table, *, integer_ids: bool) -> None:
        import sqlalchemy as sa  # noqa: PLC0415 - it comes with an extra

        if not check_existing(connection, table, self._place):
            table.create(connection)
            self._text_ids = not integer_ids
            return
        self._text_ids = not ids_are_integers(connection, table)
        mine = (table.c.predictor == self._run.predictor) & (table.c.model_version == self._run.model_version)
        self._may_know = connection.scalar(sa.select(sa.literal(1)).where(mine).limit(1)) is not None

    def _stored(self, ids: Sequence[Any]) -> Sequence[Any]:
        """The ids as their column has them."""
        return texts(ids) if self._text_ids else ids

    # The checkpoint

    def _read_checkpoint(self, connection: Connection) -> Checkpoint | None:
        import sqlalchemy as sa  # noqa: PLC0415 - it comes with an extra

        table = self._checkpoints
        row = connection.execute(
            sa.select(table.c.state, table.c.position, table.c.counts).where(table.c.run == self._key)
        ).first()
        if row is None or row.state != "running":
            return None
        return Checkpoint(
            msgspec.json.decode(row.position), msgspec.json.decode(row.counts, type=Counts, strict=False)
        )

    def _begin_anew(self, connection: Connection) -> Checkpoint:
        table = self._rejects
        connection.execute(table.delete().where(table.c.run == self._key))
        checkpoint = Checkpoint()
        self._write_checkpoint(connection, checkpoint, "running")
        return checkpoint

    def _write_checkpoint(self, connection: Connection, checkpoint: Checkpoint, state: str) -> None:
        table, run = self._checkpoints, self._run
        values = {
            "target": str(self._place),
            "predictor": run.predictor,
            "model_version": run.model_version,
            "source": run.source,
            "state": state,
            "position": msgspec.json.encode(checkpoint.position).decode(),
            "counts": msgspec.json.encode(checkpoint.counts).decode(),
            "updated": utc_timestamp(time.time()),
        }
        mine = table.c.run == self._key
        if connection.execute(table.update().where(mine).values(values)).rowcount == 0:
            connection.execute(table.insert().values(run=self._key, **values))


def _digest(run: Run, place: SqlPlace) -> str:
    return hashlib.sha256(msgspec.json.encode([run, str(place)])).hexdigest()


def _storable(text: str) -> str:
    """Text as PostgreSQL takes it: it has no null character."""
    return text.replace("\x00", "\\u0000")
