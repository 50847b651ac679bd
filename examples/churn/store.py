"""The tables of customers, of outcomes, and of predictions, which `eventml score` writes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import sqlalchemy as sa

from eventml.errors import EventMLError
from examples.monitoring.alarms import Share

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_TABLES: Final = sa.MetaData()

CUSTOMERS: Final = sa.Table(
    "customers",
    _TABLES,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("month", sa.Text, index=True, nullable=False),
    sa.Column("customer_id", sa.Text, nullable=False),
    sa.Column("tenure_months", sa.Integer),
    sa.Column("plan", sa.Text),
    sa.Column("payment", sa.Text),
    sa.Column("monthly_charge", sa.Float),
    sa.Column("support_calls", sa.Integer),
    sa.Column("usage_hours", sa.Float),
)
OUTCOMES: Final = sa.Table(
    "outcomes",
    _TABLES,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("churned", sa.Boolean, nullable=False),
)
# `eventml score` creates it; these are the columns that are read here.
PREDICTIONS: Final = sa.table(
    "predictions",
    sa.column("id", sa.Text),
    sa.column("model_version", sa.Text),
    sa.column("month", sa.Text),
    sa.column("probability", sa.Float),
    sa.column("likely", sa.Boolean),
)

Columns = dict[str, list[Any]]


class StoreError(EventMLError):
    """The database cannot be used. The message contains the database's own."""


class Store:
    """The example's database.

    Args:
        url: SQLAlchemy URL of the database. Missing tables are created.

    Raises:
        StoreError: The database cannot be reached, or reports an error. This holds for every method.
    """

    def __init__(self, url: str) -> None:
        try:
            place = sa.make_url(url)
            if place.drivername == "postgresql":  # SQLAlchemy would use psycopg 2
                place = place.set(drivername="postgresql+psycopg")
            self._engine = sa.create_engine(place)
        except (sa.exc.ArgumentError, ImportError) as exc:
            raise StoreError(f"--database: SQLAlchemy cannot use this URL: {exc}") from exc
        with self._begin() as connection:
            _TABLES.create_all(connection)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def put_customers(self, month: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Write the customers of a month, and replace those written before."""
        rows = [
            {"id": row_id(month, row["customer_id"]), "month": month, **row}
            for row in _rows(columns, [c.name for c in CUSTOMERS.c if c.name not in ("id", "month")])
        ]
        self._replace(CUSTOMERS, CUSTOMERS.c.month == month, rows)

    def put_outcomes(self, month: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Write which of a month's customers had left by its end, and replace what was written before."""
        rows = [
            {"id": row_id(month, row["customer_id"]), "churned": row["churned"]}
            for row in _rows(columns, ["customer_id", "churned"])
        ]
        self._replace(OUTCOMES, OUTCOMES.c.id.startswith(f"{month}/"), rows)

    def predicted(self, month: str, version: str) -> Columns:
        """Return the customers of a month with the predictions of one model version, in columns.

        Raises:
            StoreError: There are no predictions yet.
        """
        with self._begin() as connection:
            if not sa.inspect(connection).has_table(PREDICTIONS.name):
                raise StoreError("no customer could be scored: the table predictions_rejects says why")
        return self._select(
            sa.select(CUSTOMERS, PREDICTIONS.c.probability, PREDICTIONS.c.likely)
            .join(PREDICTIONS, PREDICTIONS.c.id == CUSTOMERS.c.id)
            .where(CUSTOMERS.c.month == month, PREDICTIONS.c.model_version == version)
            .order_by(CUSTOMERS.c.id)
        )

    def turned_out(self, month: str, version: str) -> Columns:
        """As `predicted`, for the customers whose outcome (`churned`) is known."""
        return self._select(
            sa.select(CUSTOMERS, PREDICTIONS.c.probability, OUTCOMES.c.churned)
            .join(PREDICTIONS, PREDICTIONS.c.id == CUSTOMERS.c.id)
            .join(OUTCOMES, OUTCOMES.c.id == CUSTOMERS.c.id)
            .where(CUSTOMERS.c.month == month, PREDICTIONS.c.model_version == version)
            .order_by(CUSTOMERS.c.id)
        )

    def share_before(self, month: str, version: str) -> tuple[str, Share] | None:
        """Return the last scored month before this one, and its share of likely churners; None if none."""
        found = self._select(
            sa.select(
                PREDICTIONS.c.month,
                sa.func.sum(sa.cast(PREDICTIONS.c.likely, sa.Integer)).label("count"),
                sa.func.count().label("total"),
            )
            .where(PREDICTIONS.c.month < month, PREDICTIONS.c.model_version == version)
            .group_by(PREDICTIONS.c.month)
            .order_by(PREDICTIONS.c.month.desc())
            .limit(1)
        )
        if not found["month"]:
            return None
        return found["month"][0], Share(found["count"][0], found["total"][0])

    def customers(self, month: str) -> int:
        """Return the number of customers of a month, scored or not."""
        [count] = self._select(
            sa.select(sa.func.count().label("count")).select_from(CUSTOMERS).where(CUSTOMERS.c.month == month)
        )["count"]
        return int(count)

    def _replace(self, table: sa.Table, these: sa.ColumnElement[bool], rows: list[dict[str, Any]]) -> None:
        with self._begin() as connection:
            connection.execute(sa.delete(table).where(these))
            if rows:
                connection.execute(sa.insert(table), rows)

    def _select(self, query: sa.Select[Any]) -> Columns:
        with self._begin() as connection:
            result = connection.execute(query)
            names = list(result.keys())
            rows = result.fetchall()
        return {name: [row[place] for row in rows] for place, name in enumerate(names)}

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as exc:
            raise StoreError(f"the database of customers: {getattr(exc, 'orig', None) or exc}") from exc


def row_id(month: str, customer_id: str) -> str:
    """Return the id of a customer's row in a month."""
    return f"{month}/{customer_id}"


def _rows(columns: Mapping[str, Sequence[Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    lists = [np.asarray(columns[name], dtype=object).tolist() for name in names]
    return [
        {name: None if cell != cell else cell for name, cell in zip(names, row, strict=True)}  # noqa: PLR0124 - NaN
        for row in zip(*lists, strict=True)
    ]
