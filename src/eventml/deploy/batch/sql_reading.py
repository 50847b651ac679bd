"""Reading a table or a query, in the order of its ids."""

from __future__ import annotations

import difflib
from contextlib import ExitStack, closing
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from eventml.deploy.batch.chunks import Chunk
from eventml.deploy.batch.databases import engine_of, translated
from eventml.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from sqlalchemy import Connection, Select
    from sqlalchemy.sql.expression import FromClause

    from eventml.deploy.batch.places import SqlPlace


class SqlSource:
    """Rows by ascending id; a position is the last id. A row that comes later with a lower id is not seen.

    SQLite is asked for a page at a time, so that nothing is locked in between; any other database for one
    server-side cursor. Two rows of one id are one. Rows without an id come last, each rejected by its reader.

    Args:
        place: The table or query.
        id_column: Where the ids are.

    Raises:
        SourceError: it cannot be reached, there is no such table, or it lacks the column.
    """

    def __init__(self, place: SqlPlace, id_column: str) -> None:
        self._place = place
        self._id = id_column
        self._engine = engine_of(place, read_only=True)
        self.paged = self._engine.dialect.name == "sqlite"
        with translated(place, SourceError, "cannot be read"), self._engine.connect() as connection:
            self._rows = self._described(connection)
        self.columns = [str(column.name) for column in self._rows.c]  # a quoted name is no plain text
        if id_column not in self.columns:
            raise SourceError(
                f"{place} has no column {id_column!r} to take the ids from; there are: "
                f"{', '.join(self.columns)}. Choose one with --id"
            )

    def fingerprint(self) -> str:
        """Always the same: an id means the same whatever else has changed."""
        return self._place.query

    def total(self) -> int | None:
        import sqlalchemy as sa  # noqa: PLC0415 - it comes with an extra

        with translated(self._place, SourceError, "cannot be read"), self._engine.connect() as connection:
            count = connection.scalar(sa.select(sa.func.count()).select_from(self._rows))
            return None if count is None else int(count)

    def chunks(self, wanted: Sequence[str], *, rows: int, after: Any) -> Iterator[Chunk]:
        names = [self._id, *(name for name in wanted if name != self._id)]
        read = self._pages if self.paged else self._cursor
        done, last = 0, after
        with ExitStack() as stack:
            stack.enter_context(translated(self._place, SourceError, "cannot be read"))
            connection = stack.enter_context(self._engine.connect())
            # What SQLAlchemy fetches it has converted; SQLite's own cursor is quicker, and does not.
            convert = self._converters(connection, names) if self.paged else dict.fromkeys(names, list)
            for some in stack.enter_context(closing(read(connection, names, rows, after))):
                columns = {
                    name: convert[name](list(map(itemgetter(i), some))) for i, name in enumerate(names)
                }
                done += len(some)
                last = some[-1][0] if some[-1][0] is not None else last
                yield Chunk(
                    after=last if isinstance(last, int | str | float) else str(last),
                    ids=columns[self._id],
                    columns={name: columns[name] for name in wanted},
                    done=done,
                )

    def _pages(
        self, connection: Connection, names: Sequence[str], rows: int, after: Any
    ) -> Generator[Sequence[Sequence[Any]], None, None]:
        while True:
            statement = self._select(names, after).limit(rows)
            cursor: Any = connection.execute(statement).cursor
            some = cursor.fetchall()
            if not some:
                break
            yield some
            after = some[-1][0]
        cursor = connection.execute(self._select(names, None, without_id=True)).cursor
        while some := cursor.fetchmany(rows):
            yield some

    def _cursor(
        self, connection: Connection, names: Sequence[str], rows: int, after: Any
    ) -> Generator[Sequence[Sequence[Any]], None, None]:
        streaming = connection.execution_options(stream_results=True, max_row_buffer=rows)
        for without_id in (False, True):
            result = streaming.execute(self._select(names, after, without_id=without_id))
            try:
                while some := result.fetchmany(rows):
                    yield some
            finally:
                result.close()

    def _select(self, names: Sequence[str], after: Any, *, without_id: bool = False) -> Select[Any]:
        import sqlalchemy as sa  # noqa: PLC0415 - it comes with an extra

        key = self._rows.c[self._id]
        statement = sa.select(*(self._rows.c[name] for name in names))
        if without_id:
            return statement.where(key.is_(None))
        statement = statement.where(key.is_not(None)).order_by(key)
        if after is None:
            return statement
        # Without a type, so that the database takes the id's text for whatever its column holds.
        last = sa.text(":after").bindparams(sa.bindparam("after", after, type_=sa.types.NullType()))
        return statement.where(key > last)

    def _converters(
        self, connection: Connection, names: Sequence[str]
    ) -> Mapping[str, Callable[[list[Any]], list[Any]]]:
        """What makes of the driver's values those of the declared types: times of SQLite's text, say."""
        dialect = connection.dialect
        found: dict[str, Callable[[list[Any]], list[Any]]] = {}
        for name in names:
            declared: Any = self._rows.c[name].type
            process = declared.dialect_impl(dialect).result_processor(dialect, None)
            found[name] = list if process is None else _mapping(process)
        return found

    def _described(self, connection: Connection) -> FromClause:
        """The table or the query, its columns known."""
        import sqlalchemy as sa  # noqa: PLC0415 - it comes with an extra

        if self._place.query:
            # A colon in the user's SQL is no parameter of ours.
            query = self._place.query.strip().rstrip(";").replace(":", r"\:")
            result = connection.execute(sa.text(f"SELECT * FROM ({query}\n) AS rows_asked_for WHERE 1 = 0"))  # noqa: S608 - the query is what the user asks, on a read-only connection
            names = list(result.keys())
            result.close()
            columns: list[Any] = [sa.column(sa.quoted_name(name, quote=True)) for name in names]
            return sa.text(query).columns(*columns).subquery("rows_asked_for")
        inspector = sa.inspect(connection)
        table, schema = split_name(self._place, connection.dialect.name)
        if not inspector.has_table(table, schema):
            there = inspector.get_table_names(schema) + inspector.get_view_names(schema)
            close = difflib.get_close_matches(table, there, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; there are: {', '.join(sorted(there)[:20])}"
            raise SourceError(f"{self._place}: there is no table {table!r}{hint if there else ''}")
        reflected = inspector.get_columns(table, schema)
        return sa.table(
            sa.quoted_name(table, quote=True),
            *(sa.column(sa.quoted_name(c["name"], quote=True), exact(c["type"])) for c in reflected),
            schema=schema,
        )

    def close(self) -> None:
        self._engine.dispose()


def split_name(place: SqlPlace, dialect: str) -> tuple[str, str | None]:
    """A table's name and its schema; a file of SQLite has none, and there a dot is part of the name."""
    schema, dot, table = place.table.partition(".")
    return (table, schema) if dot and dialect != "sqlite" else (place.table, None)


def exact(declared: Any) -> Any:
    """The type where a driver's values are made into others by it; all else is as the driver has it.

    Numbers are: to read by their type may round them.
    """
    import sqlalchemy as sa  # noqa: PLC0415 - it comes with an extra

    made = (sa.DateTime, sa.Date, sa.Time, sa.Boolean, sa.Uuid, sa.JSON)
    return declared if isinstance(declared, made) else sa.types.NullType()


def _mapping(process: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
    def one(value: Any) -> Any:
        try:
            return process(value)
        except (ValueError, TypeError):
            return value  # it is not of its type: the row is rejected where its event is made

    return lambda values: list(map(one, values))
