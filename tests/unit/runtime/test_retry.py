"""Retries, bisecting and parking together, whatever fails: nothing is lost, and no key out of order."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from hypothesis import given
from hypothesis import strategies as st

from eventml import Bus, Reject
from eventml.codec import Encoder
from eventml.records import Delivery, Record
from eventml.runtime.batching import Item
from eventml.runtime.calling import Caller
from eventml.runtime.outputs import Outputs
from eventml.runtime.processing import BatchProcessor
from eventml.runtime.stats import Stats

if TYPE_CHECKING:
    from eventml.backends.base import Completion

EVER = 1_000_000
EVENT, INFRASTRUCTURE, REJECT, OUTPUT = range(4)
ERRORS: list[Exception] = [KeyError("zone"), ConnectionError("down"), Reject("no ride")]


class Event(msgspec.Struct):
    """What the handler is to do with it: fail so many times, by raising or by its output."""

    number: int
    key: bytes | None
    error: int
    times: int


events = st.builds(
    Event,
    number=st.just(0),
    key=st.sampled_from([None, b"a", b"b"]),
    error=st.sampled_from([EVENT, INFRASTRUCTURE, REJECT, OUTPUT]),
    times=st.sampled_from([0, 0, 0, 1, 2, 3, EVER]),
)
batches = st.lists(st.lists(events, min_size=1, max_size=12), max_size=6)


class Run:
    """One handler, its batches answered, with retries in between."""

    def __init__(self, *, batched: bool, retries: int, ordered: bool) -> None:
        self.calls: Counter[int] = Counter()
        bus = Bus("rides")
        register = bus.predictor("t", to="u", retries=retries, backoff=0.0, name="handle")
        register(self._handle_all if batched else self._handle)
        handler = bus.handlers["handle"]
        stats = Stats()
        self.answering = BatchProcessor(
            handler,
            caller=Caller(handler, {}, ordered=ordered, stats=stats),
            outputs=Outputs(handler, "u", model=None, source="rides", encoder=Encoder()),
            stats=stats,
            ordered=ordered,
        )
        self.done: list[Completion] = []

    async def _handle(self, event: Event) -> float:
        self.calls[event.number] += 1
        if self.calls[event.number] > event.times:
            return 1.0
        if event.error == OUTPUT:
            return math.nan
        raise ERRORS[event.error]

    async def _handle_all(self, events: list[Event]) -> list[float]:
        return [await self._handle(event) for event in events]

    async def take(self, batches: list[list[Event]], retry_after: set[int]) -> None:
        for position, batch in enumerate(batches):
            items = [Item(delivery(event), event) for event in batch]
            self.done += await self.answering.process(items)
            if position in retry_after:
                self.done += await self.answering.process_due()
        while self.answering.retry_queue:
            self.done += await self.answering.process_due()

    @property
    def set_aside(self) -> set[int]:
        return {int(c.delivery.record.id) for c in self.done if c.outputs[0].topic != "u"}


def delivery(event: Event) -> Delivery:
    return Delivery(Record("t", b"", event.key, str(event.number)), 0, event.number, 0.0)


def numbered(batches: list[list[Event]]) -> list[list[Event]]:
    """Each event with a number of its own, and none that the infrastructure fails for ever."""
    count = 0
    for batch in batches:
        for event in batch:
            event.number, count = count, count + 1
            if event.error == INFRASTRUCTURE:
                event.times %= 5
    return batches


@given(batches, st.sets(st.integers(0, 5)), st.booleans(), st.integers(0, 2), st.booleans())
def test_each_event_is_finished_once_and_each_key_in_order(
    drawn: list[list[Event]], retry_after: set[int], batched: bool, retries: int, ordered: bool
) -> None:
    run = Run(batched=batched, retries=retries, ordered=ordered)
    given = numbered(drawn)
    anyio.run(run.take, given, retry_after)
    everything = [event for batch in given for event in batch]
    finished = [int(c.delivery.record.id) for c in run.done]
    assert sorted(finished) == [event.number for event in everything]
    assert run.set_aside >= {e.number for e in everything if e.times == EVER}
    assert run.set_aside.isdisjoint(e.number for e in everything if e.times == 0 or e.error == INFRASTRUCTURE)
    if not batched:
        expected = {e.number for e in everything if _should_be(e, retries)}
        assert run.set_aside <= expected
        # What was called behind a bad output of its key is called anew: that may be its lucky time.
        assert run.set_aside == expected or OUTPUT in {e.error for e in everything}
    if ordered:
        by_key: defaultdict[Any, list[int]] = defaultdict(list)
        for completion in run.done:
            by_key[completion.delivery.record.key].append(int(completion.delivery.record.id))
        by_key.pop(None, None)
        assert all(numbers == sorted(numbers) for numbers in by_key.values())


def _should_be(event: Event, retries: int) -> bool:
    """Whether an event that is handled by itself ends as a dead letter."""
    if event.error == INFRASTRUCTURE:
        return False
    return event.times > (0 if event.error == REJECT else retries)
