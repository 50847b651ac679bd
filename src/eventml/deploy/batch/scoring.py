"""Calling the predictor for a chunk: in one call, and by the stream's retry policy where that fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final

import anyio
from anyio import to_thread

from eventml.backends.base import Completion
from eventml.bus import Bus
from eventml.deploy.batch.chunks import RejectedRow, RowChunk, RunIdentity, ScoredChunk, bisect_rows
from eventml.deploy.batch.output_columns import (
    OutputSchema,
    Values,
    as_list,
    check_outputs,
    schema_of_outputs,
    schema_of_type,
    split_columns,
    take,
)
from eventml.deploy.batch.row_decoding import DecodedChunk, RowDecoder
from eventml.errors import ConfigError, OutputError
from eventml.handler_options import DEFAULT_MAX_BATCH
from eventml.handlers import Handler
from eventml.records import Delivery, Record
from eventml.runtime import (
    DLQ_PREFIX,
    Caller,
    CallResults,
    Failed,
    Item,
    LoadedHandler,
    OutputChecks,
    Retry,
    Stats,
    are_values,
    describe,
    plain_outputs,
)

log = logging.getLogger("eventml")

_LOG_EVERY: Final = 10.0  # seconds between two warnings of calls that failed


class _QuietRetry(Retry):
    log_level = logging.DEBUG


class Scorer:
    """Scores chunks with one loaded handler.

    A chunk is one call. If that fails, or its outputs are invalid, its rows are processed as on a stream:
    in smaller batches, bisected, tried again, and rejected with the reason.

    Attributes:
        schema: The columns of the output; None until they are known.
    """

    def __init__(self, handler: LoadedHandler, decoder: RowDecoder) -> None:
        self._handler = handler.handler
        self._decoder = decoder
        self._checks = OutputChecks(self._handler)
        stats = Stats()
        self._caller = Caller(self._handler, handler.resources, ordered=False, stats=stats)
        self._outputs_by_event: dict[int, Any] = {}
        self._retry = _QuietRetry(self._call, self._handler, stats=stats, ordered=False)
        self._next_warning = 0.0
        self.schema: OutputSchema | None = schema_of_type(self._handler.output_type)

    async def score(self, chunk: RowChunk) -> ScoredChunk:
        """Return the predictions for a chunk, as columns."""
        decoded = await to_thread.run_sync(self._decoder.decode, chunk)
        size = len(decoded.events)
        parts: list[Values] = []
        kept: list[int] = []
        options = self._handler.options
        # The whole chunk, unless `max_batch` or a `timeout` is set.
        whole = options.max_batch is None and options.timeout is None
        most = max(size, 1) if whole else self._handler.max_batch
        for start in range(0, size, most):
            stop = min(start + most, size)
            called = await self._call_once(decoded, start, stop)
            if called is None:
                if not isinstance(decoded.events, list):
                    decoded.events = self._decoder.events(chunk)
                by_event = await self._call_with_retries(decoded, start, stop)
                parts.append(list(by_event.values()))
                kept += by_event
            else:
                parts.append(called[0])
                kept += called[1]
        outputs = parts[0] if len(parts) == 1 else [value for part in parts for value in as_list(part)]
        ids = decoded.ids if len(kept) == size else take(decoded.ids, kept)
        row, rejected = decoded.row, decoded.rejected
        return await to_thread.run_sync(self._scored, chunk, ids, outputs, rejected, lambda n: row(kept[n]))

    async def _call_once(
        self, decoded: DecodedChunk, start: int, stop: int
    ) -> tuple[Values, Sequence[int]] | None:
        """The outputs of one call for all rows, and the numbers of the rows that it did not reject.

        None if it fails, or the handler takes single events.
        """
        if not self._handler.batched:
            return None
        try:
            deliveries = self._deliveries(decoded, start, stop) if self._handler.metadata else ()
            outputs = await self._caller.call_whole(decoded.events[start:stop], deliveries)
            if isinstance(outputs, list) and not are_values(self._handler, outputs):
                return self._without_rejected(decoded, start, stop, outputs)
            return check_outputs(self._checks, outputs, stop - start), range(start, stop)
        except Exception as exc:  # noqa: BLE001 - a handler may raise anything
            now = time.monotonic()
            if now >= self._next_warning:
                self._next_warning = now + _LOG_EVERY
                log.warning(
                    "%s: a call for %d rows failed (%s); looking for the rows at fault in smaller batches",
                    self._handler.name,
                    stop - start,
                    describe(exc),
                )
            return None

    def _without_rejected(
        self, decoded: DecodedChunk, start: int, stop: int, outputs: Sequence[Any]
    ) -> tuple[Values, Sequence[int]]:
        values = plain_outputs(self._handler, outputs)
        kept = [number for number, value in enumerate(values, start) if not isinstance(value, Failed)]
        self._checks.check_length(values, stop - start)
        checked = self._checks.check([values[number - start] for number in kept], len(kept))
        write = self._retry.dead_letters.write
        for delivery, value in zip(self._deliveries(decoded, start, stop), values, strict=True):
            if isinstance(value, Failed):
                decoded.rejected.append(_rejected(write(delivery, value.error), decoded.row))
        return list(checked.values), kept

    async def _call_with_retries(self, decoded: DecodedChunk, start: int, stop: int) -> dict[int, Any]:
        """The outputs by event number, in order. Rows that the retry policy gives up are rejected."""
        items = list(map(Item, self._deliveries(decoded, start, stop), decoded.events[start:stop]))
        self._outputs_by_event = {}
        completions: list[Completion] = []
        step = min(self._handler.max_batch, DEFAULT_MAX_BATCH) if self._handler.batched else DEFAULT_MAX_BATCH
        for first in range(0, len(items), step):
            completions += await self._retry.process(items[first : first + step])
        while (due := self._retry.queue.next_due) is not None:
            await anyio.sleep(max(due - anyio.current_time(), 0))
            completions += await self._retry.process_due()
        dead = {c.delivery.offset: c for c in completions if c.dead_letter}
        decoded.rejected += [_rejected(c, decoded.row) for c in dead.values()]
        return {n: self._outputs_by_event[n] for n in range(start, stop) if n not in dead}

    def _deliveries(self, decoded: DecodedChunk, start: int, stop: int) -> list[Delivery]:
        """The deliveries of rows: with the row's id, and its number as offset."""
        now, topic = time.time(), self._handler.topic
        return [
            Delivery(Record(topic, b"", id=str(row_id)), 0, number, now)
            for number, row_id in enumerate(as_list(decoded.ids[start:stop]), start)
        ]

    async def _call(self, items: Sequence[Item]) -> CallResults:
        """Call the handler for the retry policy, and keep the outputs by the events' numbers."""
        outputs: Any = await self._caller.call(items)
        if self._handler.batched and not isinstance(outputs, list):
            checked = self._checks.check(outputs, len(items)).values
        else:
            self._checks.check_length(outputs, len(items))
            checked = self._checks.check_each(plain_outputs(self._handler, outputs))
        results: list[Completion | Failed] = []
        for item, output in zip(items, checked, strict=True):
            if isinstance(output, Failed):
                results.append(output)
            else:
                self._outputs_by_event[int(item.delivery.offset)] = output
                results.append(Completion(item.delivery))
        return results

    def _scored(
        self,
        chunk: RowChunk,
        ids: Values,
        outputs: Values,
        rejected: Sequence[RejectedRow],
        row: Callable[[int], str],
    ) -> ScoredChunk:
        no_output: Values = []
        present: Sequence[int] = range(len(outputs))
        if isinstance(outputs, list) and None in outputs:
            present = [number for number, output in enumerate(outputs) if output is not None]
            no_output = take(ids, [number for number, output in enumerate(outputs) if output is None])
            ids, outputs = take(ids, present), take(outputs, present)
        schema = self.schema
        if schema is None and len(outputs):
            self.schema = schema = schema_of_outputs(outputs)
        parts, errors = bisect_rows(
            len(outputs), lambda start, stop: split_columns(outputs[start:stop], schema or ()), OutputError
        )
        columns = parts[0] if len(parts) == 1 else [list(chain(*c)) for c in zip(*parts, strict=True)]
        scored = ScoredChunk(
            position=chunk.position,
            ids=ids,
            columns=columns,
            schema=self.schema,
            rejected=rejected,
            read=len(chunk) + chunk.known,
            known=chunk.known,
            no_output=no_output,
            done=chunk.done,
            row=lambda number: row(present[number]),
        )
        scored.reject(errors, "OutputError")
        return scored


def scorable(bus: Bus, name: str, id_column: str | None) -> tuple[Handler, str]:
    """Return a predictor's handler and the column of its rows' ids, by default its topic's `id_field`.

    Raises:
        ConfigError: The handler does not return one output for each row, or the column is not known.
    """
    handler = bus.configured_handler(name)
    if not handler.outputs:
        raise ConfigError(f"{name} is a consumer: it has no outputs that could be written")
    if len(handler.outputs) > 1:
        raise ConfigError(
            f"{name} has several topics, and a job writes one table or file; write a predictor "
            f"with one of them: {', '.join(handler.outputs)}"
        )
    if handler.several:
        raise ConfigError(
            f"{name} returns a list of outputs for each event, and a job writes one prediction for "
            "each row; write a predictor that returns one, which may have a field that is a list"
        )
    id_column = id_column or bus.declared_topic(handler.topic).id_field
    if id_column is None:
        raise ConfigError(
            "the column of the rows' ids is not known. Name it with --id, or in Python id_column, or give "
            f"the topic {handler.topic!r} an id_field"
        )
    return handler, id_column


def run_identity(
    loaded: LoadedHandler, source: str, fingerprint: str, id_column: str, *, only_new: bool = False
) -> RunIdentity:
    """Return the identity of a run of a loaded predictor."""
    return RunIdentity(
        predictor=loaded.handler.name,
        model=loaded.model.name if loaded.model else "",
        model_version=loaded.model.version if loaded.model else "",
        source=source,
        fingerprint=fingerprint,
        id_column=id_column,
        only_new=only_new,
    )


def _rejected(dead: Completion, row: Callable[[int], str]) -> RejectedRow:
    headers = dead.outputs[0].headers
    exception, message = headers[f"{DLQ_PREFIX}exception"], headers[f"{DLQ_PREFIX}message"]
    return RejectedRow(
        id=dead.delivery.record.id,
        exception=exception,
        message=message.removeprefix(f"{exception.rpartition('.')[2]}: "),
        row=row(int(dead.delivery.offset)),
        attempts=int(headers[f"{DLQ_PREFIX}attempts"]),
    )
