"""Past events predicted again: those of a topic as on a stream, those of a file as in a batch job."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec
import pyarrow as pa
from anyio import to_thread
from anyio.streams.memory import MemoryObjectSendStream
from msgspec.structs import replace

from eventml.bus import Bus
from eventml.codec import Decoder
from eventml.deploy.batch import DEFAULT_CHUNK, FileLocation, RowDecoder, Scorer, open_source
from eventml.deploy.comparison.answers import (
    FIELD,
    Answers,
    Rows,
    add_events,
    answer_rows,
    answers_of,
    array_of,
    batches_of,
    one_of_each_id,
    read_predictions,
)
from eventml.deploy.comparison.report import OLD, fields_of_pairs
from eventml.errors import ConfigError, DecodeError, UnsupportedError
from eventml.handlers import Handler
from eventml.runtime import Item, LoadedHandler, Retry, Stats, call_without_stream, load_handlers, task_group

_CLOCKS_DIFFER: Final = timedelta(minutes=1)  # at most, this machine's and the broker's


async def replay(
    bus: Bus,
    handler: Handler,
    again: Handler,
    *,
    start: Any,
    until: Any,
    publish_to: str = "",
    progress: Callable[[int], None],
) -> tuple[pa.Table, Answers, Answers]:
    """Predict the events of a topic again: the events, the predictions made then, and those made now.

    The next events, and the predictions made then, are read while a batch is predicted. The new predictions
    are published to a topic if one is given. `progress` is called with the number of events after each batch.
    The model is not checked on golden rows, whose recorded predictions are those of another one.

    `again` is the handler with the model to predict with.

    Raises:
        ModelError: The model cannot be loaded.
        UnsupportedError: They would be published among the predictor's events, or the predictions made then.
        BackendError: The topics cannot be read, or the predictions cannot be published.
    """
    if publish_to in (handler.topic, *handler.outputs):
        raise UnsupportedError(f"{handler.name} reads or writes {publish_to}: publish to another topic")
    begun = datetime.now(UTC) - _CLOCKS_DIFFER
    events, old, new = Rows(id=pa.string(), timestamp=pa.float64()), answer_rows(), answer_rows()
    failed, done, stats = set[str](), 0, Stats()

    async def read(send: MemoryObjectSendStream[list[Item]]) -> None:
        async with send, aclosing(batches_of(bus, handler.topic, start, until)) as found:
            async for items in found:
                add_events(events, items)
                await send.send(items)

    async def add_predictions(items: list[Item]) -> None:
        completions = await retry.process_all(items)
        failed.update(one.delivery.id for one in completions if one.dead_letter)
        answered = [one for one in completions if one.outputs and not one.dead_letter]
        records = [one.outputs[0] for one in answered]
        values = msgspec.json.decode(b"[" + b",".join([record.value for record in records]) + b"]")
        ids = [one.delivery.record.id for one in answered]
        new.add(values, id=ids, version=[_version(loaded)] * len(ids))
        if publish_to:
            await bus.backend.publish([replace(record, topic=publish_to) for record in records])

    async with _loaded(bus, again) as loaded:
        call = call_without_stream(again, loaded.model, loaded.resources, source=bus.name, stats=stats)
        retry = Retry(call, again, stats=stats, ordered=False)
        send, batches = anyio.create_memory_object_stream[list[Item]](1)
        async with batches, task_group() as tasks:
            tasks.start_soon(read, send)
            tasks.start_soon(read_predictions, bus, handler, old, start)
            async for items in batches:
                done += len(items)
                if bus.declared_topic(handler.topic).event_type is not handler.event_type:
                    deliveries = [item.delivery for item in items]
                    items = list(map(Item, deliveries, loaded.decoder.decode(deliveries)))  # noqa: PLW2901
                    failed.update(one.delivery.id for one in items if isinstance(one.event, DecodeError))
                    items = [item for item in items if not isinstance(item.event, DecodeError)]  # noqa: PLW2901
                size = handler.options.max_batch or max(len(items), 1)
                for first in range(0, len(items), size):
                    await add_predictions(items[first : first + size])
                progress(done)
    await read_predictions(bus, handler, old, begun)  # those that were published meanwhile
    past = one_of_each_id(events.table(), "first")
    then = await answers_of(bus, handler, past, old, start)
    return past, then, Answers(handler.name, one_of_each_id(new.table(), "last"), len(failed))


async def replay_file(
    bus: Bus, handler: Handler, path: Path, *, progress: Callable[[int], None]
) -> tuple[pa.Table, Answers, Answers]:
    """Predict the events of a file that `write_pairs` has written again, as a batch job; see `replay`.

    Raises:
        SourceError: The file cannot be read, or lacks columns that the events need.
        ConfigError: It has no predictions that were made then.
    """
    source = open_source(FileLocation(path, "parquet"), "id")
    decoder = RowDecoder(
        handler.event_type, "id", frame=handler.frame, strict=bus.declared_topic(handler.topic).strict
    )
    fields, old = fields_of_pairs(source.columns or ())
    names = decoder.columns_to_read(list(fields), path)
    if not old:
        raise ConfigError(
            f"{path} has no columns {OLD}...: name a file that `eventml replay --to` has written"
        )
    events, first, second, failed = Rows(id=pa.string()), answer_rows(), answer_rows(), 0
    columns = [fields[name] for name in names] + list(old.values())
    chunks = source.chunks(columns, rows=DEFAULT_CHUNK, after=None)
    async with _loaded(bus, handler) as loaded:
        scorer = Scorer(loaded, decoder)
        while (chunk := await to_thread.run_sync(next, chunks, None)) is not None:
            of_event = {name: chunk.columns[fields[name]] for name in names}
            events.add_columns({"id": chunk.ids, **{FIELD + name: one for name, one in of_event.items()}})
            first.add_columns(
                {"id": chunk.ids, **{FIELD + name: chunk.columns[c] for name, c in old.items()}}
            )
            scored = await scorer.score(replace(chunk, columns=of_event))
            made = {
                FIELD + column.field: _of_json(values) if column.kind == "json" else values
                for column, values in zip(scored.schema or (), scored.columns, strict=True)
            }
            second.add_columns({"id": scored.ids, "version": [_version(loaded)] * len(scored.ids), **made})
            failed += len(scored.rejected)
            progress(chunk.done)
    then, now = Answers(handler.name, first.table()), Answers(handler.name, second.table(), failed)
    return events.table(), then, now


@asynccontextmanager
async def _loaded(bus: Bus, handler: Handler) -> AsyncIterator[LoadedHandler]:
    handler = replace(handler, options=replace(handler.options, golden=None, model_poll=None))
    decoder = Decoder(handler.event_type, strict=bus.declared_topic(handler.topic).strict)
    async with AsyncExitStack() as stack:
        [loaded] = await load_handlers(stack, [handler], bus.lifespans, [(decoder, {})])
        yield loaded


def _version(loaded: LoadedHandler) -> str:
    return "" if loaded.model is None else loaded.model.version


def _of_json(texts: Sequence[str | None]) -> pa.Array:
    return array_of([None if text is None else msgspec.json.decode(text) for text in texts])
