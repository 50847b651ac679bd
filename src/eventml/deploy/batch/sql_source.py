"""Reading a table or the result of a query, in the order of the ids."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from eventml.deploy.batch.chunks import RowChunk, require_id_column
from eventml.deploy.batch.locations import SqlLocation
from eventml.deploy.batch.output_columns import as_list
from eventml.deploy.batch.sql_tables import open_engine, split_table_name, translate_errors
from eventml.errors import ConfigError, DecodeError, SourceError, SourceMismatchError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from sqlalchemy.sql.expression import FromClause


_END: Final = re.compile(r"\s*(?:;(?:\s|;|--[^\n'\"`$*]*(?:\n|$))*)?\Z")
"""What ends a query and may not stand in a subquery: a semicolon, and comments of a line behind it.

A comment with a quote may be the end of a text that the semicolon is in, so it is not taken for one.
"""


_SAME_IN_ARROW: Final = {16, 20, 21, 23, 25, 701, 1043, 1082, 1114}
"""PostgreSQL's boolean, integers, text, double precision, varchar, date, timestamp."""

_PARAMETER: Final = re.compile(r"'[^']*'|(?<![\w:]):([^\W\d]\w*)")
"""A text, or `:name` behind a space or a sign."""


class SqlSource:
    """Reads rows by ascending id. A position is the last id; a row that is added below it later is missed.

    SQLite is read by a query for each chunk, so that nothing is locked in between, any other database by
    one server-side cursor. Rows without an id come last, and are rejected when they are decoded.

    Raises:
        SourceError: The database cannot be reached, there is no such table, or it lacks the column.
    """

    def __init__(self, location: SqlLocation, id_column: str) -> None:
        self._location = location
        self._id = id_column
        self._engine = open_engine(location, read_only=True)
        if self._engine.dialect.driver == "psycopg":
            sa.event.listen(self._engine, "connect", _read_any_time)
        self._by_pages = self._engine.dialect.name == "sqlite"
        with translate_errors(location, SourceError), self._engine.connect() as connection:
            self._rows = self._selectable(connection)
        self.columns = [str(column.name) for column in self._rows.c]  # a quoted_name becomes a plain str
        require_id_column(location, self.columns, id_column)

    def fingerprint(self) -> str:
        # An id keeps its meaning as a position, whatever else changes in the database.
        return self._location.fingerprint()

    def total(self) -> int | None:
        with translate_errors(self._location, SourceError), self._engine.connect() as connection:
            count = connection.scalar(sa.select(sa.func.count()).select_from(self._rows))
            return None if count is None else int(count)

    def chunks(self, columns: Sequence[str], *, rows: int, after: Any) -> Iterator[RowChunk]:
        names = [self._id, *(name for name in columns if name != self._id)]
        done, last = 0, bytes.fromhex(after[0]) if isinstance(after, list) else after
        with translate_errors(self._location, SourceError), self._engine.connect() as connection:
            # SQLAlchemy converts what it fetches; SQLite's own cursor is quicker, and does not.
            convert = self._converters(connection, names) if self._by_pages else {}
            read = self._read_arrow if self._is_same_in_arrow(connection, names) else self._read_cursor
            read = self._read_pages if self._by_pages else read
            with closing(read(connection, names, rows, last)) as pages:
                for page in pages:
                    cells = getattr(page, "columns", None) or list(map(list, zip(*page, strict=True)))
                    values = dict(zip(names, cells, strict=True))
                    values.update({name: convert[name](values[name]) for name in convert})
                    done += len(page)
                    [end] = as_list(cells[0][-1:])
                    last = end if end is not None else last
                    yield RowChunk(
                        position=_position(last),
                        ids=values[self._id],
                        columns={name: values[name] for name in columns},
                        done=done,
                    )

    def _read_pages(
        self, connection: sa.Connection, names: Sequence[str], rows: int, after: Any
    ) -> Generator[Sequence[Sequence[Any]], None, None]:
        # All at once: a cursor that is open between two chunks would lock the file for those who write to it.
        def fetch(statement: sa.Select[Any]) -> Sequence[Sequence[Any]]:
            cursor: Any = connection.execute(statement).cursor
            try:
                page: Sequence[Sequence[Any]] = cursor.fetchall()
            except sqlite3.OperationalError as exc:
                driver: Any = connection.connection.driver_connection
                if "decode to UTF-8" not in str(exc) or driver.text_factory is not str:
                    raise
                driver.text_factory = _text_or_error  # slower, so only from here on
                return fetch(statement)
            if page and isinstance(page[-1][0], DecodeError):
                raise SourceError(
                    f"{self._location}: {self._id} of a row is no text to go on from: {page[-1][0]}"
                )
            return page

        while page := fetch(self._select(names, after).limit(rows + 1)):
            # The rows of one id stay in one page, as the next one begins behind the id.
            whole = len(page) <= rows or page[0][0] == page[-1][0]
            page = page if whole else [row for row in page if row[0] != page[-1][0]]
            yield page
            after = page[-1][0]
        page = fetch(self._select(names, None, without_id=True))
        for start in range(0, len(page), rows):
            yield page[start : start + rows]

    def _read_cursor(
        self, connection: sa.Connection, names: Sequence[str], rows: int, after: Any, parts: Any = (0, 1)
    ) -> Generator[Sequence[Sequence[Any]], None, None]:
        streaming = connection.execution_options(stream_results=True, max_row_buffer=rows)
        for without_id in map(bool, parts):
            with closing(streaming.execute(self._select(names, after, without_id=without_id))) as result:
                while page := result.fetchmany(rows):
                    yield page

    def _is_same_in_arrow(self, connection: sa.Connection, names: Sequence[str]) -> bool:
        """Whether ADBC's driver is installed, and gives the values of psycopg, as not of `real`."""
        if self._engine.dialect.driver != "psycopg" or find_spec("adbc_driver_postgresql") is None:
            return False
        none: Any = connection.execute(self._select(names, None).where(sa.false()))
        return {column.type_code for column in none.cursor.description} <= _SAME_IN_ARROW

    def _read_arrow(
        self, connection: sa.Connection, names: Sequence[str], rows: int, after: Any
    ) -> Generator[Any, None, None]:
        """Read record batches, eight times as fast as rows; such a read can have no parameters."""
        import pyarrow.compute as pc  # noqa: PLC0415 - it takes time, and is not always needed
        from adbc_driver_postgresql import dbapi  # type: ignore[import-untyped]  # noqa: PLC0415 - optional
        from psycopg import ClientCursor  # noqa: PLC0415 - installed if this is its connection
        from psycopg.conninfo import make_conninfo  # noqa: PLC0415 - as above

        parts = [1]
        statement = self._select(names, after).compile(connection)
        driver: Any = connection.connection.driver_connection
        text = ClientCursor(driver).mogrify(str(statement), statement.params)
        # What psycopg has made of SQLAlchemy's URL, whose form for several hosts libpq cannot read.
        server = make_conninfo(driver.info.dsn, password=driver.info.password)
        connection.rollback()  # a server may end a connection that waits in a transaction
        with dbapi.connect(server) as database, database.cursor() as cursor:
            cursor.execute("SET TRANSACTION READ ONLY")
            cursor.execute("SET client_encoding TO 'UTF8'")
            cursor.execute(text)
            for batch in cursor.fetch_record_batch():
                try:
                    any(pc.min_max(column).as_py() is None for column in batch.columns)
                except (OverflowError, ValueError):  # times such as `infinity`: psycopg reads them as text
                    parts = [0, 1]
                    break
                for start in range(0, len(batch), rows):
                    yield batch.slice(start, rows)
                [after] = as_list(batch.column(0)[-1:])
        yield from self._read_cursor(connection, names, rows, after, parts)

    def _select(self, names: Sequence[str], after: Any, *, without_id: bool = False) -> sa.Select[Any]:
        key = self._rows.c[self._id]
        statement = sa.select(*(self._rows.c[name] for name in names))
        if without_id:
            return statement.where(key.is_(None))
        statement = statement.where(key.is_not(None)).order_by(key)
        if after is None:
            return statement
        # Without a type, so that the database converts the id's text to the type of its column.
        last = sa.text(":after").bindparams(sa.bindparam("after", after, type_=sa.types.NullType()))
        return statement.where(key > last)

    def _converters(
        self, connection: sa.Connection, names: Sequence[str]
    ) -> Mapping[str, Callable[[list[Any]], list[Any]]]:
        """Convert the driver's values to the declared types: the times that SQLite stores as text, say."""
        dialect = connection.dialect
        types: dict[str, Any] = {name: self._rows.c[name].type.dialect_impl(dialect) for name in names}
        found = {name: type_.result_processor(dialect, None) for name, type_ in types.items()}
        return {name: _converter(process) for name, process in found.items() if process}

    def _selectable(self, connection: sa.Connection) -> FromClause:
        """The table or the query, with its columns."""
        if self._location.query:
            # SQLAlchemy would take any colon in the user's SQL for a parameter.
            values = dict(self._location.parameters)
            given = rf"(?<!:):(?=(?:{'|'.join(values) or '(?!)'})\b)|(:)"
            query = _END.sub("", self._location.query) + "\n"
            query = re.sub(given, lambda found: r"\:" if found[1] else ":", query)
            # Without a type, as the last id in `_select`.
            bound = [sa.bindparam(name, values[name], type_=sa.types.NullType()) for name in values]
            described = sa.text(f"SELECT * FROM ({query}) AS source_rows WHERE 1 = 0").bindparams(*bound)  # noqa: S608 - the user's own query, on a read-only connection
            try:
                result = connection.execute(described)
            except sa.exc.DBAPIError as exc:
                for name in set(_PARAMETER.findall(self._location.query)) - {"", *values}:
                    advice = f"has :{name}, to which no --param gives a value: add --param {name}=VALUE"
                    raise ConfigError(f"--query {advice} ({str(exc.orig).splitlines()[0]})") from exc
                raise
            names = list(result.keys())
            result.close()
            columns: list[Any] = [sa.column(sa.quoted_name(name, quote=True)) for name in names]
            return sa.text(query).bindparams(*bound).columns(*columns).subquery("source_rows")
        inspector = sa.inspect(connection)
        table, schema = split_table_name(self._location, connection.dialect.name)
        if not inspector.has_table(table, schema):
            there = sorted(inspector.get_table_names(schema) + inspector.get_view_names(schema))[:20]
            raise SourceMismatchError(
                f"{self._location}: there is no table {table!r}; there are: {', '.join(there) or 'none'}"
            )
        reflected = inspector.get_columns(table, schema)
        return sa.table(
            sa.quoted_name(table, quote=True),
            *(sa.column(sa.quoted_name(c["name"], quote=True), _type_to_read(c["type"])) for c in reflected),
            schema=schema,
        )

    def close(self) -> None:
        self._engine.dispose()


def _position(row_id: Any) -> Any:
    """An id as JSON, in a form that the database converts to the column's type; bytes are in a list."""
    if isinstance(row_id, bytes):
        return [row_id.hex()]
    return row_id if isinstance(row_id, int | str | float | None) else str(row_id)


def _type_to_read(declared: Any) -> Any:
    """The type to read a column by. Numbers are left as the driver has them: their type may round them."""
    converted = (sa.DateTime, sa.Date, sa.Time, sa.Boolean, sa.Uuid, sa.JSON)
    return declared if isinstance(declared, converted) else sa.types.NullType()


def _read_any_time(connection: Any, _record: Any) -> None:
    """Read times that Python cannot hold as their text: `infinity`, years before Christ or above 9999."""
    from psycopg import Error, adapt  # noqa: PLC0415 - installed if this is its connection

    def loader(exact: Any) -> type[adapt.Loader]:
        class AnyTime(adapt.Loader):
            def __init__(self, oid: int, context: Any = None) -> None:
                super().__init__(oid, context)
                self._load = exact(oid, context).load

            def load(self, data: Any) -> Any:
                try:
                    return self._load(data)
                except (Error, ValueError, OverflowError):
                    return bytes(data).decode()

        return AnyTime

    for name in ("date", "timestamp", "timestamptz", "time", "timetz", "interval"):
        oid = connection.adapters.types[name].oid
        connection.adapters.register_loader(oid, loader(connection.adapters.get_loader(oid, 0)))


def _text_or_error(text: bytes) -> str | DecodeError:
    try:
        return text.decode()
    except UnicodeDecodeError as exc:
        return DecodeError(f"{text!r:.200} is no UTF-8: {exc.reason}")


def _converter(process: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
    def convert(value: Any) -> Any:
        try:
            return process(value)
        except (ValueError, TypeError):
            return value  # not of the declared type: the row is rejected when it is decoded

    return lambda values: list(map(convert, values))
