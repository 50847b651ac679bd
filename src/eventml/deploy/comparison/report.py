"""A comparison as an HTML page, and its pairs as a Parquet file."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING, Any

from eventml.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from eventml.deploy.comparison.answers import Answers, Events
    from eventml.deploy.comparison.differences import Comparison

Table = tuple[str, "Sequence[str]", "Sequence[Sequence[str]]"]
"""The title of a table, its columns and its rows."""

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
svg { width: 100%; height: 10rem; fill: #3b82f6; }
"""


def html_report(title: str, tables: Sequence[Table], comparison: Comparison) -> str:
    """Return a page with tables and a histogram of the differences. It loads nothing from elsewhere."""
    parts = [f"<h1>{escape(title)}</h1>"]
    for name, columns, rows in tables:
        head = "".join(f"<th>{escape(column)}</th>" for column in columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows
        )
        parts.append(f"<h2>{escape(name)}</h2>\n<table><tr>{head}</tr>\n{body}</table>")
    if comparison.histogram:
        parts.append(f"<h2>Absolute difference of {escape(comparison.compared)}</h2>\n{_svg(comparison)}")
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{_STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</html>\n"
    )


def _svg(comparison: Comparison) -> str:
    highest = max(count for _, count in comparison.histogram)
    bars = "".join(
        f'<rect x="{5 * number}" y="{100 - 100 * count / highest:.2f}" width="4.5" '
        f'height="{100 * count / highest:.2f}"><title>up to {bound:.4g}: {count}</title></rect>'
        for number, (bound, count) in enumerate(comparison.histogram)
    )
    label = 'preserveAspectRatio="none" role="img" aria-label="histogram"'
    return f'<svg viewBox="0 0 100 100" {label}>{bars}</svg>'


def write_pairs(path: Path, events: Events, first: Answers, second: Answers) -> int:
    """Write a row for each event that both have answered: its id, its fields, and both predictions.

    The predictions are in the columns `old_<field>` and `new_<field>`. A field of the event that is named
    like another column is in `event_<field>`. Returns the number of rows.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - optional
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as exc:
        raise MissingExtraError("batch", f"writing {path}") from exc
    ids = [input_id for input_id in first.fields if input_id in second.fields]
    columns: dict[str, list[Any]] = {"id": ids}
    for prefix, fields in (("old_", first.fields), ("new_", second.fields), ("", events.fields)):
        for name in dict.fromkeys(name for input_id in ids for name in fields[input_id]):
            column = f"{prefix}{name}" if f"{prefix}{name}" not in columns else f"event_{name}"
            columns[column] = [fields[input_id].get(name) for input_id in ids]
    for name in [name for name in columns if name.startswith(("old_", "new_"))]:
        columns[name] = columns.pop(name)  # behind the event's fields
    parquet.write_table(pa.table({name: _column(values) for name, values in columns.items()}), path)
    return len(ids)


def _column(values: Sequence[Any]) -> Any:
    """Values as a column of Parquet; as text in JSON if they have no type in common that Parquet has."""
    import pyarrow as pa  # noqa: PLC0415 - optional
    from pyarrow import parquet  # noqa: PLC0415

    try:
        column = pa.array(values)
        if pa.types.is_nested(column.type):  # one of no fields cannot be written
            parquet.write_table(pa.table({"tried": column[:1]}), pa.BufferOutputStream())
    except (ValueError, OverflowError, NotImplementedError, TypeError):
        return pa.array(
            [None if value is None else json.dumps(value, default=str) for value in values], pa.string()
        )
    return column
