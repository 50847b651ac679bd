"""Past events predicted again: those of a topic as on a stream, those of a file as in a batch job."""

from __future__ import annotations

from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import msgspec
import pyarrow as pa
from anyio import to_thread
from msgspec.structs import replace

from eventml.bus import Bus
from eventml.codec import Decoder
from eventml.deploy.batch import DEFAULT_CHUNK, FileLocation, RowDecoder, Scorer, open_source
from eventml.deploy.comparison.answers import (
    Answers,
    answer_rows,
    answers_of,
    event_batches,
    event_rows,
    read_predictions,
)
from eventml.deploy.comparison.report import OLD, fields_of_pairs
from eventml.deploy.comparison.rows import FIELD, Rows, array_of, first_of_each_id, last_of_each_id
from eventml.errors import ConfigError, DecodeError, UnsupportedError
from eventml.handlers import Handler
from eventml.runtime import (
    Item,
    LoadedHandler,
    Retry,
    Stats,
    call_without_stream,
    load_handlers,
    task_group,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from anyio.streams.memory import MemoryObjectSendStream

_CALL: Final = 8192  # events predicted again in one call; a limit of the handler is kept
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
        UnsupportedError: They would be published as events of the predictor.
        BackendError: The topics cannot be read, or the predictions cannot be published.
    """
    if publish_to == handler.topic:
        raise UnsupportedError(f"{publish_to} has the events of {handler.name}: publish to another topic")
    begun = datetime.now(UTC) - _CLOCKS_DIFFER
    events, old, new, failed, done = event_rows(), answer_rows(), answer_rows(), set[str](), 0

    async def read(send: MemoryObjectSendStream[list[Item]]) -> None:
        found = event_batches(bus, handler, events, start=start, until=until)
        async with send, aclosing(found):
            async for items in found:
                await send.send(items)

    async with _loaded(bus, again) as loaded:
        predict = _Prediction(bus, loaded, publish_to, new, failed)
        send, batches = anyio.create_memory_object_stream[list[Item]](1)
        async with batches, task_group() as tasks:
            tasks.start_soon(read, send)
            tasks.start_soon(partial(read_predictions, bus, handler, old, start=start))
            async for items in batches:
                await predict(items)
                done += len(items)
                progress(done)
    await read_predictions(bus, handler, old, start=begun)  # those that were published meanwhile
    past = first_of_each_id(events.table())
    first = await answers_of(bus, handler, past, old, start=start)
    return past, first, Answers(handler.name, last_of_each_id(new.table()), len(failed))


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
        version = "" if loaded.model is None else loaded.model.version
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
            second.add_columns({"id": scored.ids, "version": [version] * len(scored.ids), **made})
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


def _of_json(texts: Sequence[str | None]) -> pa.Array:
    return array_of([None if text is None else msgspec.json.decode(text) for text in texts])


class _Prediction:
    """Predicts batches as on a stream, and adds the predictions to rows, and the ids of events that fail."""

    def __init__(
        self, bus: Bus, loaded: LoadedHandler, publish_to: str, rows: Rows, failed: set[str]
    ) -> None:
        handler, stats = loaded.handler, Stats()
        call = call_without_stream(handler, loaded.model, loaded.resources, source=bus.name, stats=stats)
        self._retry = Retry(call, handler, stats=stats, ordered=False)
        self._version = "" if loaded.model is None else loaded.model.version
        self._most = handler.options.max_batch or _CALL
        # The events of a topic that is declared with the handler's type are decoded once.
        declared = bus.declared_topic(handler.topic).event_type
        self._decoder = None if declared is handler.event_type else loaded.decoder
        self._bus = bus
        self._publish_to = publish_to
        self._rows = rows
        self._failed = failed

    async def __call__(self, items: list[Item]) -> None:
        if self._decoder is not None:
            deliveries = [item.delivery for item in items]
            items = list(map(Item, deliveries, self._decoder.decode(deliveries)))
        valid = [item for item in items if not isinstance(item.event, DecodeError)]
        self._failed.update(item.delivery.id for item in items if isinstance(item.event, DecodeError))
        for first in range(0, len(valid), self._most):
            completions = await self._retry.process_all(valid[first : first + self._most])
            self._failed.update(one.delivery.id for one in completions if one.dead_letter)
            answered = [one for one in completions if one.outputs and not one.dead_letter]
            records = [one.outputs[0] for one in answered]
            self._rows.add(
                msgspec.json.decode(b"[" + b",".join([record.value for record in records]) + b"]"),
                id=[one.delivery.record.id for one in answered],
                version=[self._version] * len(records),
            )
            if self._publish_to:
                await self._bus.backend.publish(
                    [replace(record, topic=self._publish_to) for record in records]
                )
