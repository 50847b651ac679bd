"""Predictions as Arrow tables: their columns, and a chunk of them."""

from __future__ import annotations

from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from eventml.deploy.batch.chunks import RunIdentity, ScoredChunk, bisect_rows, to_integer
from eventml.deploy.batch.output_columns import PREDICTION_COLUMNS, OutputSchema, as_list
from eventml.errors import TargetError


def arrow_schema(schema: OutputSchema, *, integer_ids: bool) -> pa.Schema:
    """Return the columns of a table of predictions."""
    kinds = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    outputs = [(column.name, kinds.get(column.kind, pa.string())) for column in schema]
    common = [(name, pa.string()) for name in PREDICTION_COLUMNS[1:]]
    return pa.schema([("id", pa.int64() if integer_ids else pa.string()), *outputs, *common])


def tables_of(
    chunk: ScoredChunk, schema: OutputSchema, run: RunIdentity, columns: pa.Schema
) -> list[pa.Table]:
    """Return a chunk's predictions as tables of these columns, and reject those that do not fit them.

    Raises:
        TargetError: The predictor's outputs have other fields than the columns.
    """
    part_of = partial(_table_of, chunk, schema, run, columns)
    tables, errors = bisect_rows(len(chunk.ids), part_of, (ValueError, TypeError, OverflowError))
    chunk.reject(errors, TargetError.__name__)
    return tables


def _table_of(
    chunk: ScoredChunk, schema: OutputSchema, run: RunIdentity, columns: pa.Schema, start: int, stop: int
) -> pa.Table:
    if {c.name for c in schema} | set(PREDICTION_COLUMNS) != set(columns.names):
        found = f"{run.predictor} returns other fields than before: {', '.join(c.name for c in schema)}"
        raise TargetError(f"{found}, not {', '.join(columns.names)}. Annotate its output's type")
    ids, kind = chunk.ids[start:stop], columns.field("id").type
    if getattr(ids, "type", None) != kind:
        ids = pa.array(map(str if kind == pa.string() else to_integer, as_list(ids)), kind)
    texts = pc.cast(ids, pa.string())
    arrays = {"id": ids, "prediction_id": pc.binary_join_element_wise(texts, pa.scalar(run.id_suffix), "/")}
    for column, values in zip(schema, chunk.columns, strict=True):
        arrays[column.name] = pa.array(values[start:stop], columns.field(column.name).type)
    for name in PREDICTION_COLUMNS[2:]:
        arrays[name] = pa.repeat(pa.scalar(getattr(run, name)), len(ids))
    return pa.Table.from_arrays([arrays[name] for name in columns.names], schema=columns)
