"""Rows of events or predictions as columns of Arrow, which take a tenth of the memory of Python's objects.

A field of an event or a prediction is the column `.<field>`; what else is known of a row (its id, when it was
published) is a column of its own. A column has one type: values without a type in common become JSON text.
"""

from __future__ import annotations

import json
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from eventml.event_types import to_builtin
from eventml.runtime import Prediction

if TYPE_CHECKING:
    from collections.abc import Sequence

FIELD: Final = "."
"""Before the name of a field, in the name of its column."""

_JSON: Final = pa.large_string()  # no other column has this type until `Rows.table` makes it `string`
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
        try:
            cells = list(
                zip(*map(itemgetter(*names, *names[:1]), fields), strict=True)
            )  # of one name, no tuple
        except (KeyError, TypeError):  # some lack a field, or there is none
            cells = [tuple([row.get(name) for row in fields]) for name in names]
        columns |= {f"{FIELD}{name}": array_of(values) for name, values in zip(names, cells, strict=False)}
        if tuple(names) == Prediction.__struct_fields__:
            del columns[FIELD + names[0]]  # the id of the event
        self._batches.append(pa.table(columns))

    def add_columns(self, columns: dict[str, Any]) -> None:
        """Add a row for each value of these columns, which are lists or arrays of one length."""
        batch = pa.table(columns)
        types = [field.with_type(pa.string()) if field.type == _JSON else field for field in batch.schema]
        self._batches.append(batch.cast(pa.schema(types)))

    def table(self) -> pa.Table:
        """All rows. Where a batch lacks a column its values are null."""
        names = dict.fromkeys(name for batch in self._batches for name in batch.column_names)
        return pa.table({name: self._column(name) for name in names})

    def _column(self, name: str) -> pa.ChunkedArray:
        parts = [
            batch.column(name) if name in batch.column_names else pa.chunked_array([pa.nulls(len(batch))])
            for batch in self._batches
            if len(batch) or len(self._batches) == 1
        ]
        if all(part.type != _JSON for part in parts):
            try:
                tables = [pa.table([part], ["_"]) for part in parts]
                return pa.concat_tables(tables, promote_options="permissive").column(0)
            except _NO_TYPE:
                pass  # the batches have types that do not go together
        texts = [part if part.type == _JSON else as_json(part.to_pylist()) for part in parts]
        return pa.chunked_array([chunk for text in texts for chunk in _chunks(text)], _JSON).cast(pa.string())


def _chunks(column: Any) -> list[Any]:
    return list(column.chunks) if isinstance(column, pa.ChunkedArray) else [column]


def array_of(values: Sequence[Any]) -> pa.Array:
    """Values as an array; as JSON text if they have no type in common."""
    try:
        return pa.array(values)
    except _NO_TYPE:
        return as_json(values)


def as_json(values: Sequence[Any]) -> pa.Array:
    """The JSON text of each value; None stays None."""
    return pa.array([None if one is None else json.dumps(one, default=str) for one in values], _JSON)


def fields_of_rows(rows: pa.Table) -> list[str]:
    """The names of the fields."""
    return [name.removeprefix(FIELD) for name in rows.column_names if name.startswith(FIELD)]


def last_of_each_id(rows: pa.Table) -> pa.Table:
    """The rows without those that another one of the same id follows."""
    backwards = rows["id"].take(pa.array(range(len(rows) - 1, -1, -1), pa.int64()))
    return _first_of_each(rows, pc.subtract(len(rows) - 1, pc.index_in(rows["id"], value_set=backwards)))


def first_of_each_id(rows: pa.Table) -> pa.Table:
    """The rows without those that follow another one of the same id."""
    return _first_of_each(rows, pc.index_in(rows["id"], value_set=rows["id"]))


def _first_of_each(rows: pa.Table, chosen: Any) -> pa.Table:
    kept = pc.equal(chosen, pa.array(range(len(rows)), pa.int32()))
    return rows if pc.all(kept).as_py() else rows.filter(kept)


def with_ids_of(rows: pa.Table, other: pa.Table) -> pa.Table:
    """The rows whose ids another table has."""
    kept = pc.is_in(rows["id"], value_set=other["id"])
    return rows if pc.all(kept).as_py() else rows.filter(kept)


def in_order_of(rows: pa.Table, ids: Any) -> pa.Table:
    """The row of each id, in the order of the ids; one of nulls for an id that there is not."""
    return rows if rows["id"].equals(ids) else rows.take(pc.index_in(ids, value_set=rows["id"]))
