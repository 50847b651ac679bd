"""The events of a topic, and the predictions of a model that were published for them, as rows."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from eventml.bus import Bus, read_batches
from eventml.deploy.comparison.rows import Rows, one_of_each_id, with_ids_of
from eventml.errors import DecodeError, TopicNotFoundError
from eventml.handlers import Handler
from eventml.records import MODEL_VERSION
from eventml.runtime import Item, dead_letter_topic

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
