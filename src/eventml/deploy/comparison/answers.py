"""The events of a topic, and the predictions of a model that were published for them, as rows.

Rows are columns of Arrow, which take a tenth of the memory of Python's objects. A field of an event or a
prediction is the column `.<field>`; what else is known of a row (its id, when it was published) is a column
of its own. A column has one type: values without a type in common become text.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from itertools import chain
from operator import itemgetter
from typing import Any, Final, Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from eventml.bus import Bus, read_batches
from eventml.errors import DecodeError, TopicNotFoundError
from eventml.event_types import to_builtin
from eventml.handlers import Handler
from eventml.records import MODEL_VERSION
from eventml.runtime import Item, Prediction, dead_letter_topic

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


_BATCH: Final = 8192  # events, or predictions, that become rows at once


class Answers(msgspec.Struct):
    """The predictions of one model.

    Attributes:
        name: The predictor's name.
        rows: A row for each event that has a prediction: `id`, `version` of the model, the fields, and
            `timestamp` if it was read from a topic.
        failed: Number of the events that became dead letters, and have no prediction since.
    """

    name: str
    rows: pa.Table
    failed: int = 0


def answer_rows() -> Rows:
    """No rows of predictions; see `Answers.rows`."""
    return Rows(id=pa.string(), version=pa.string())


async def read_events(bus: Bus, handler: Handler, *, start: Any, until: Any) -> pa.Table:
    """Read the events of a predictor's topic between two times. The arguments are those of `Bus.read`."""
    rows = Rows(id=pa.string(), timestamp=pa.float64())
    async for items in batches_of(bus, handler.topic, start, until):
        add_events(rows, items)
    return one_of_each_id(rows.table(), "first")


def add_events(rows: Rows, items: list[Item]) -> None:
    """Add events to rows: their `id`, the broker's `timestamp`, and the fields."""
    deliveries = [item.delivery for item in items]
    ids, times = [one.record.id for one in deliveries], [one.timestamp for one in deliveries]
    rows.add([item.event for item in items], id=ids, timestamp=times)


async def read_answers(bus: Bus, handler: Handler, events: pa.Table, *, start: Any) -> Answers:
    """Read the predictions for these events from the predictor's topic, and count their dead letters."""
    rows = answer_rows()
    await read_predictions(bus, handler, rows, start)
    return await answers_of(bus, handler, events, rows, start)


async def read_predictions(bus: Bus, handler: Handler, rows: Rows, start: Any) -> None:
    """Read the predictions of a predictor from its topic, up to its end, and add them to rows."""
    [topic] = handler.outputs
    mark = f"/{handler.name}"
    async for items in batches_of(bus, topic, start, "end"):
        found = [(item, *item.delivery.record.id.rpartition(mark)) for item in items]
        # Others are of another publisher.
        own = [(item, i) for item, i, mark, behind in found if mark and (not behind or behind[0] == "@")]
        rows.add(
            [item.event for item, _ in own],
            id=[input_id for _, input_id in own],
            version=[item.delivery.record.headers.get(MODEL_VERSION, "") for item, _ in own],
            timestamp=[item.delivery.timestamp for item, _ in own],
        )


async def answers_of(bus: Bus, handler: Handler, events: pa.Table, rows: Rows, start: Any) -> Answers:
    """The predictions for these events among those that were read, and how many events have failed."""
    answered = one_of_each_id(with_ids_of(rows.table(), events), "last")
    failed: set[str] = set()
    with suppress(TopicNotFoundError):  # nothing has failed
        topic = dead_letter_topic(handler.topic, handler.options.group)
        async for items in batches_of(bus, topic, start, "end"):
            failed.update(item.delivery.record.id for item in items)
    ids = pa.array(failed, pa.string())
    # One with a prediction has been replayed.
    lost = pc.and_not(pc.is_in(ids, value_set=events["id"]), pc.is_in(ids, value_set=answered["id"]))
    return Answers(handler.name, answered, lost.true_count)


async def batches_of(bus: Bus, topic: str, start: Any, until: Any) -> AsyncGenerator[list[Item], None]:
    """The deliveries of a topic with their events, in batches, without those that cannot be decoded."""
    items: list[Item] = []
    async with aclosing(read_batches(bus, topic, start=start, until=until)) as batches:
        async for deliveries, events in batches:
            items += map(Item, deliveries, events)
            if len(items) >= _BATCH:
                yield [item for item in items if not isinstance(item.event, DecodeError)]
                items = []
    yield [item for item in items if not isinstance(item.event, DecodeError)]
