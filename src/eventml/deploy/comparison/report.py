"""A comparison as tables and as an HTML page, and its pairs as a Parquet file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from eventml.deploy.comparison.answers import FIELD, Answers, as_text, fields_of_rows
from eventml.deploy.comparison.differences import Comparison, compare, pair

OLD: Final = "old_"
"""Before the names of columns of pairs that hold fields of the predictions made then."""

_NEW: Final = "new_"
_OF_EVENT: Final = "event_"  # before fields of the event that are named like other columns
_OTHER: Final = re.compile(
    "(event_)*(id$|old_|new_)"
)  # names of columns that a field of an event does not get

Table = tuple[str, "Sequence[str]", "Sequence[Sequence[str]]"]
"""The title of a table, its columns and its rows."""


class ModelReport(msgspec.Struct, frozen=True):
    """The predictions of one model in numbers.

    `versions` has the number of predictions by version of the model. `median_latency` is in seconds from an
    event to its prediction, by the broker's timestamps; None if they were not read.
    """

    predictor: str
    versions: dict[str, int]
    answered: int
    dead_letters: int
    median_latency: float | None

    def cells(self) -> list[str]:
        """The numbers as text."""
        versions = " ".join(version or "-" for version in self.versions)
        latency = "-" if self.median_latency is None else f"{1000 * self.median_latency:.1f} ms"
        return [self.predictor, versions, f"{self.answered:,}", f"{self.dead_letters:,}", latency]


class Report(msgspec.Struct, frozen=True):
    """A comparison of two models, and how many events they were asked for."""

    events: int
    models: tuple[ModelReport, ModelReport]
    comparison: Comparison

    def tables(self) -> list[Table]:
        """The report as tables, without those that would be empty."""
        found, number = self.comparison, _number
        only = f"{found.only_first:,} only by the first, {found.only_second:,} only by the second"
        title = f"{self.events:,} events, {found.pairs:,} answered by both, {only}"
        names = ["mean", "absolute", "p50", "p90", "p99", "largest"]
        worst = [one for one in found.worst if one.first != one.second]
        columns = {
            title: ["predictor", "model versions", "answered", "dead letters", "median latency"],
            "Differences, second minus first": ["field", "equal", "mean", "mean absolute", *names[2:]],
            f"Where {found.compared} differs most": ["feature", "values", "events", "mean absolute"],
            f"The largest differences of {found.compared}": ["event", "first", "second"],
        }
        rows: list[list[list[str]]] = [
            [one.cells() for one in self.models],
            [
                [f.field, f"{f.equal:.1%}", *(number(getattr(f, name)) for name in names)]
                for f in found.fields
            ],
            [
                [f.feature, f.values, f"{f.events:,}", number(f.absolute)]
                for f in found.features
                if f.absolute
            ],
            [[one.event, number(one.first), number(one.second)] for one in worst],
        ]
        return [(name, columns[name], cells) for name, cells in zip(columns, rows, strict=True) if cells]


def report_of(events: pa.Table, first: Answers, second: Answers) -> Report:
    """Compare the predictions of two models for some events."""
    models = _model(events, first), _model(events, second)
    return Report(len(events), models, compare(events, first.rows, second.rows))


def _model(events: pa.Table, answers: Answers) -> ModelReport:
    rows, median = answers.rows, None
    counts = pc.value_counts(rows["version"].drop_null()).to_pylist()
    if "timestamp" in rows.column_names:
        published = events["timestamp"].take(pc.index_in(rows["id"], value_set=events["id"]))
        [median] = pc.quantile(pc.subtract(rows["timestamp"], published)).to_pylist()
    latency = None if median is None else max(median, 0.0)  # clocks may have been set back
    versions = {one["values"]: one["counts"] for one in counts}
    return ModelReport(answers.name, versions, len(rows), answers.failed, latency)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def write_pairs(path: Path, events: pa.Table, first: pa.Table, second: pa.Table) -> None:
    """Write a row for each event that both have answered: its id, its fields, and both predictions.

    The predictions are in the columns `old_<field>` and `new_<field>`. A field of the event that is named
    like another column is in `event_<field>`.
    """
    events, first, second = pair(events, first, second)
    columns = {"id": first["id"]}
    for name in fields_of_rows(events):
        column = _OF_EVENT + name if _OTHER.match(name) else name
        columns[column] = _writable(events[FIELD + name])
    for prefix, rows in ((OLD, first), (_NEW, second)):
        columns |= {prefix + name: _writable(rows[FIELD + name]) for name in fields_of_rows(rows)}
    # Dictionaries of numbers and ids take most of the time, and no less room.
    texts = [name for name, column in columns.items() if pa.types.is_string(column.type) and name != "id"]
    parquet.write_table(pa.table(columns), path, use_dictionary=texts)


def fields_of_pairs(columns: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The columns of a file of pairs that hold fields of the event, and of the old predictions, by field."""
    events, old = {}, {}
    for column in columns:
        if not _OTHER.match(column):
            events[column] = column
        elif column.startswith(_OF_EVENT):
            events[column.removeprefix(_OF_EVENT)] = column
        elif column.startswith(OLD):
            old[column.removeprefix(OLD)] = column
    return events, old


def _writable(column: Any) -> Any:
    """The column; as JSON text if Parquet cannot hold it, such as objects without fields."""
    if pa.types.is_nested(column.type):
        try:
            parquet.write_table(pa.table({"tried": column[:1]}), pa.BufferOutputStream())
        except (NotImplementedError, ValueError):
            return as_text(column.to_pylist())
    return column
