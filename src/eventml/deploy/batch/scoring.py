"""Calling the predictor for a chunk: at once where all goes well, with the stream's policy where not."""

from __future__ import annotations

import logging
import time
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from eventml.backends.base import Completion
from eventml.deploy.batch.chunks import Answered, Chunk, Column, Rejected
from eventml.deploy.batch.columns import cut, joined, take
from eventml.deploy.batch.outcomes import Outcomes
from eventml.deploy.batch.schema import of_type, of_values, plain
from eventml.errors import OutputError
from eventml.handlers import DEFAULT_MAX_BATCH, DEFAULT_MAX_BATCH_SINGLE
from eventml.records import Delivery, Record
from eventml.runtime import (
    DLQ_PREFIX,
    Caller,
    CallResults,
    Deferred,
    Failed,
    Item,
    Retry,
    Stats,
    call_results,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventml.deploy.batch.decoding import Decoded, Decoding
    from eventml.deploy.batch.schema import Schema
    from eventml.runtime import LoadedHandler

    Result = Completion | Failed | Deferred


class Scorer:
    """One handler, equipped, and its answers to chunks.

    A chunk is one call. Where that fails, or its outputs do not fit, the rows go the way of a stream's:
    in batches, bisected, tried again, and set aside with the reason.

    Args:
        job: The handler with its model and resources.
        decoding: Makes events of a chunk.

    Attributes:
        schema: The columns of the output, once they are known.
    """

    def __init__(self, job: LoadedHandler, decoding: Decoding) -> None:
        self._handler = handler = job.handler
        self._decoding = decoding
        self._outcomes = Outcomes(handler)
        stats = Stats()
        self._caller = Caller(handler, job.resources, ordered=False, stats=stats)
        self._answers: dict[int, Any] = {}
        self._retry = Retry(self._call, handler, stats=stats, ordered=False, log_level=logging.DEBUG)
        self.schema: Schema | None = of_type(handler.output_type)

    async def score(self, chunk: Chunk, repeated: int = 0) -> Answered:
        """The answers to a chunk, as columns.

        Args:
            chunk: The rows.
            repeated: How many were taken out of it before.
        """
        read = len(chunk) + repeated
        decoded = await to_thread.run_sync(self._decoding.decode, chunk)
        outputs, kept, rejected = await self._answer(decoded)
        return await to_thread.run_sync(
            self._columns, chunk, decoded, outputs, kept, [*decoded.rejected, *rejected], read, repeated
        )

    async def _answer(self, decoded: Decoded) -> tuple[Column, Sequence[int] | None, list[Rejected]]:
        """Outputs, the numbers of the events that they answer (None is all), and the rejects."""
        size = len(decoded.events)
        whole: list[Column] = []
        kept: list[int] = []
        rejected: list[Rejected] = []
        for start in range(0, size, self._most(size)):
            stop = min(start + self._most(size), size)
            outputs = await self._at_once(cut(decoded.events, start, stop), stop - start)
            if outputs is None:
                answers, letters = await self._carefully(decoded, start, stop)
                rejected += letters
                whole.append(list(answers.values()))
                kept += answers
            else:
                whole.append(outputs)
                kept += range(start, stop)
        return joined(whole) if whole else [], kept if len(kept) < size else None, rejected

    def _most(self, size: int) -> int:
        """The most events in one call: the whole chunk, unless the handler says otherwise than by default."""
        options = self._handler.options
        default = DEFAULT_MAX_BATCH if self._handler.batched else DEFAULT_MAX_BATCH_SINGLE
        return max(size if options.max_batch == default and options.timeout is None else options.max_batch, 1)

    async def _at_once(self, events: Any, size: int) -> Column | None:
        """The outputs of one call for all; None where anything is wrong, or events are called one by one."""
        if not self._handler.batched:
            return None
        try:
            return self._outcomes.checked(await self._caller.call_whole(events), size)
        except Exception:  # noqa: BLE001 - a handler may raise anything; the careful way finds out why
            return None

    async def _carefully(
        self, decoded: Decoded, start: int, stop: int
    ) -> tuple[dict[int, Any], list[Rejected]]:
        """By the stream's rules: the outputs by the events' numbers, in their order, and the rejects."""
        now = time.time()
        topic = self._handler.topic
        ids = decoded.ids[start:stop]
        listed = ids if isinstance(ids, list) else ids.to_pylist()
        items = [
            Item(Delivery(Record(topic, b"", id=str(one)), 0, number, now), event)
            for number, (one, event) in enumerate(
                zip(listed, decoded.listed(start, stop), strict=True), start
            )
        ]
        self._answers = {}
        completions: list[Completion] = []
        step = (
            min(self._handler.options.max_batch, DEFAULT_MAX_BATCH)
            if self._handler.batched
            else DEFAULT_MAX_BATCH
        )
        for first in range(0, len(items), step):
            completions += await self._retry.process(items[first : first + step])
        while (due := self._retry.queue.next_due) is not None:
            await anyio.sleep(max(due - anyio.current_time(), 0))
            completions += await self._retry.process_due()
        letters = {c.delivery.offset: c for c in completions if c.dead_letter}
        answers = {n: self._answers[n] for n in range(start, stop) if n not in letters}
        return answers, [_rejected(c, decoded.row) for c in letters.values()]

    async def _call(self, items: Sequence[Item]) -> CallResults:
        outputs: Any = await self._caller.call(items)
        if self._handler.batched:
            checked: Sequence[Any] = self._outcomes.listed(outputs, len(items))
        else:
            checked = self._outcomes.each(outputs)
        results: list[Result] = []
        for item, output in zip(items, checked, strict=True):
            if isinstance(output, Failed | Deferred):
                results.append(output)
            else:
                self._answers[int(item.delivery.offset)] = output
                results.append(Completion(item.delivery))
        return call_results(results)

    def _columns(
        self,
        chunk: Chunk,
        decoded: Decoded,
        outputs: Column,
        kept: Sequence[int] | None,
        rejected: Sequence[Rejected],
        read: int,
        repeated: int,
    ) -> Answered:
        ids = decoded.ids if kept is None else take(decoded.ids, kept)
        silent = 0
        if isinstance(outputs, list) and None in outputs:
            spoken = [number for number, output in enumerate(outputs) if output is not None]
            silent = len(outputs) - len(spoken)
            ids, outputs = take(ids, spoken), take(outputs, spoken)
        return Answered(
            after=chunk.after,
            ids=ids,
            columns=self._split(outputs) if len(outputs) else [],
            schema=self.schema,
            rejected=rejected,
            read=read,
            repeated=repeated,
            silent=silent,
            done=chunk.done,
        )

    def _split(self, outputs: Column) -> list[Column]:
        """One column a field."""
        if self.schema is None:
            self.schema = self._outcomes.schema_of(outputs) or of_values(outputs)
        if self.schema is None:
            return []
        if not isinstance(outputs, list):
            return [outputs]
        getter: Any = itemgetter if isinstance(outputs[0], dict) else attrgetter
        try:
            return [
                plain(list(map(getter(field.source), outputs)) if field.source else outputs, field.kind)
                for field in self.schema.fields
            ]
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            names = ", ".join(field.name for field in self.schema.fields)
            raise OutputError(
                f"{self._handler.name}: its outputs are not all of one kind, with the columns {names}: {exc}"
            ) from exc


def _rejected(letter: Completion, row: Callable[[int], str]) -> Rejected:
    """What a dead letter is to a batch job."""
    headers = letter.outputs[0].headers
    exception, message = headers[f"{DLQ_PREFIX}exception"], headers[f"{DLQ_PREFIX}message"]
    return Rejected(
        id=letter.delivery.record.id,
        exception=exception,
        message=message.removeprefix(f"{exception.rpartition('.')[2]}: "),
        row=row(int(letter.delivery.offset)),
        attempts=int(headers[f"{DLQ_PREFIX}attempts"]),
    )
