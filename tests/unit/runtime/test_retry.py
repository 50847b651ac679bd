"""Retries and bisecting, whatever fails: each event is finished once, and in order where order is kept."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
from hypothesis import given
from hypothesis import strategies as st

from eventml import Bus, Reject
from eventml.records import Delivery, Record
from eventml.runtime import FailFast, Retry
from eventml.runtime.calls.caller import Caller, Item
from eventml.runtime.calls.handler_call import CallSteps, HandlerCall
from eventml.runtime.calls.outputs import Outputs
from eventml.runtime.stats import Stats

if TYPE_CHECKING:
    from eventml.backends.base import Completion

ALWAYS = 1_000_000
EVENT, INFRASTRUCTURE, REJECT, OUTPUT = range(4)
ERRORS: list[Exception] = [KeyError("zone"), ConnectionError("down"), Reject("no ride")]


class Event(msgspec.Struct):
    """How the handler fails on it.

    Attributes:
        number: Its number.
        key: Its key.
        error: How: by one of the ERRORS, or by a bad output.
        times: How often, before it succeeds.
        silent: Whether it then has no output.
    """

    number: int
    key: bytes | None
    error: int
    times: int
    silent: bool


def events(failures: tuple[int, ...]) -> st.SearchStrategy[Event]:
    return st.builds(
        Event,
        number=st.just(0),
        key=st.sampled_from([None, b"", b"a", b"b"]),
        error=st.sampled_from([EVENT, INFRASTRUCTURE, REJECT, OUTPUT]),
        times=st.sampled_from(failures),
        silent=st.booleans(),
    )


def batches(*failures: int) -> st.SearchStrategy[list[list[Event]]]:
    return st.lists(st.lists(events(failures), min_size=1, max_size=12), max_size=6)


class Run:
    """One handler and its batches, processed one after the other."""

    def __init__(
        self,
        *,
        batched: bool,
        ordered: bool,
        retries: int = 0,
        failure_policy: type[Retry] = Retry,
    ) -> None:
        self.calls: Counter[int] = Counter()
        bus = Bus("rides")
        register = bus.predictor("t", to="u", retries=retries, backoff=0.0, name="handle")
        register(self._handle_all if batched else self._handle)
        handler = bus.handlers["handle"]
        stats = Stats()
        caller = Caller(handler, {}, ordered=ordered, stats=stats)
        outputs = Outputs(handler, {}, model=None, source="rides")
        call = HandlerCall(handler, CallSteps(caller, outputs), stats)
        self.retry = failure_policy(call, handler, stats=stats, ordered=ordered)
        self.completions: list[Completion] = []

    async def _handle(self, event: Event) -> float | None:
        self.calls[event.number] += 1
        if self.calls[event.number] > event.times:
            return None if event.silent else 1.0
        if event.error == OUTPUT:
            return math.nan
        raise ERRORS[event.error]

    async def _handle_all(self, events: list[Event]) -> list[float | None]:
        return [await self._handle(event) for event in events]

    async def process(self, batches: list[list[Event]], retry_after: set[int]) -> None:
        """Process the batches, with retries after some of them and until the retry queue is empty."""
        for position, batch in enumerate(batches):
            items = [Item(delivery(event), event) for event in batch]
            completions = await self.retry.process(items)
            numbers = numbers_of(completions)
            assert numbers == sorted(numbers), "the completions of a batch are in the order of its events"
            self.completions += completions
            if position in retry_after:
                self.completions += await self.retry.process_due()
        while self.retry.queue:
            self.completions += await self.retry.process_due()

    @property
    def dead_letters(self) -> dict[int, str]:
        """The exceptions of the dead letters, by the number of the event."""
        return {
            int(c.delivery.record.id): c.outputs[0].headers["eventml-dlq-exception"]
            for c in self.completions
            if c.dead_letter
        }


def delivery(event: Event) -> Delivery:
    return Delivery(Record("t", b"", event.key, str(event.number)), 0, event.number, 0.0)


def numbers_of(completions: list[Completion]) -> list[int]:
    return [int(completion.delivery.record.id) for completion in completions]


def numbered(batches: list[list[Event]]) -> list[Event]:
    """Number the events, and let none of them fail for ever because of the infrastructure."""
    everything = [event for batch in batches for event in batch]
    for number, event in enumerate(everything):
        event.number = number
        if event.error == INFRASTRUCTURE:
            event.times %= 5
    return everything


@given(
    batches(0, 0, 0, 1, 2, 3, ALWAYS),
    st.sets(st.integers(0, 5)),
    st.booleans(),
    st.integers(0, 2),
    st.booleans(),
)
def test_each_event_is_finished_once_and_each_key_in_order(
    drawn: list[list[Event]], retry_after: set[int], batched: bool, retries: int, ordered: bool
) -> None:
    everything = numbered(drawn)
    run = Run(batched=batched, ordered=ordered, retries=retries)
    anyio.run(run.process, drawn, retry_after)
    assert sorted(numbers_of(run.completions)) == [event.number for event in everything]
    failed = run.dead_letters.keys()
    assert failed >= {e.number for e in everything if e.times == ALWAYS}
    assert failed.isdisjoint(e.number for e in everything if e.times == 0 or e.error == INFRASTRUCTURE)
    if not batched:
        expected = {e.number for e in everything if _fails_for_good(e, retries)}
        assert failed <= expected
        # An event behind a bad output of its key has been called, and is called again: it may succeed then.
        assert failed == expected or OUTPUT in {e.error for e in everything}
    if ordered:
        by_key: defaultdict[Any, list[int]] = defaultdict(list)
        for completion in run.completions:
            by_key[completion.delivery.record.key].append(int(completion.delivery.record.id))
        for unkeyed in (None, b""):
            by_key.pop(unkeyed, None)
        assert all(numbers == sorted(numbers) for numbers in by_key.values())


def _fails_for_good(event: Event, retries: int) -> bool:
    """Whether an event of a handler of single events becomes a dead letter."""
    if event.error == INFRASTRUCTURE:
        return False
    return event.times > (0 if event.error == REJECT else retries)


@given(batches(0, 0, 0, ALWAYS), st.booleans(), st.booleans())
def test_fail_fast_finishes_each_event_of_a_batch_at_once(
    drawn: list[list[Event]], batched: bool, ordered: bool
) -> None:
    everything = [event for batch in drawn for event in batch]
    for number, event in enumerate(everything):
        event.number = number
    run = Run(batched=batched, ordered=ordered, failure_policy=FailFast)
    anyio.run(run.process, drawn, set())
    assert numbers_of(run.completions) == [event.number for event in everything]
    bad = {e.number for e in everything if e.times}
    assert run.dead_letters.keys() >= bad
    if not batched:
        assert max(run.calls.values(), default=1) == 1, "nothing is called twice"
    if not any(e.error == INFRASTRUCTURE for e in everything if e.times):
        assert run.dead_letters.keys() == bad
    assert "ConnectionError" not in run.dead_letters.values(), "the caller is told that he may try again"
    unavailable = {number for number, error in run.dead_letters.items() if error == "UnavailableError"}
    assert run.dead_letters.keys() - bad <= unavailable
