"""Replaying dead letters, to the one group that failed them; dropping them; looking at them.

A letter is replayed by publishing the original record to the topic it came from, under a header that
names the group: every other group passes it over (`eventml.codec.NotOurs`). Whoever replays is a member
of the group `<group>.replay` at the dead-letter topic, and completes the letter with the replayed
record as its output: where completion is atomic, a letter is replayed once, whatever crashes; elsewhere
a crash may repeat it, with the same id.
"""

from __future__ import annotations

import secrets
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

import anyio
import msgspec

from eventml.backends.base import Completion
from eventml.codec import REPLAY_GROUP
from eventml.errors import PublishError
from eventml.records import Record
from eventml.runtime.deadletters import DLQ_PREFIX
from eventml.runtime.letters import DeadLetter, DeadLetterFilter, read_dead_letter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from eventml.backends.base import Subscription
    from eventml.records import Delivery

DeadLetterAction = Literal["replay", "drop"]

REPLAY_RUN: Final = "eventml-replay-run"
"""The header that says which run replayed a record, so that the run does not replay it again if it fails."""

_MOVED: Final = f"{DLQ_PREFIX}moved-by"  # the run that moved a letter to the end
_PREFIXES: Final = (DLQ_PREFIX, "eventml-replay-")
_FETCH: Final = 500  # letters in one step
_PATIENCE: Final = 5.0  # seconds
_LOOK: Final = 0.5  # seconds between two looks at whether anything is left
_GAPS: Final = 200
_SHARED: Final = 256  # mappings of headers that are remembered


class ReplayReport(msgspec.Struct):
    """What has become of the letters.

    Attributes:
        chosen: Those that were wanted, and replayed or dropped (or would be), by exception.
        refused: Those that could not be replayed, by why: they are still there.
        repeated: Second letters of one event, which a crash can leave behind: dropped, not replayed.
        left: How many letters remain; None where the backend cannot tell.
    """

    chosen: Counter[str] = msgspec.field(default_factory=Counter)
    refused: Counter[str] = msgspec.field(default_factory=Counter)
    repeated: int = 0
    left: int | None = None


async def browse(
    subscription: Subscription,
    wanted: DeadLetterFilter,
    *,
    limit: int | None = None,
    patience: float = _PATIENCE,
) -> AsyncIterator[DeadLetter]:
    """The letters that are wanted, of those that are there now. They are given back on leaving.

    Args:
        subscription: A member of the box's `readers`.
        wanted: Which.
        limit: At most so many of them.
        patience: How long to wait for letters that are there and do not come, because another member
            has them in hand, in seconds.
    """
    found = 0
    async for deliveries in _arriving(subscription, None, patience):
        for letter in map(read_dead_letter, deliveries):
            if letter is not None and wanted.takes(letter):
                yield letter
                found += 1
                if found == limit:
                    return


async def replay_or_drop(
    subscription: Subscription,
    wanted: DeadLetterFilter,
    fate: DeadLetterAction,
    *,
    limit: int | None = None,
    acks_singly: bool,
    patience: float = _PATIENCE,
) -> ReplayReport:
    """Replay or drop the letters that are wanted, of those that are there now. The others stay.

    Letters of one key are replayed in their order. One that fails again while this goes on, and so
    comes back, waits for the next run.

    Args:
        subscription: A member of the box's `readers`.
        wanted: Which.
        fate: What becomes of them.
        limit: At most so many of them.
        acks_singly: Whether the backend acknowledges each record by itself, however many lie unfinished
            before it. A backend that keeps a group's place as an offset remembers only so much finished
            beyond it: there, letters that are not wanted are moved to the end instead of being left
            behind, once the wanted ones among them have torn too many gaps.
        patience: As for `look`.

    Raises:
        UnavailableError: the broker is out of reach; the letters of the last step may have been
            replayed, and may be replayed again where completion is not atomic.
    """
    run = _Run(wanted, fate, limit, None if acks_singly else _Gaps(_GAPS))
    async for deliveries in _arriving(subscription, run.name, patience):
        steps = run.decide(deliveries)
        run.count(steps, await _complete(subscription, [completion for _, completion in steps]))
        if run.over:
            break
    run.tally.left = await subscription.lag()
    return run.tally


def replayed(letter: DeadLetter, run: str = "") -> Record:
    """The record that goes back to the letter's topic: the event as it was, for its group alone."""
    record = letter.delivery.record
    headers = {name: text for name, text in record.headers.items() if not name.startswith(_PREFIXES)}
    headers |= {REPLAY_GROUP: letter.group, REPLAY_RUN: run}
    return Record(letter.topic, record.value, record.key, record.id, headers)


async def _complete(subscription: Subscription, done: Sequence[Completion]) -> Mapping[int, str]:
    """Complete, and say which were refused."""
    if done:
        try:
            await subscription.complete(done)
        except PublishError as exc:
            if not exc.failed:
                raise
            return exc.failed
    return {}


async def _arriving(
    subscription: Subscription, run: str | None, patience: float
) -> AsyncIterator[Sequence[Delivery]]:
    """As many deliveries as there are now; not those that this run itself has brought about."""
    expected = await subscription.lag()
    while expected is None or expected > 0:
        deliveries = await _receive(subscription, patience)
        if not deliveries:
            return
        others = [d for d in deliveries if run is None or run not in _runs(d)]
        if expected is not None:
            others = others[:expected]
            expected -= len(others)
        if others:
            yield others


async def _receive(subscription: Subscription, patience: float) -> Sequence[Delivery]:
    """Some deliveries; none once another member has finished the rest, or does not in so many seconds."""
    with anyio.move_on_after(patience):
        while True:
            with anyio.move_on_after(_LOOK):
                return await subscription.receive(_FETCH)
            if await subscription.lag() == 0:
                break
    return ()


def _runs(delivery: Delivery) -> set[str | None]:
    """The runs that brought a letter about: one replayed the event, one moved the letter."""
    headers = delivery.record.headers
    return {headers.get(REPLAY_RUN), headers.get(_MOVED)}


class _Gaps:
    """How often, in each partition, something was finished right after something that was not."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._gaps: Counter[int] = Counter()
        self._open: set[int] = set()

    def finished(self, partition: int) -> None:
        if partition in self._open:
            self._open.discard(partition)
            self._gaps[partition] += 1

    def may_leave(self, partition: int) -> bool:
        """Whether a delivery of this partition may be left unfinished; if so, it is taken to be."""
        if self._gaps[partition] >= self._most:
            return False
        self._open.add(partition)
        return True


class _Run:
    """The decisions of one run: pure state."""

    def __init__(
        self, wanted: DeadLetterFilter, fate: DeadLetterAction, limit: int | None, gaps: _Gaps | None
    ) -> None:
        self.name = secrets.token_hex(8)
        self.tally = ReplayReport()
        self._wanted = wanted
        self._fate = fate
        self._room = limit
        self._gaps = gaps
        self._seen: set[str] = set()
        self._headers: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = {}

    @property
    def over(self) -> bool:
        return self._room is not None and self._room <= 0

    def decide(self, deliveries: Sequence[Delivery]) -> list[tuple[DeadLetter | None, Completion]]:
        """What to complete, each with its letter; none where a letter is moved or repeats another."""
        steps: list[tuple[DeadLetter | None, Completion]] = []
        for delivery in deliveries:
            if self.over:
                break  # what lies behind the last chosen one tears no gap
            letter = read_dead_letter(delivery)
            if letter is None or not self._wanted.takes(letter):
                if self._gaps is not None and not self._gaps.may_leave(delivery.partition):
                    steps.append((None, Completion(delivery, (self._moved(delivery),))))
                continue
            if self._gaps is not None:
                self._gaps.finished(delivery.partition)
            if letter.origin in self._seen:
                self.tally.repeated += 1
                steps.append((None, Completion(delivery)))
                continue
            self._seen.add(letter.origin)
            if self._room is not None:
                self._room -= 1
            outputs = (self._replayed(letter),) if self._fate == "replay" else ()
            steps.append((letter, Completion(delivery, outputs)))
        return steps

    def count(
        self, steps: Sequence[tuple[DeadLetter | None, Completion]], refused: Mapping[int, str]
    ) -> None:
        for position, (letter, _) in enumerate(steps):
            if position in refused:
                self.tally.refused[refused[position]] += 1
            elif letter is not None:
                self.tally.chosen[letter.exception] += 1

    def _replayed(self, letter: DeadLetter) -> Record:
        """As `replayed`, the headers shared by all that have the same: that is cheaper to write."""
        record = replayed(letter, self.name)
        said = tuple(record.headers.items())
        if said not in self._headers:
            if len(self._headers) >= _SHARED:
                self._headers.clear()
            self._headers[said] = MappingProxyType(dict(record.headers))
        return msgspec.structs.replace(record, headers=self._headers[said])

    def _moved(self, delivery: Delivery) -> Record:
        record = delivery.record
        return msgspec.structs.replace(record, headers={**record.headers, _MOVED: self.name})
