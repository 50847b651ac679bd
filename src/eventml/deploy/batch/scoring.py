"""Calling the predictor for a chunk: in one call, and by the stream's retry policy where that fails."""

from __future__ import annotations

import logging
import time
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio import to_thread

from eventml.backends.base import Completion
from eventml.deploy.batch.chunks import RejectedRow, RowChunk, ScoredChunk, Values, as_list, take
from eventml.deploy.batch.rows import ChunkDecoder, DecodedChunk
from eventml.deploy.batch.schema import (
    OutputSchema,
    column_values,
    schema_of_type,
    schema_of_values,
    single_column,
)
from eventml.errors import OutputError
from eventml.handlers import DEFAULT_MAX_BATCH, Handler
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
    Verdict,
    classify,
    describe,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger("eventml")

_LOG_EVERY: Final = 10.0  # seconds between two warnings of calls that failed


class Scorer:
    """Scores chunks with one loaded handler.

    A chunk is one call. If that fails, or its outputs are invalid, its rows are processed as on a stream:
    in smaller batches, bisected, tried again, and rejected with the reason. The error of the call is then the
    first error of the retry policy: the same rows are not called for again only to see it a second time.

    Args:
        handler: The handler with its model and resources.
        decoder: Decodes the chunks.

    Attributes:
        schema: The columns of the output; None until they are known.
    """

    def __init__(self, handler: LoadedHandler, decoder: ChunkDecoder) -> None:
        self._handler = handler.handler
        self._decoder = decoder
        self._outputs = ColumnOutputs(self._handler)
        stats = Stats()
        self._caller = Caller(self._handler, handler.resources, ordered=False, stats=stats)
        self._outputs_by_event: dict[int, Any] = {}
        self._retry = Retry(self._call, self._handler, stats=stats, ordered=False, log_level=logging.DEBUG)
        self._first_error: tuple[int, Exception] | None = None
        self._next_warning = 0.0
        self.schema: OutputSchema | None = schema_of_type(self._handler.output_type)

    async def score(self, chunk: RowChunk, duplicates: int = 0) -> ScoredChunk:
        """Return the predictions for a chunk, as columns.

        Args:
            chunk: The rows.
            duplicates: Rows that were dropped from the chunk because the target has their prediction.
        """
        decoded = await to_thread.run_sync(self._decoder.decode, chunk)
        size = len(decoded.events)
        parts: list[Values] = []
        kept: list[int] = []
        rejected = list(decoded.rejected)
        most = self._rows_in_call(size)
        for start in range(0, size, most):
            stop = min(start + most, size)
            outputs = await self._call_once(decoded, start, stop)
            if outputs is None:
                by_event, failed = await self._call_with_retries(decoded, start, stop)
                rejected += failed
                parts.append(list(by_event.values()))
                kept += by_event
            else:
                parts.append(outputs)
                kept += range(start, stop)
        outputs = parts[0] if len(parts) == 1 else [value for part in parts for value in as_list(part)]
        ids = decoded.ids if len(kept) == size else take(decoded.ids, kept)
        read = len(chunk) + duplicates
        return await to_thread.run_sync(self._scored, chunk, ids, outputs, rejected, read, duplicates)

    def _rows_in_call(self, size: int) -> int:
        """The most rows in one call: the whole chunk, unless `max_batch` or a `timeout` is set."""
        options = self._handler.options
        if options.max_batch is None and options.timeout is None:
            return max(size, 1)
        return self._handler.max_batch

    async def _call_once(self, decoded: DecodedChunk, start: int, stop: int) -> Values | None:
        """The outputs of one call for all rows; None if it fails, or the handler takes single events."""
        if not self._handler.batched:
            return None
        events = decoded.events
        rows = events.slice(start, stop - start) if hasattr(events, "slice") else events[start:stop]
        try:
            return self._outputs.check_columns(await self._caller.call_whole(rows), stop - start)
        except Exception as exc:  # noqa: BLE001 - a handler may raise anything
            self._first_error = (stop - start, exc)
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

    async def _call_with_retries(
        self, decoded: DecodedChunk, start: int, stop: int
    ) -> tuple[dict[int, Any], list[RejectedRow]]:
        """The outputs by the events' numbers, in their order, and the rows that the retry policy gives up."""
        now = time.time()
        topic = self._handler.topic
        ids = as_list(decoded.ids[start:stop])
        numbered = enumerate(zip(ids, decoded.event_list(start, stop), strict=True), start)
        items = [
            Item(Delivery(Record(topic, b"", id=str(row_id)), 0, number, now), event)
            for number, (row_id, event) in numbered
        ]
        self._outputs_by_event = {}
        completions: list[Completion] = []
        step = min(self._handler.max_batch, DEFAULT_MAX_BATCH) if self._handler.batched else DEFAULT_MAX_BATCH
        for first in range(0, len(items), step):
            completions += await self._retry.process(items[first : first + step])
        self._first_error = None
        while (due := self._retry.queue.next_due) is not None:
            await anyio.sleep(max(due - anyio.current_time(), 0))
            completions += await self._retry.process_due()
        dead = {c.delivery.offset: c for c in completions if c.dead_letter}
        by_event = {n: self._outputs_by_event[n] for n in range(start, stop) if n not in dead}
        return by_event, [_rejected(c, decoded.row) for c in dead.values()]

    async def _call(self, items: Sequence[Item]) -> CallResults:
        """Call the handler for the retry policy, and keep the outputs by the events' numbers."""
        if self._first_error is not None:
            size, error = self._first_error
            self._first_error = None
            if size == len(items) or self._is_infrastructure(error):
                raise error
        outputs: Any = await self._caller.call(items)
        checked = (self._outputs.check if self._handler.batched else self._outputs.check_each)(
            outputs, len(items)
        )
        results: list[Completion | Failed] = []
        for item, output in zip(items, checked, strict=True):
            if isinstance(output, Failed):
                results.append(output)
            else:
                self._outputs_by_event[int(item.delivery.offset)] = output
                results.append(Completion(item.delivery))
        return results

    def _is_infrastructure(self, error: Exception) -> bool:
        return classify(error, self._handler.options.retry_on) is Verdict.INFRASTRUCTURE

    def _scored(
        self,
        chunk: RowChunk,
        ids: Values,
        outputs: Values,
        rejected: Sequence[RejectedRow],
        read: int,
        duplicates: int,
    ) -> ScoredChunk:
        no_output = 0
        if isinstance(outputs, list) and None in outputs:
            present = [number for number, output in enumerate(outputs) if output is not None]
            no_output = len(outputs) - len(present)
            ids, outputs = take(ids, present), take(outputs, present)
        return ScoredChunk(
            position=chunk.position,
            ids=ids,
            columns=self._split(outputs) if len(outputs) else [],
            schema=self.schema,
            rejected=rejected,
            read=read,
            duplicates=duplicates,
            no_output=no_output,
            done=chunk.done,
        )

    def _split(self, outputs: Values) -> list[Values]:
        """The outputs as columns."""
        if self.schema is None:
            kind = getattr(getattr(outputs, "dtype", None), "kind", None)
            self.schema = (
                schema_of_values(outputs)
                if kind is None
                else single_column("float" if kind == "f" else "int")
            )
        if self.schema is None:
            return []
        if not isinstance(outputs, list):
            return [outputs]
        get: Any = itemgetter if isinstance(outputs[0], dict) else attrgetter
        try:
            return [
                column_values(list(map(get(c.source), outputs)) if c.source else outputs, c.kind)
                for c in self.schema.columns
            ]
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            names = ", ".join(column.name for column in self.schema.columns)
            raise OutputError(
                f"{self._handler.name}: not all of its outputs have the columns {names}: {exc}"
            ) from exc


class ColumnOutputs:
    """Checks the outputs of one handler as the stream does (`OutputChecks`), a column at a time.

    Args:
        handler: The handler.
    """

    def __init__(self, handler: Handler) -> None:
        self._checks = OutputChecks(handler)
        self._takes_frames = handler.frame is not None

    def check_columns(self, outputs: Any, inputs: int) -> Values:
        """Return an array of finite numbers as one of 64 bits each, any other outputs as a list.

        Raises:
            OutputError: The outputs are invalid.
        """
        if _is_numeric_series(outputs) and (not self._takes_frames or _has_default_index(outputs)):
            outputs = outputs.to_numpy()
        if _is_numeric_vector(outputs):
            self._checks.check_length(outputs, inputs)
            if outputs.dtype.kind != "f" or bool(_all_finite(outputs)):
                return outputs.astype("f8" if outputs.dtype.kind == "f" else "i8", copy=False)
        return list(self.check(outputs, inputs))

    def check(self, outputs: Any, inputs: int) -> Sequence[Any]:
        """Return the outputs of one call for so many inputs as a list.

        Raises:
            OutputError: The outputs are invalid.
        """
        return self._checks.check(outputs, inputs).values

    def check_each(self, outputs: Sequence[Any], _inputs: int) -> Sequence[Any]:
        """Return outputs of one call each, with `Failed` in place of each that is invalid."""
        return self._checks.check_each(outputs)


def _is_numeric_series(outputs: Any) -> bool:
    """Whether it is a Series of pandas with numpy's numbers."""
    kind = type(outputs)
    numbers = type(getattr(outputs, "dtype", None)).__module__.startswith("numpy")
    return kind.__name__ == "Series" and kind.__module__.startswith("pandas") and numbers


def _has_default_index(series: Any) -> bool:
    index = series.index
    return not len(series) or (type(index).__name__ == "RangeIndex" and index.start == 0 and index.step == 1)


def _is_numeric_vector(outputs: Any) -> bool:
    """Whether it is a numpy array of one number a row that a column of 64 bits holds unchanged."""
    dtype = getattr(outputs, "dtype", None)
    return (
        type(outputs).__name__ == "ndarray"
        and outputs.ndim == 1
        and dtype is not None
        and (dtype.kind in "fi" or (dtype.kind == "u" and dtype.itemsize < 8))  # noqa: PLR2004 - bytes
        and dtype.itemsize <= 8  # noqa: PLR2004 - bytes
    )


def _all_finite(array: Any) -> Any:
    import numpy as np  # noqa: PLC0415 - the array is numpy's, so it is installed

    return np.isfinite(array).all()


def _rejected(dead: Completion, row: Callable[[int], str]) -> RejectedRow:
    """The rejected row of a completion that carries a dead letter."""
    headers = dead.outputs[0].headers
    exception, message = headers[f"{DLQ_PREFIX}exception"], headers[f"{DLQ_PREFIX}message"]
    return RejectedRow(
        id=dead.delivery.record.id,
        exception=exception,
        message=message.removeprefix(f"{exception.rpartition('.')[2]}: "),
        row=row(int(dead.delivery.offset)),
        attempts=int(headers[f"{DLQ_PREFIX}attempts"]),
    )
