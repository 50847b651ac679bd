"""Rows of events or predictions as columns of Arrow, which take a tenth of the memory of Python's objects.

A field of an event or a prediction is the column `.<field>`; what else is known of a row (its id, when it was
published) is a column of its own. A column has one type: values without a type in common become text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, Final, Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from eventml.event_types import to_builtin
from eventml.runtime import Prediction

FIELD: Final = "."
"""Before the name of a field, in the name of its column."""

_NO_TYPE: Final = (ValueError, OverflowError, NotImplementedError, TypeError)  # those of Arrow among them


class Rows:
    """Rows that come in batches. The columns that are given with their types are there without rows too."""

    def __init__(self, **columns: pa.DataType) -> None:
        self._batches = [pa.table({name: pa.array([], kind) for name, kind in columns.items()})]

    def add(self, values: Sequence[Any], **columns: Any) -> None:
        """Add a row for each event or prediction. A bare one, such as a number, has the field `value`."""
        if not set(map(type, values)) <= {dict}:  # else a copy would take as long as decoding
            values = msgspec.to_builtins(values, enc_hook=to_builtin)
        fields = [value if type(value) is dict else {"value": value} for value in values]
        names = list(dict.fromkeys(chain.from_iterable(fields)))
        try:  # of one name, `itemgetter` makes no tuple
            cells = list(zip(*map(itemgetter(*names, *names[:1]), fields), strict=True))
        except (KeyError, TypeError):  # some lack a field, or there is none
            cells = [tuple([row.get(name) for row in fields]) for name in names]
        columns |= {f"{FIELD}{name}": array_of(values) for name, values in zip(names, cells, strict=False)}
        if tuple(names) == Prediction.__struct_fields__:
            del columns[FIELD + names[0]]  # the id of the event
        self.add_columns(columns)

    def add_columns(self, columns: dict[str, Any]) -> None:
        """Add a row for each value of these columns, which are lists or arrays of one length."""
        self._batches.append(pa.table(columns))

    def table(self) -> pa.Table:
        """All rows. Where a batch lacks a column its values are null."""
        return pa.table({name: self._column(name) for batch in self._batches for name in batch.column_names})

    def _column(self, name: str) -> pa.ChunkedArray:
        batches = [batch for batch in self._batches if len(batch)] or self._batches[:1]
        parts = [
            batch.select([name]) if name in batch.column_names else pa.table([pa.nulls(len(batch))], [name])
            for batch in batches
        ]
        try:
            return pa.concat_tables(parts, promote_options="permissive").column(0)
        except _NO_TYPE:
            return pa.chunked_array([as_text(part.column(0).to_pylist()) for part in parts])


def array_of(values: Sequence[Any]) -> pa.Array:
    """Values as an array; as text if they have no type in common."""
    try:
        return pa.array(values)
    except _NO_TYPE:
        return as_text(values)


def as_text(values: Sequence[Any]) -> pa.Array:
    """Texts as they are, other values as JSON."""
    texts = [one if one is None or isinstance(one, str) else json.dumps(one, default=str) for one in values]
    return pa.array(texts, pa.string())


def fields_of_rows(rows: pa.Table) -> list[str]:
    """The names of the fields."""
    return [name.removeprefix(FIELD) for name in rows.column_names if name.startswith(FIELD)]


def one_of_each_id(rows: pa.Table, which: Literal["first", "last"]) -> pa.Table:
    """The rows without those that have the id of another one before, or behind."""
    if pc.count_distinct(rows["id"]).as_py() == len(rows):
        return rows
    places = pa.table({"id": rows["id"], "at": range(len(rows))}).group_by("id")
    [kept] = places.aggregate([("at", "min" if which == "first" else "max")]).drop("id").columns
    return rows.take(kept.sort())


def with_ids_of(rows: pa.Table, other: pa.Table) -> pa.Table:
    """The rows whose ids another table has."""
    if rows["id"].equals(other["id"]):
        return rows
    kept = pc.is_in(rows["id"], value_set=other["id"])
    return rows if pc.all(kept).as_py() else rows.filter(kept)


def in_order_of(rows: pa.Table, ids: Any) -> pa.Table:
    """The row of each id, in the order of the ids; one of nulls for an id that there is not."""
    return rows if rows["id"].equals(ids) else rows.take(pc.index_in(ids, value_set=rows["id"]))
