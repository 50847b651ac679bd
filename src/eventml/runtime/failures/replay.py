"""Replaying dead letters to the one group that failed, dropping them, and browsing them.

A dead letter is replayed by publishing the original record to the topic it came from, with a header that
names the group: the handlers of all other groups are not called for it. Those who replay are members of the
group `<group>.replay` at the dead-letter topic, and complete the dead letter with the replayed record as its
output. Where completion is atomic, a dead letter is replayed once, whatever crashes; elsewhere a crash may
replay it again, with the same id.

Records do not choose where they are published: the topic and the group are those of the handler whose dead
letters are replayed, and a dead letter that names others is refused.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, Literal

import anyio
import msgspec

from eventml.backends.base import Completion, Subscription
from eventml.errors import PublishError
from eventml.records import REPLAY_GROUP, Delivery, Record
from eventml.runtime.failures.dead_letters import (
    DLQ_PREFIX,
    MISPLACED,
    DeadLetterDelivery,
    DeadLetterQueue,
    read_dead_letter,
)

DeadLetterAction = Literal["replay", "drop"]
"""Action on dead letters: give them back to their handlers, or delete them."""

REPLAY_RUN: Final = "eventml-replay-run"
"""Header of a replayed record: the run that replayed it, which does not replay it again if it fails again."""

_MOVED_BY: Final = f"{DLQ_PREFIX}moved-by"  # the run that moved a dead letter to the end of its topic
_REMOVED: Final = (DLQ_PREFIX, "eventml-replay-")  # prefixes of headers that a replayed record does not keep
_STEP: Final = 500  # dead letters that are received and completed at once
_PATIENCE: Final = 5.0  # seconds
_LAG_CHECK: Final = 0.5  # seconds between two checks whether any dead letter is left
_MAX_GAPS: Final = 200  # of a partition


class DeadLetterFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Chooses the dead letters that meet every condition that is set.

    Attributes:
        ids: The event has one of these ids.
        exceptions: The last failure is of one of these classes, each by its name.
        since: The last failure was at this time or later, in seconds since the epoch.
        until: The last failure was before this time, in seconds since the epoch.
    """

    ids: frozenset[str] = frozenset()
    exceptions: frozenset[str] = frozenset()
    since: float | None = None
    until: float | None = None

    def matches(self, dead_letter: DeadLetterDelivery) -> bool:
        """Whether a dead letter meets all conditions."""
        return (
            (not self.ids or dead_letter.id in self.ids)
            and (not self.exceptions or dead_letter.exception in self.exceptions)
            and (self.since is None or dead_letter.last_failure >= self.since)
            and (self.until is None or dead_letter.last_failure < self.until)
        )


class ReplayReport(msgspec.Struct):
    """The outcome of a run. In JSON, `chosen` is `done`, and `left` is `remaining`.

    Attributes:
        chosen: Dead letters that matched and were replayed or dropped, counted by exception.
        refused: Dead letters that matched and were not replayed, as they are misplaced or the broker refused
            them, counted by reason. They stay.
        duplicates: Second dead letters of one event, which a crash can leave behind. They were dropped.
        unreadable: Records that are no dead letters, and stay. Those that were dropped are among the chosen.
        left: How many dead letters are left; None if the backend cannot tell.
    """

    chosen: Counter[str] = msgspec.field(default_factory=Counter, name="done")
    refused: Counter[str] = msgspec.field(default_factory=Counter)
    duplicates: int = 0
    unreadable: int = 0
    left: int | None = msgspec.field(default=None, name="remaining")


async def browse(
    subscription: Subscription, chosen: DeadLetterFilter, *, limit: int | None = None
) -> AsyncIterator[DeadLetterDelivery | None]:
    """The dead letters that match, of those that are there now. They go back when the subscription closes.

    The subscription is a member of the queue's `replay_group`. A record that is no dead letter yields None.
    """
    found = 0
    async for deliveries in _present(subscription, None):
        for dead_letter in map(read_dead_letter, deliveries):
            if dead_letter is None or chosen.matches(dead_letter):
                yield dead_letter
                found += dead_letter is not None
                if found == limit:
                    return


async def replay_or_drop(
    subscription: Subscription,
    queue: DeadLetterQueue,
    chosen: DeadLetterFilter,
    action: DeadLetterAction,
    *,
    limit: int | None = None,
    acks_singly: bool,
) -> ReplayReport:
    """Replay or drop the dead letters that match, of those that are there now. The others stay.

    Dead letters of one key are replayed in their order. One that is replayed and fails again during the run
    waits for the next run. Misplaced ones (`DeadLetterQueue.owns`) may be dropped, and are not replayed.

    Args:
        subscription: A member of the queue's `replay_group`.
        queue: Where the dead letters are. It alone says to which topic and group they go back.
        chosen: Which dead letters. To drop without a condition and a limit drops all other records too.
        action: What to do with them.
        limit: The most dead letters.
        acks_singly: Whether the backend acknowledges each record by itself, however many before it are not. A
            backend that keeps a group's position as an offset remembers only so many gaps: there, dead
            letters that do not match are moved to the end of the topic, once those that match have left many
            gaps.

    Raises:
        UnavailableError: the broker cannot be reached. The dead letters of the last step may have been
            replayed, and may be replayed again where completion is not atomic.
    """
    run = _Run(queue, chosen, action, limit, keeps_offset=not acks_singly)
    async for deliveries in _present(subscription, run.id):
        steps = run.decide(deliveries)
        refused: Mapping[int, str] = {}
        if steps:
            try:
                await subscription.complete([completion for _, completion in steps])
            except PublishError as exc:
                if not exc.failed:
                    raise
                refused = exc.failed
        run.report.refused.update(refused.values())
        run.report.chosen.update(
            dead_letter.exception
            for position, (dead_letter, _) in enumerate(steps)
            if dead_letter is not None and position not in refused
        )
        if run.over:
            break
    run.report.left = await subscription.lag()
    return run.report


async def _present(subscription: Subscription, run: str | None) -> AsyncIterator[Sequence[Delivery]]:
    """As many deliveries as there are now, without those that this run has caused itself."""
    expected = await subscription.lag()
    while expected is None or expected > 0:
        deliveries = await _receive(subscription)
        if not deliveries:
            return
        others = [d for d in deliveries if run is None or run not in _caused_by(d)]
        if expected is not None:
            others = others[:expected]
            expected -= len(others)
        if others:
            yield others


async def _receive(subscription: Subscription) -> Sequence[Delivery]:
    """Some deliveries; none if other members complete the rest, or do not within 5 s."""
    with anyio.move_on_after(_PATIENCE):
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


class _Run:
    """The decisions of one run: pure state."""

    def __init__(
        self,
        queue: DeadLetterQueue,
        chosen: DeadLetterFilter,
        action: DeadLetterAction,
        limit: int | None,
        *,
        keeps_offset: bool,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.report = ReplayReport()
        self._queue = queue
        self._chosen = chosen
        self._action = action
        self._left = math.inf if limit is None else limit
        self._drops_all = action == "drop" and limit is None and chosen == DeadLetterFilter()
        self._keeps_offset = keeps_offset
        self._gaps: Counter[int] = Counter()  # by partition: how often a completed record follows an open one
        self._open: set[int] = set()  # partitions whose last record stays uncompleted
        self._origins: set[int] = set()

    @property
    def over(self) -> bool:
        """Whether the limit is reached."""
        return self._left <= 0

    def decide(self, deliveries: Sequence[Delivery]) -> list[tuple[DeadLetterDelivery | None, Completion]]:
        """The completions for a step, each with its dead letter; None for those that are not `chosen`."""
        steps: list[tuple[DeadLetterDelivery | None, Completion]] = []
        for delivery in deliveries:
            if self.over:
                break  # records behind the last one that matched leave no gap
            dead_letter = read_dead_letter(delivery)
            if not (self._drops_all if dead_letter is None else self._takes(dead_letter)):
                self.report.unreadable += dead_letter is None
                if self._keeps_offset and self._gaps[delivery.partition] >= _MAX_GAPS:
                    headers = {**delivery.record.headers, _MOVED_BY: self.id}
                    moved = msgspec.structs.replace(delivery.record, headers=headers)
                    steps.append((None, Completion(delivery, (moved,))))
                else:
                    self._open.add(delivery.partition)
                continue
            if delivery.partition in self._open:
                self._open.discard(delivery.partition)
                self._gaps[delivery.partition] += 1
            if dead_letter is None:
                self.report.chosen["(no dead letter)"] += 1
                steps.append((None, Completion(delivery)))
                continue
            # The whole event counts: a forged dead letter of the same origin must not hide the real one.
            replayed = self._replayed(dead_letter)
            event = (replayed.id, replayed.key, replayed.value, frozenset(replayed.headers.items()))
            origin = hash((dead_letter.origin, event))
            if origin in self._origins:
                self.report.duplicates += 1
                steps.append((None, Completion(delivery)))
                continue
            self._origins.add(origin)
            self._left -= 1
            outputs = (replayed,) if self._action == "replay" else ()
            steps.append((dead_letter, Completion(delivery, outputs)))
        return steps

    def _takes(self, dead_letter: DeadLetterDelivery) -> bool:
        """Whether a dead letter is replayed or dropped; counts those that are chosen and misplaced."""
        if not self._chosen.matches(dead_letter):
            return False
        if self._action == "drop" or self._queue.owns(dead_letter):
            return True
        self.report.refused[MISPLACED] += 1
        return False

    def _replayed(self, dead_letter: DeadLetterDelivery) -> Record:
        """The record that goes back to the topic: the event as it was, for its group alone."""
        record = dead_letter.delivery.record
        headers = {name: text for name, text in record.headers.items() if not name.startswith(_REMOVED)}
        headers |= {REPLAY_GROUP: self._queue.group, REPLAY_RUN: self.id}
        return Record(self._queue.topic, record.value, record.key, record.id, headers)
