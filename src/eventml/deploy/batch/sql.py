"""Databases: opening them, translating their errors, the tables of a target, and inserting into them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from eventml.deploy.batch.locations import SqlLocation
from eventml.deploy.batch.schema import PREDICTION_COLUMNS, OutputSchema
from eventml.errors import ConfigError, JobError, SourceError, TargetError

LOCK_TIMEOUT: Final = 30.0
"""Seconds to wait for another process that has locked a SQLite file; `?timeout=` in the URL replaces it."""

KEY: Final = ("id", "predictor", "model_version")
"""The unique key of the predictions."""

CHECKPOINTS: Final = "eventml_score"
"""The table of checkpoints."""

_SQLITE_BATCH: Final = 32  # rows in one statement, which saves a third of the time


def open_engine(location: SqlLocation, *, read_only: bool) -> sa.Engine:
    """Return an engine for a location; it connects when it is used.

    Raises:
        ConfigError: The URL cannot be used.
        SourceError: The SQLite file to read from does not exist.
    """
    try:
        url = sa.make_url(location.url)
        if url.drivername in ("postgresql", "postgres"):  # SQLAlchemy's default is psycopg 2
            url = url.set(drivername="postgresql+psycopg")
        if url.get_backend_name() == "sqlite":
            return _open_sqlite(url, location, read_only=read_only)
        options: dict[str, Any] = {"hide_parameters": True, "poolclass": sa.pool.NullPool}
        if read_only and url.get_backend_name() == "postgresql":
            options["execution_options"] = {"postgresql_readonly": True}
        return sa.create_engine(url, **options)
    except (sa.exc.ArgumentError, ValueError) as exc:
        raise ConfigError(f"{location}: SQLAlchemy cannot read this URL") from exc
    except (sa.exc.NoSuchModuleError, ModuleNotFoundError) as exc:
        raise ConfigError(f"{location}: {exc}; install the database's driver") from exc


def _open_sqlite(url: sa.URL, location: SqlLocation, *, read_only: bool) -> sa.Engine:
    if not url.database or url.database == ":memory:" or "mode=memory" in str(url):
        raise ConfigError(f"{location}: a database in memory exists in one process only; name a file")
    path = Path(url.database)
    if read_only and not path.is_file():
        raise SourceError(f"{location}: no such file (looked for {path.absolute()})")
    if not read_only and not path.parent.is_dir():
        raise ConfigError(f"{location}: there is no folder {path.parent.absolute()}")
    timeout = float(str(url.query.get("timeout", LOCK_TIMEOUT)))
    name = f"file:{quote(str(path.absolute()))}?mode={'ro' if read_only else 'rwc'}"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(name, uri=True, timeout=timeout, check_same_thread=False)

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.pool.NullPool, hide_parameters=True)
    if not read_only:
        # By itself the driver begins a transaction too late: DDL and reads stay outside it.
        sa.event.listen(engine, "connect", _disable_implicit_transactions)
        sa.event.listen(engine, "begin", _begin_immediate)
    return engine


def _disable_implicit_transactions(connection: Any, _record: object) -> None:
    connection.isolation_level = None


def _begin_immediate(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def translate_errors(location: SqlLocation, error: type[JobError], problem: str) -> Iterator[None]:
    """Raise `error` in place of what the database raises. Its text holds no values and no password.

    Args:
        location: The location to name in the message.
        error: The exception to raise.
        problem: What failed, such as "cannot be read".
    """
    known: tuple[type[Exception], ...] = (sa.exc.SQLAlchemyError, sqlite3.Error, OSError, OverflowError)
    try:
        yield
    except Exception as exc:
        if not (isinstance(exc, known) or _is_driver_error(exc)):
            raise
        original = getattr(exc, "orig", None) or exc
        reason = str(original).strip().partition("\n")[0] or type(original).__name__
        raise error(f"{location}: {problem}: {reason}{_advice(exc)}") from exc


def _is_driver_error(error: Exception) -> bool:
    """Whether it is a driver's own exception (DB-API 2.0's `Error`), as a plain cursor raises it."""
    return any(kind.__name__ == "Error" and kind.__module__ != "builtins" for kind in type(error).__mro__)


def _advice(error: Exception) -> str:
    text = str(error).lower()
    if "locked" in text:
        return (
            f". Another process holds the database, for longer than {LOCK_TIMEOUT:g} s (?timeout=SECONDS in "
            "the URL); the next run goes on from the last checkpoint"
        )
    if "full" in text or "no space" in text:
        return ". Nothing of this chunk was written; make room, and the next run goes on from there"
    return ""


def split_table_name(location: SqlLocation, dialect: str) -> tuple[str, str | None]:
    """Return a table's name and its schema. SQLite has no schemas, so a dot is part of the name there."""
    schema, dot, table = location.table.partition(".")
    return (table, schema) if dot and dialect != "sqlite" else (location.table, None)


def predictions_table(
    metadata: sa.MetaData, name: str, schema_name: str | None, schema: OutputSchema, *, integer_ids: bool
) -> sa.Table:
    """Return the table of predictions: one row for each id, predictor and model version."""
    kinds: dict[str, Any] = {"int": sa.BigInteger, "float": sa.Double, "bool": sa.Boolean}
    return sa.Table(
        sa.quoted_name(name, quote=True),
        metadata,
        _column("id", sa.BigInteger if integer_ids else sa.Text, required=True),
        *(_column(column.name, kinds.get(column.kind, sa.Text)) for column in schema.columns),
        *(_column(common, sa.Text, required=True) for common in PREDICTION_COLUMNS[1:]),
        sa.PrimaryKeyConstraint(*KEY),
        schema=schema_name,
        sqlite_with_rowid=False,
    )


def rejects_table(metadata: sa.MetaData, name: str, schema_name: str | None) -> sa.Table:
    """Return the table of the rejected rows, by the run that rejected them."""
    names = ("id", "predictor", "model_version", "exception", "message", "row", "run")
    return sa.Table(
        sa.quoted_name(f"{name}_rejects", quote=True),
        metadata,
        *(_column(column, sa.Text, required=True) for column in names),
        _column("attempts", sa.Integer),
        sa.PrimaryKeyConstraint("run", "id"),
        schema=schema_name,
    )


def checkpoints_table(metadata: sa.MetaData, schema_name: str | None) -> sa.Table:
    """Return the table of the runs' checkpoints. That of a finished run has no position."""
    names = ("target", "predictor", "model_version", "source", "state", "position", "counts", "updated")
    return sa.Table(
        CHECKPOINTS,
        metadata,
        _column("run", sa.String(64), required=True),
        *(_column(column, sa.Text) for column in names),
        sa.PrimaryKeyConstraint("run"),
        schema=schema_name,
    )


def _column(name: str, kind: Any, *, required: bool = False) -> sa.Column[Any]:
    return sa.Column(sa.quoted_name(name, quote=True), kind, nullable=not required, autoincrement=False)


def check_existing(connection: sa.Connection, table: sa.Table, location: SqlLocation) -> bool:
    """Return whether the table of predictions exists.

    Raises:
        TargetError: The table lacks columns of predictions, or a unique key over `KEY`.
    """
    inspector = sa.inspect(connection)
    if not inspector.has_table(table.name, table.schema):
        return False
    found = {column["name"] for column in inspector.get_columns(table.name, table.schema)}
    missing = [column.name for column in table.columns if column.name not in found]
    if missing:
        raise TargetError(
            f"{location}: the table exists and has no column {', '.join(map(repr, missing))}; it has: "
            f"{', '.join(sorted(found))}. Add them, or name a table that does not exist: it will be created"
        )
    keys: list[Any] = [inspector.get_pk_constraint(table.name, table.schema)["constrained_columns"]]
    keys += [unique["column_names"] for unique in inspector.get_unique_constraints(table.name, table.schema)]
    keys += [
        index["column_names"] for index in inspector.get_indexes(table.name, table.schema) if index["unique"]
    ]
    if set(KEY) not in [set(key) for key in keys]:
        raise TargetError(
            f"{location}: the table has no unique key over {', '.join(KEY)}: a row could be written twice. "
            "Add one, or name a table that does not exist: it will be created"
        )
    return True


def has_integer_ids(connection: sa.Connection, table: sa.Table) -> bool:
    """Return whether the ids of an existing table are integers."""
    columns = sa.inspect(connection).get_columns(table.name, table.schema)
    return any(isinstance(column["type"], sa.Integer) for column in columns if column["name"] == "id")


Columns: TypeAlias = Mapping[str, Iterable[Any]]


def insert_new_rows(connection: sa.Connection, table: sa.Table, columns: Columns) -> int:
    """Insert the rows whose key is not in the table, in the current transaction, and return how many.

    Args:
        connection: The connection, in a transaction.
        table: The table.
        columns: The values of each of its columns.
    """
    columns = {column.name: columns[column.name] for column in table.columns}
    insert: Callable[[sa.Connection, sa.Table, Columns], int] = {
        "sqlite": _insert_sqlite,
        "postgresql": _insert_postgresql,
    }.get(connection.dialect.name, _insert_portable)
    return insert(connection, table, columns)


def _insert_sqlite(connection: sa.Connection, table: sa.Table, columns: Columns) -> int:
    rows = list(zip(*columns.values(), strict=True))
    whole = len(rows) - len(rows) % _SQLITE_BATCH
    driver: Any = connection.connection.driver_connection
    before = driver.total_changes
    if whole:
        batches = range(0, whole, _SQLITE_BATCH)
        flat = [tuple(chain.from_iterable(rows[start : start + _SQLITE_BATCH])) for start in batches]
        connection.exec_driver_sql(_sqlite_statement(table, tuple(columns), _SQLITE_BATCH), flat)
    if len(rows) > whole:
        connection.exec_driver_sql(_sqlite_statement(table, tuple(columns), 1), rows[whole:])
    return int(driver.total_changes - before)


@cache
def _sqlite_statement(table: sa.Table, names: tuple[str, ...], rows: int) -> str:
    values = [dict.fromkeys(names)] * rows
    return str(sqlite.insert(table).values(values).on_conflict_do_nothing().compile(dialect=sqlite.dialect()))


def _insert_postgresql(connection: sa.Connection, table: sa.Table, columns: Columns) -> int:
    """Insert by one statement whose parameters are whole columns."""
    arrays = [
        sa.func.unnest(sa.bindparam(f"c{number}", list(values), type_=postgresql.ARRAY(table.c[name].type)))
        for number, (name, values) in enumerate(columns.items())
    ]
    insert = postgresql.insert(table).from_select(list(columns), sa.select(*arrays))
    statement = insert.on_conflict_do_nothing()
    return connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount


def _insert_portable(connection: sa.Connection, table: sa.Table, columns: Columns) -> int:
    """Read which keys are there, and insert the others; the unique key refuses what another run inserts."""
    keys = [column.name for column in table.primary_key]
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    new = {tuple(row[key] for key in keys): row for row in reversed(rows)}
    existing = sa.select(*(table.c[key] for key in keys)).where(
        table.c.id.in_({row["id"] for row in rows}),
        *(table.c[key] == rows[0][key] for key in keys if key != "id"),
    )
    for key in connection.execute(existing).all():
        new.pop(tuple(key), None)
    if new:
        connection.execute(sa.insert(table), list(new.values()))
    return len(new)
