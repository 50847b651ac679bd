"""Databases: opening them, and the tables of a target: their columns' SQL types, keys and rows."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from eventml.config import without_secrets
from eventml.deploy.batch.chunks import to_integer
from eventml.deploy.batch.locations import SqlLocation
from eventml.deploy.batch.output_columns import PREDICTION_COLUMNS, ColumnKind, OutputSchema
from eventml.errors import ConfigError, JobError, SourceError, TargetError

LOCK_TIMEOUT: Final = 30.0
"""Seconds to wait for another process that has locked a SQLite file; `?timeout=` in the URL replaces it."""

KEY: Final = ("id", "predictor", "model_version")
"""The unique key of the predictions."""

_REFUSED: Final = {"54000", "P0001"}  # PostgreSQL's index row too large, and what a trigger raises

_INVALID: Final = (ValueError, OverflowError)  # values that cannot be converted here or by a driver

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
        # SQLAlchemy's message may show parts of the URL.
        raise ConfigError(f"{location}: SQLAlchemy cannot read this URL ({type(exc).__name__})") from None
    except (sa.exc.NoSuchModuleError, ModuleNotFoundError) as exc:
        raise ConfigError(f"{location}: {exc}; install the database's driver") from exc


def _open_sqlite(url: sa.URL, location: SqlLocation, *, read_only: bool) -> sa.Engine:
    if not url.database or url.database == ":memory:" or "mode=memory" in str(url):
        raise ConfigError(f"{location}: a database in memory exists in one process only; name a file")
    path = Path(url.database).absolute()
    if read_only and not path.is_file():
        raise SourceError(f"{location}: no such file (looked for {path})")
    if not read_only and not path.parent.is_dir():
        raise ConfigError(f"{location}: there is no folder {path.parent}")
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


Columns: TypeAlias = Mapping[str, tuple[ColumnKind, Iterable[Any]]]
"""Values by column, with their kind."""


def insert_new_rows(connection: sa.Connection, table: sa.Table, key: Sequence[str], columns: Columns) -> int:
    """Insert the rows whose key is not in the table, in the current transaction, and return how many.

    Values are converted to the types of the table's columns.

    Raises:
        ValueError: A value has no such form.
    """
    dialect = connection.dialect.name
    there = [column for column in table.columns if column.name in columns]
    wires = {c.name: _to_wire(c.type, *columns[c.name], dialect) for c in there}
    if dialect == "postgresql":
        return _insert_postgresql(connection, table, key, wires)
    rows = list(zip(*(values for _, values in wires.values()), strict=True))
    if dialect == "sqlite":
        return _insert_sqlite(connection, table, key, tuple(wires), rows)
    return _insert_portable(connection, table, key, [dict(zip(wires, row, strict=True)) for row in rows])


def _to_wire(type_: Any, kind: ColumnKind, values: Iterable[Any], dialect: str) -> tuple[Any, Iterable[Any]]:
    """The SQL type to send values in, and the values as it has them."""
    wire: Any = sa.Text
    convert: Callable[[Any], Any]
    if isinstance(type_, sa.Integer) and kind == "int":
        return sa.BigInteger, values
    if isinstance(type_, sa.Integer) and kind == "text":
        wire, convert = sa.BigInteger, to_integer
    elif isinstance(type_, sa.LargeBinary) and kind == "text":
        wire, convert = sa.LargeBinary, lambda text: base64.b64decode(text, validate=True)
    elif isinstance(type_, sa.JSON) and kind != "json":
        convert = lambda value: msgspec.json.encode(value).decode()  # noqa: E731
    elif isinstance(type_, sa.DateTime) and kind == "text" and dialect != "sqlite":
        convert = partial(_moment, zone=type_.timezone)
    else:
        wires: dict[str, Any] = {"int": sa.Numeric, "float": sa.Double, "bool": sa.Boolean}
        return wires.get(kind, sa.Text), values
    return wire, [value if value is None else convert(value) for value in values]


def _moment(text: str, *, zone: bool) -> str:
    """A time for a column with or without a time zone: what has no zone is UTC."""
    found = datetime.fromisoformat(text)
    found = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    return (found if zone else found.replace(tzinfo=None)).isoformat()


def _insert_sqlite(
    connection: sa.Connection, table: sa.Table, key: Sequence[str], names: tuple[str, ...], rows: list[Any]
) -> int:
    whole = len(rows) - len(rows) % _SQLITE_BATCH
    driver: Any = connection.connection.driver_connection
    before = driver.total_changes
    for size, start, stop in ((_SQLITE_BATCH, 0, whole), (1, whole, len(rows))):
        flat = [tuple(chain.from_iterable(rows[n : n + size])) for n in range(start, stop, size)]
        if flat:
            connection.exec_driver_sql(_sqlite_statement(table, tuple(key), names, size), flat)
    return int(driver.total_changes - before)


@cache
def _sqlite_statement(table: sa.Table, key: tuple[str, ...], names: tuple[str, ...], rows: int) -> str:
    values = [dict.fromkeys(names)] * rows
    insert = sqlite.insert(table).values(values).on_conflict_do_nothing(index_elements=key)
    return str(insert.compile(dialect=sqlite.dialect()))


def _insert_postgresql(
    connection: sa.Connection, table: sa.Table, key: Sequence[str], wires: Mapping[str, Any]
) -> int:
    """Insert by one statement whose parameters are whole columns."""
    cells = []
    for number, (name, (wire, values)) in enumerate(wires.items()):
        array = sa.bindparam(f"c{number}", list(values), type_=postgresql.ARRAY(wire))
        cells.append(_as_column(sa.func.unnest(array), wire, table.c[name].type))
    insert = postgresql.insert(table).from_select(list(wires), sa.select(*cells), include_defaults=False)
    insert = insert.on_conflict_do_nothing(index_elements=key)
    return connection.execute(insert, execution_options={"preserve_rowcount": True}).rowcount


def _as_column(value: sa.ColumnElement[Any], wire: Any, type_: Any) -> sa.ColumnElement[Any]:
    """A value in the type of its column; a cast of a text to `varchar(n)` would cut it off."""
    if isinstance(type_, sa.String) and not isinstance(type_, sa.Enum):
        return sa.cast(value, sa.Text)
    same = {sa.Double: sa.Float, sa.Boolean: sa.Boolean, sa.Text: sa.types.NullType}
    if wire in (sa.BigInteger, sa.LargeBinary) or isinstance(type_, same.get(wire, ())):
        return value
    return sa.cast(sa.cast(value, sa.Text), type_)


def _insert_portable(
    connection: sa.Connection, table: sa.Table, key: Sequence[str], rows: list[dict[str, Any]]
) -> int:
    """Read which keys are there, and insert the others; the unique key refuses what another run inserts."""
    new = {tuple(row[name] for name in key): row for row in reversed(rows)}
    same = [table.c[name] == rows[0][name] for name in key if name != "id"]
    existing = sa.select(*(table.c[name] for name in key)).where(
        table.c.id.in_({row["id"] for row in rows}), *same
    )
    for found in connection.execute(existing).all():
        new.pop(tuple(found), None)
    if new:
        connection.execute(sa.insert(table), list(new.values()))
    return len(new)


def find_ids(
    connection: sa.Connection, table: sa.Table, where: sa.ColumnElement[bool], ids: Sequence[int | str]
) -> Iterable[Any]:
    """Return those of the ids that the table has in such rows, as the driver gives them."""
    column: Any = table.c.id
    if connection.dialect.name == "postgresql":
        wire = postgresql.ARRAY(sa.Text)
        array = sa.bindparam("ids", list(map(str, ids)), type_=wire)
        text = isinstance(column.type, sa.String) and not isinstance(column.type, sa.Enum)
        among = column == sa.any_(sa.cast(array, wire if text else postgresql.ARRAY(column.type)))
    else:
        among = sa.type_coerce(column, sa.types.NullType).in_(ids)
    return connection.scalars(sa.select(column).where(where, among)).all()
