"""Writing rows to a table by its unique key: in the types of its columns, by statements of its database."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from itertools import chain
from typing import Any, Final, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from eventml.deploy.batch.chunks import to_integer
from eventml.deploy.batch.output_columns import ColumnKind

_SQLITE_BATCH: Final = 32  # rows in one statement, which saves a third of the time

_COUNT_ROWS: Final = {"preserve_rowcount": True}  # execution options
_AS_ARROW: Final = {"duckdb_copy_threshold": 100}  # rows from which on DuckDB takes them as an Arrow table

Columns: TypeAlias = Mapping[str, tuple[ColumnKind, Iterable[Any]]]
"""Values by column, with their kind."""


def write_rows(
    connection: sa.Connection, table: sa.Table, key: Sequence[str], columns: Columns, *, replace: bool
) -> tuple[int, int]:
    """Insert the rows whose key is not in the table, in the current transaction, and return how many.

    With `replace`, also update the rows that have other values, and return their number behind the other one.
    Values are converted to the types of the table's columns.

    Raises:
        ValueError: A value has no such form.
    """
    dialect = connection.dialect.name
    there = [column for column in table.columns if column.name in columns]
    wires = {c.name: _to_wire(c.type, *columns[c.name], dialect) for c in there}
    if dialect == "postgresql":
        return _write_postgresql(connection, table, key, wires, replace=replace)
    rows = list(zip(*(values for _, values in wires.values()), strict=True))
    if dialect == "sqlite":
        return _write_sqlite(connection, table, tuple(key), tuple(wires), rows, replace=replace)
    named = [dict(zip(wires, row, strict=True)) for row in rows]
    return _write_portable(connection, table, key, named, replace=replace)


def _to_wire(type_: Any, kind: ColumnKind, values: Iterable[Any], dialect: str) -> tuple[Any, Iterable[Any]]:
    """The SQL type to send values in, and the values converted to it."""
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
    """A time for a column with or without a time zone. A time without a zone is taken as UTC."""
    found = datetime.fromisoformat(text)
    found = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    return (found if zone else found.replace(tzinfo=None)).isoformat()


def _upsert(insert: Any, key: Sequence[str], names: Iterable[str]) -> Any:
    """An insert that updates the rows of its keys where they have other values."""
    new = {name: insert.excluded[name] for name in names if name not in key}
    pairs = [map(_comparable, (insert.table.c[name], new[name])) for name in new]
    differs = sa.or_(*(there.is_distinct_from(value) for there, value in pairs))
    return insert.on_conflict_do_update(index_elements=key, set_=new, where=differs)


def _comparable(column: Any) -> Any:
    """A column, as text if its type (PostgreSQL's json, say) may not be comparable."""
    return sa.cast(column, sa.Text) if isinstance(column.type, sa.JSON | sa.types.NullType) else column


def _write_sqlite(
    connection: sa.Connection, table: sa.Table, key: Any, names: Any, rows: list[Any], *, replace: bool
) -> tuple[int, int]:
    def write(update: bool) -> int:
        whole = len(rows) - len(rows) % _SQLITE_BATCH
        written = 0
        for size, start, stop in ((_SQLITE_BATCH, 0, whole), (1, whole, len(rows))):
            flat = [tuple(chain.from_iterable(rows[n : n + size])) for n in range(start, stop, size)]
            if flat:
                statement = _sqlite_statement(table, key, names, size, update)
                written += connection.exec_driver_sql(statement, flat, _COUNT_ROWS).rowcount
        return written

    new = write(False)
    return new, write(True) if replace and new < len(rows) else 0


@cache
def _sqlite_statement(table: sa.Table, key: Any, names: Any, rows: int, update: bool) -> str:
    insert = sqlite.insert(table).values([dict.fromkeys(names)] * rows)
    insert = _upsert(insert, key, names) if update else insert.on_conflict_do_nothing(index_elements=key)
    return str(insert.compile(dialect=sqlite.dialect()))


def _write_postgresql(
    connection: sa.Connection, table: sa.Table, key: Any, wires: Mapping[str, Any], *, replace: bool
) -> tuple[int, int]:
    """Write by statements whose parameters are whole columns."""
    cells = []
    for number, (name, (wire, values)) in enumerate(wires.items()):
        array = sa.bindparam(f"c{number}", (values := list(values)), type_=postgresql.ARRAY(wire))
        cells.append(_as_column(sa.func.unnest(array), wire, table.c[name].type))
    insert = postgresql.insert(table).from_select(list(wires), sa.select(*cells), include_defaults=False)
    inserted = insert.on_conflict_do_nothing(index_elements=key)
    new = connection.execute(inserted, execution_options=_COUNT_ROWS).rowcount
    if not replace or new == len(values):
        return new, 0
    return new, connection.execute(_upsert(insert, key, wires), execution_options=_COUNT_ROWS).rowcount


def _as_column(value: sa.ColumnElement[Any], wire: Any, type_: Any) -> sa.ColumnElement[Any]:
    """A value in the type of its column; a cast of a text to `varchar(n)` would cut it off."""
    if isinstance(type_, sa.String) and not isinstance(type_, sa.Enum):
        return sa.cast(value, sa.Text)
    same = {sa.Double: sa.Float, sa.Boolean: sa.Boolean, sa.Text: sa.types.NullType}
    if wire in (sa.BigInteger, sa.LargeBinary) or isinstance(type_, same.get(wire, ())):
        return value
    return sa.cast(sa.cast(value, sa.Text), type_)


def _write_portable(
    connection: sa.Connection, table: sa.Table, key: Any, rows: list[dict[str, Any]], *, replace: bool
) -> tuple[int, int]:
    """Read the rows that are there, and write the others; the unique key refuses what another run inserts."""
    new = {tuple(row[name] for name in key): row for row in reversed(rows)}
    same = [table.c[name] == rows[0][name] for name in key if name != "id"]
    ids: Any = {row["id"] for row in rows}
    if connection.dialect.name == "duckdb":  # which is slow with thousands of parameters
        array = sa.func.unnest(sa.bindparam("ids", list(ids), type_=sa.types.NullType()))
        ids = sa.select(sa.cast(array, table.c.id.type))
    existing = sa.select(*(table.c[name] for name in rows[0])).where(table.c.id.in_(ids), *same)
    found = connection.execute(existing).mappings().all()
    pairs = [(there, new.pop(tuple(there[name] for name in key), there)) for there in found]
    changed = [{f"new_{n}": row[n] for n in row} for there, row in pairs if replace and there != row]
    if new:
        connection.execute(sa.insert(table), list(new.values()), execution_options=_AS_ARROW)
    if changed:
        bound: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in rows[0]}
        update = sa.update(table).where(*(table.c[name] == bound.pop(name) for name in key))
        connection.execute(update.values(bound), changed)
    return len(new), len(changed)


def has_id(table: sa.Table, dialect: str, ids: Sequence[int | str]) -> Any:
    """Return the condition that a row has one of the ids."""
    column: Any = table.c.id
    if dialect != "postgresql":
        return sa.type_coerce(column, sa.types.NullType).in_(ids)
    wire = postgresql.ARRAY(sa.Text)
    array = sa.bindparam("ids", list(map(str, ids)), type_=wire)
    text = isinstance(column.type, sa.String) and not isinstance(column.type, sa.Enum)
    return column == sa.any_(sa.cast(array, wire if text else postgresql.ARRAY(column.type)))
