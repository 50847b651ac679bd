"""Databases: opening them, and the tables of a target: their columns' SQL types and keys."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import sqlalchemy as sa

from eventml.config import without_secrets
from eventml.deploy.batch.locations import SqlLocation
from eventml.deploy.batch.output_columns import PREDICTION_COLUMNS, OutputSchema
from eventml.errors import ConfigError, JobError, SourceError, TargetError

LOCK_TIMEOUT: Final = 30.0
"""Seconds to wait for another process that has locked a SQLite file; `?timeout=` in the URL replaces it."""

KEY: Final = ("id", "predictor", "model_version")
"""The unique key of the predictions."""

_REFUSED: Final = {"54000", "P0001"}  # PostgreSQL's index row too large, and what a trigger raises

_INVALID: Final = (ValueError, OverflowError)  # values that cannot be converted here or by a driver


def open_engine(location: SqlLocation, *, read_only: bool) -> sa.Engine:
    """Return an engine for a location; it connects when it is used.

    Raises:
        ConfigError: The URL cannot be used.
        SourceError: The file of SQLite or DuckDB to read from does not exist.
    """
    try:
        url = sa.make_url(location.url)
        if url.drivername in ("postgresql", "postgres"):  # SQLAlchemy's default is psycopg 2
            url = url.set(drivername="postgresql+psycopg")
        kind = url.get_backend_name()
        if kind in ("sqlite", "duckdb"):
            path = _check_file(url, location, read_only=read_only)
        if kind == "sqlite":
            return _open_sqlite(path, url, read_only=read_only)
        options: dict[str, Any] = {"hide_parameters": True, "poolclass": sa.pool.NullPool}
        if read_only and kind == "postgresql":
            options["execution_options"] = {"postgresql_readonly": True}
        engine = sa.create_engine(url, **options)
    except (sa.exc.ArgumentError, ValueError) as exc:
        # SQLAlchemy's message may show parts of the URL.
        raise ConfigError(f"{location}: SQLAlchemy cannot read this URL ({type(exc).__name__})") from None
    except (sa.exc.NoSuchModuleError, ModuleNotFoundError) as exc:
        raise ConfigError(f"{location}: {exc}; install the database's driver") from exc
    if read_only and kind == "duckdb":
        engine.dialect.do_begin = lambda c: c.execute("BEGIN TRANSACTION READ ONLY")  # type: ignore[method-assign,assignment]
    return engine


def _check_file(url: sa.URL, location: SqlLocation, *, read_only: bool) -> Path:
    if not url.database or url.database == ":memory:" or "mode=memory" in str(url):
        raise ConfigError(f"{location}: a database in memory exists in one process only; name a file")
    path = Path(url.database).absolute()
    if read_only and not path.is_file():
        raise SourceError(f"{location}: no such file (looked for {path})")
    if not read_only and not path.parent.is_dir():
        raise ConfigError(f"{location}: there is no folder {path.parent}")
    return path


def _open_sqlite(path: Path, url: sa.URL, *, read_only: bool) -> sa.Engine:
    timeout = float(str(url.query.get("timeout", LOCK_TIMEOUT)))
    name = f"file:{quote(str(path))}?mode={'ro' if read_only else 'rwc'}"

    def connect() -> sqlite3.Connection:
        # By itself the driver begins a transaction too late: DDL and reads would stay outside it.
        return sqlite3.connect(name, uri=True, timeout=timeout, check_same_thread=False, isolation_level=None)

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.pool.NullPool, hide_parameters=True)
    if not read_only:
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


class InvalidRowError(TargetError):
    """The database cannot hold a row of those that it was given."""


@contextmanager
def translate_errors(location: SqlLocation, error: type[JobError]) -> Iterator[None]:
    """Raise `error` in place of what the database raises; its text holds no password.

    That is `InvalidRowError` where a target refuses values.
    """
    try:
        yield
    except Exception as exc:
        # A plain cursor raises the driver's own exceptions (DB-API 2.0's `Error`).
        kinds = {kind.__name__ for kind in type(exc).__mro__ if kind.__module__ != "builtins"}
        if not (isinstance(exc, (OSError, *_INVALID)) or kinds & {"Error", "SQLAlchemyError"}):
            raise
        original = getattr(exc, "orig", None) or exc
        if error is TargetError and _refuses_values(exc, original):
            error = InvalidRowError
        reason = str(original).strip().partition("\n")[0] or type(original).__name__
        done = "read" if error is SourceError else "written"
        reason = without_secrets(reason, location.url)
        # A traceback shows the cause's text.
        cause = exc if without_secrets(str(exc), location.url) == str(exc) else None
        raise error(f"{location}: cannot be {done}: {reason}{_advice(str(exc).lower())}") from cause


def _refuses_values(exc: Exception, original: Exception) -> bool:
    """Whether another row may succeed: it is neither the connection nor the table that fails."""
    refused = (sa.exc.DataError, sa.exc.IntegrityError, *_INVALID)
    return isinstance(exc, refused) or getattr(original, "sqlstate", None) in _REFUSED


def _advice(reason: str) -> str:
    if "locked" in reason:
        return (
            f". Another process holds the database, for longer than {LOCK_TIMEOUT:g} s (?timeout=SECONDS in "
            "the URL); the next run goes on from the last checkpoint"
        )
    if "full" in reason or "no space" in reason:
        return ". Nothing of this chunk was written; make room, and the next run goes on from there"
    return ""


def split_table_name(location: SqlLocation, dialect: str) -> tuple[str, str | None]:
    """Return a table's name and its schema. SQLite has no schemas, so a dot is part of the name there."""
    schema, dot, table = location.table.partition(".")
    return (table, schema) if dot and dialect != "sqlite" else (location.table, None)


def check_names(location: SqlLocation, dialect: sa.Dialect, names: Iterable[str]) -> None:
    """Raise TargetError if a name is one that the database would cut, and find under another name."""
    longest = dialect.max_identifier_length  # in bytes on PostgreSQL
    if cut := [name for name in names if len(name.encode()) > longest]:
        raise TargetError(
            f"{location}: {cut[0]!r} is longer than the {longest} bytes of a name in this database"
        )


def predictions_table(
    metadata: sa.MetaData, table: str, schema_name: str | None, schema: OutputSchema, *, integer_ids: bool
) -> sa.Table:
    """Return the table of predictions: one row for each id, predictor and model version."""
    types: dict[str, Any] = {"int": sa.BigInteger, "float": sa.Double, "bool": sa.Boolean}
    return sa.Table(
        sa.quoted_name(table, quote=True),
        metadata,
        sa.Column("id", sa.BigInteger if integer_ids else sa.Text, nullable=False, autoincrement=False),
        *(sa.Column(c.name, types.get(c.kind, sa.Text), quote=True) for c in schema),
        *(sa.Column(name, sa.Text, nullable=False) for name in PREDICTION_COLUMNS[1:]),
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
        *(sa.Column(column, sa.Text, nullable=False) for column in names),
        sa.Column("attempts", sa.Integer),
        sa.PrimaryKeyConstraint("run", "id"),
        schema=schema_name,
    )


def checkpoints_table(metadata: sa.MetaData, schema_name: str | None) -> sa.Table:
    """Return the table `eventml_score` of the runs' checkpoints. That of a finished run has no position."""
    names = ("target", "predictor", "model_version", "source", "position", "counts", "updated")
    return sa.Table(
        "eventml_score",
        metadata,
        sa.Column("run", sa.String(64), nullable=False),
        *(sa.Column(column, sa.Text) for column in names),
        sa.PrimaryKeyConstraint("run"),
        schema=schema_name,
    )


def reflect_predictions(connection: sa.Connection, table: sa.Table, location: SqlLocation) -> sa.Table | None:
    """Return the table of predictions as the database has it; None if there is none.

    Raises:
        TargetError: The table lacks columns of predictions or a unique key over `KEY`, or cannot hold any
            prediction.
    """
    if not sa.inspect(connection).has_table(table.name, table.schema):
        return None
    found = sa.Table(
        table.name, sa.MetaData(), schema=table.schema, autoload_with=connection, resolve_fks=False
    )
    missing = [column.name for column in table.columns if column.name not in found.columns]
    if missing:
        raise TargetError(
            f"{location}: the table exists and has no column {', '.join(map(repr, missing))}; it has: "
            f"{', '.join(sorted(found.columns.keys()))}. Add them, or name a table to be created"
        )
    dialect = connection.dialect.name
    for column in found.columns:
        ours = getattr(table.columns.get(column.name), "type", None)
        problem = ""
        given: object = column.nullable or column.server_default or column.identity or column.computed
        given = given or (dialect == "sqlite" and column.primary_key)  # SQLite numbers such rows by itself
        if ours is None and not given:
            problem = "is NOT NULL without a default, and no field of a prediction"
        integers = isinstance(column.type, sa.Integer) and dialect == "postgresql"
        if integers and isinstance(ours, sa.Double | sa.Boolean):
            problem = f"holds integers, and the predictor's values are {ours!r}"
        if problem:
            raise TargetError(f"{location}: the column {column.name!r} of the table {problem}. Change it")
    unique = [c for c in found.constraints if isinstance(c, sa.PrimaryKeyConstraint | sa.UniqueConstraint)]
    whole = [i for i in found.indexes if i.unique and not i.dialect_kwargs.get("postgresql_where")]
    keys = [key.columns.keys() for key in [*unique, *whole]]
    if set(KEY) not in map(set, keys):
        raise TargetError(
            f"{location}: the table has no unique key over {', '.join(KEY)}: a row could be written twice. "
            "Add one, or name a table that does not exist: it will be created"
        )
    return found
