"""Replaying dead letters to the one group that failed, dropping them, and browsing them.

A dead letter is replayed by publishing the original record to the topic it came from, with a header that
names the group: the handlers of all other groups are not called for it. Those who replay are members of the
group `<group>.replay` at the dead-letter topic, and complete the dead letter with the replayed record as its
output. Where completion is atomic, a dead letter is replayed once, whatever crashes; elsewhere a crash may
replay it again, with the same id.
"""

from __future__ import annotations

import secrets
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

import anyio
import msgspec

from eventml.backends.base import Completion, Subscription
from eventml.errors import PublishError
from eventml.records import REPLAY_GROUP, Delivery, Record
from eventml.runtime.dead_letters import DLQ_PREFIX, DeadLetterDelivery, DeadLetterFilter, read_dead_letter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

DeadLetterAction = Literal["replay", "drop"]
"""What to do with dead letters: give them back to their handlers, or delete them."""

REPLAY_RUN: Final = "eventml-replay-run"
"""Header of a replayed record: the run that replayed it, which does not replay it again if it fails again."""

_MOVED_BY: Final = f"{DLQ_PREFIX}moved-by"  # the run that moved a dead letter to the end of its topic
_REMOVED: Final = (DLQ_PREFIX, "eventml-replay-")  # prefixes of headers that a replayed record does not keep
_STEP: Final = 500  # dead letters that are received and completed at once
_PATIENCE: Final = 5.0  # seconds
_LAG_CHECK: Final = 0.5  # seconds between two checks whether any dead letter is left
_MAX_GAPS: Final = 200  # of a partition
_MAX_SHARED: Final = 256  # header mappings


class ReplayReport(msgspec.Struct):
    """The outcome of a run.

    Attributes:
        chosen: Dead letters that matched and were replayed or dropped, counted by exception.
        refused: Dead letters that the broker refused to replay, counted by reason. They stay.
        duplicates: Second dead letters of one event, which a crash can leave behind. They were dropped.
        left: How many dead letters are left; None if the backend cannot tell.
    """

    chosen: Counter[str] = msgspec.field(default_factory=Counter)
    refused: Counter[str] = msgspec.field(default_factory=Counter)
    duplicates: int = 0
    left: int | None = None


async def browse(
    subscription: Subscription,
    chosen: DeadLetterFilter,
    *,
    limit: int | None = None,
    patience: float = _PATIENCE,
) -> AsyncIterator[DeadLetterDelivery]:
    """The dead letters that match, of those that are there now. They go back when the subscription closes.

    Args:
        subscription: A member of the queue's `replay_group`.
        chosen: Which dead letters.
        limit: The most dead letters.
        patience: How long to wait for dead letters that another member has in flight, in seconds.
    """
    found = 0
    async for deliveries in _present(subscription, None, patience):
        for dead_letter in map(read_dead_letter, deliveries):
            if dead_letter is not None and chosen.matches(dead_letter):
                yield dead_letter
                found += 1
                if found == limit:
                    return


async def replay_or_drop(
    subscription: Subscription,
    chosen: DeadLetterFilter,
    action: DeadLetterAction,
    *,
    limit: int | None = None,
    acks_singly: bool,
    patience: float = _PATIENCE,
) -> ReplayReport:
    """Replay or drop the dead letters that match, of those that are there now. The others stay.

    Dead letters of one key are replayed in their order. One that is replayed and fails again during the run
    waits for the next run.

    Args:
        subscription: A member of the queue's `replay_group`.
        chosen: Which dead letters.
        action: What to do with them.
        limit: The most dead letters.
        acks_singly: Whether the backend acknowledges each record by itself, however many before it are not. A
            backend that keeps a group's position as an offset remembers only so many gaps: there, dead
            letters that do not match are moved to the end of the topic, once those that match have left many
            gaps.
        patience: As for `browse`.

    Raises:
        UnavailableError: the broker cannot be reached. The dead letters of the last step may have been
            replayed, and may be replayed again where completion is not atomic.
    """
    run = _Run(chosen, action, limit, None if acks_singly else _Gaps())
    async for deliveries in _present(subscription, run.id, patience):
        steps = run.decide(deliveries)
        run.count(steps, await _complete(subscription, [completion for _, completion in steps]))
        if run.over:
            break
    run.report.left = await subscription.lag()
    return run.report


async def _complete(subscription: Subscription, completions: Sequence[Completion]) -> Mapping[int, str]:
    """Complete, and return which completions were refused and why, by position."""
    if completions:
        try:
            await subscription.complete(completions)
        except PublishError as exc:
            if not exc.failed:
                raise
            return exc.failed
    return {}


async def _present(
    subscription: Subscription, run: str | None, patience: float
) -> AsyncIterator[Sequence[Delivery]]:
    """As many deliveries as there are now, without those that this run has caused itself."""
    expected = await subscription.lag()
    while expected is None or expected > 0:
        deliveries = await _receive(subscription, patience)
        if not deliveries:
            return
        others = [d for d in deliveries if run is None or run not in _caused_by(d)]
        if expected is not None:
            others = others[:expected]
            expected -= len(others)
        if others:
            yield others


async def _receive(subscription: Subscription, patience: float) -> Sequence[Delivery]:
    """Some deliveries; none if other members complete the rest, or do not within `patience`."""
    with anyio.move_on_after(patience):
        while True:
            with anyio.move_on_after(_LAG_CHECK):
                return await subscription.receive(_STEP)
            if await subscription.lag() == 0:
                break
    return ()


def _caused_by(delivery: Delivery) -> set[str | None]:
    """The runs that caused a dead letter: one replayed its event, another moved it."""
    headers = delivery.record.headers
    return {headers.get(REPLAY_RUN), headers.get(_MOVED_BY)}


class _Gaps:
    """How often, in each partition, a completed record follows one that is not."""

    def __init__(self) -> None:
        self._gaps: Counter[int] = Counter()
        self._open: set[int] = set()

    def complete(self, partition: int) -> None:
        """A delivery of this partition is completed."""
        if partition in self._open:
            self._open.discard(partition)
            self._gaps[partition] += 1

    def may_leave(self, partition: int) -> bool:
        """Whether a delivery of this partition may stay uncompleted; if so, it is taken to stay."""
        if self._gaps[partition] >= _MAX_GAPS:
            return False
        self._open.add(partition)
        return True


class _Run:
    """The decisions of one run: pure state."""

    def __init__(
        self, chosen: DeadLetterFilter, action: DeadLetterAction, limit: int | None, gaps: _Gaps | None
    ) -> None:
        self.id = secrets.token_hex(8)
        self.report = ReplayReport()
        self._chosen = chosen
        self._action = action
        self._left = limit
        self._gaps = gaps
        self._origins: set[str] = set()
        self._shared_headers: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = {}

    @property
    def over(self) -> bool:
        """Whether the limit is reached."""
        return self._left is not None and self._left <= 0

    def decide(self, deliveries: Sequence[Delivery]) -> list[tuple[DeadLetterDelivery | None, Completion]]:
        """The completions for a step, each with its dead letter; None if that is moved or is a duplicate."""
        steps: list[tuple[DeadLetterDelivery | None, Completion]] = []
        for delivery in deliveries:
            if self.over:
                break  # records behind the last one that matched leave no gap
            dead_letter = read_dead_letter(delivery)
            if dead_letter is None or not self._chosen.matches(dead_letter):
                if self._gaps is not None and not self._gaps.may_leave(delivery.partition):
                    steps.append((None, Completion(delivery, (self._moved(delivery.record),))))
                continue
            if self._gaps is not None:
                self._gaps.complete(delivery.partition)
            if dead_letter.origin in self._origins:
                self.report.duplicates += 1
                steps.append((None, Completion(delivery)))
                continue
            self._origins.add(dead_letter.origin)
            if self._left is not None:
                self._left -= 1
            outputs = (self._replayed(dead_letter),) if self._action == "replay" else ()
            steps.append((dead_letter, Completion(delivery, outputs)))
        return steps

    def count(
        self, steps: Sequence[tuple[DeadLetterDelivery | None, Completion]], refused: Mapping[int, str]
    ) -> None:
        """Count the steps that were completed, and those that were refused."""
        for position, (dead_letter, _) in enumerate(steps):
            if position in refused:
                self.report.refused[refused[position]] += 1
            elif dead_letter is not None:
                self.report.chosen[dead_letter.exception] += 1

    def _replayed(self, dead_letter: DeadLetterDelivery) -> Record:
        """The record that goes back to the topic: the event as it was, for its group alone.

        Equal headers share a mapping, which backends write more cheaply.
        """
        record = dead_letter.delivery.record
        headers = {name: text for name, text in record.headers.items() if not name.startswith(_REMOVED)}
        headers |= {REPLAY_GROUP: dead_letter.group, REPLAY_RUN: self.id}
        key = tuple(headers.items())
        if key not in self._shared_headers:
            if len(self._shared_headers) >= _MAX_SHARED:
                self._shared_headers.clear()
            self._shared_headers[key] = MappingProxyType(headers)
        return Record(dead_letter.topic, record.value, record.key, record.id, self._shared_headers[key])

    def _moved(self, record: Record) -> Record:
        return msgspec.structs.replace(record, headers={**record.headers, _MOVED_BY: self.id})
