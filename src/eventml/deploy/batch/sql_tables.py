"""The tables of a target: predictions, rejects, and the checkpoints of its runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from eventml.deploy.batch.schema import OURS, Schema
from eventml.errors import TargetError

if TYPE_CHECKING:
    import sqlalchemy as sa
    from sqlalchemy import Connection, MetaData, Table

    from eventml.deploy.batch.places import SqlPlace

KEY: Final = ("id", "predictor", "model_version")
CHECKPOINTS: Final = "eventml_score"


def predictions(
    metadata: MetaData, name: str, schema_name: str | None, schema: Schema, *, integer_ids: bool
) -> Table:
    """The table of predictions: one row an id, predictor and model version."""
    import sqlalchemy as sa  # noqa: PLC0415 - it comes with an extra

    kinds: dict[str, Any] = {"int": sa.BigInteger, "float": sa.Double, "bool": sa.Boolean}
    return sa.Table(
        sa.quoted_name(name, quote=True),
        metadata,
        _column("id", sa.BigInteger if integer_ids else sa.Text, required=True),
        *(_column(field.name, kinds.get(field.kind, sa.Text)) for field in schema.fields),
        *(_column(ours, sa.Text, required=True) for ours in OURS[1:]),
        sa.PrimaryKeyConstraint(*KEY),
        schema=schema_name,
        sqlite_with_rowid=False,
    )


def rejects(metadata: MetaData, name: str, schema_name: str | None) -> Table:
    """The table of the rows that have no prediction, by the run that rejected them."""
    import sqlalchemy as sa  # noqa: PLC0415 - it comes with an extra

    names = ("id", "predictor", "model_version", "exception", "message", "row", "run")
    return sa.Table(
        sa.quoted_name(f"{name}_rejects", quote=True),
        metadata,
        *(_column(column, sa.Text, required=True) for column in names),
        _column("attempts", sa.Integer),
        sa.PrimaryKeyConstraint("run", "id"),
        schema=schema_name,
    )


def checkpoints(metadata: MetaData, schema_name: str | None) -> Table:
    """How far each run has come. A finished one has no position."""
    import sqlalchemy as sa  # noqa: PLC0415 - it comes with an extra

    names = ("target", "predictor", "model_version", "source", "state", "position", "counts", "updated")
    return sa.Table(
        CHECKPOINTS,
        metadata,
        _column("run", sa.String(64), required=True),
        *(_column(column, sa.Text) for column in names),
        sa.PrimaryKeyConstraint("run"),
        schema=schema_name,
    )


def check_existing(connection: Connection, table: Table, place: SqlPlace) -> bool:
    """Whether the table of predictions is there already.

    Raises:
        TargetError: it is there, and is not one of ours: columns or the key are missing.
    """
    import sqlalchemy as sa  # noqa: PLC0415 - it comes with an extra

    inspector = sa.inspect(connection)
    if not inspector.has_table(table.name, table.schema):
        return False
    there = {column["name"] for column in inspector.get_columns(table.name, table.schema)}
    lacking = [column.name for column in table.columns if column.name not in there]
    if lacking:
        raise TargetError(
            f"{place}: the table is there, and has no column {', '.join(map(repr, lacking))}; it has: "
            f"{', '.join(sorted(there))}. Add them, or name a table that is not there: it will be created"
        )
    keys: list[Any] = [inspector.get_pk_constraint(table.name, table.schema)["constrained_columns"]]
    keys += [unique["column_names"] for unique in inspector.get_unique_constraints(table.name, table.schema)]
    keys += [
        index["column_names"] for index in inspector.get_indexes(table.name, table.schema) if index["unique"]
    ]
    if set(KEY) not in [set(key) for key in keys]:
        raise TargetError(
            f"{place}: the table has no unique key over {', '.join(KEY)}, so a row could be written twice; "
            "add one, or name a table that is not there: it will be created"
        )
    return True


def ids_are_integers(connection: Connection, table: Table) -> bool:
    """Whether the existing table's ids are numbers."""
    import sqlalchemy as sa  # noqa: PLC0415 - it comes with an extra

    columns = sa.inspect(connection).get_columns(table.name, table.schema)
    return any(isinstance(column["type"], sa.Integer) for column in columns if column["name"] == "id")


def _column(name: str, kind: Any, *, required: bool = False) -> sa.Column[Any]:
    import sqlalchemy as sa  # noqa: PLC0415 - it comes with an extra

    return sa.Column(sa.quoted_name(name, quote=True), kind, nullable=not required, autoincrement=False)
