"""Events that come more than once under one id: a repeat waits for its first.

It is passed over if that was answered, and called if that became a dead letter. Pure state: whether an
id was finished is the backend's to say, which is asked about what is not held back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventml.backends.base import Completion
from eventml.codec import REPLAY_GROUP
from eventml.runtime.deadletters import is_letter

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from eventml.runtime.items import Item


class Repeats:
    """What one handler has in hand, by id, and what waits for it.

    A repeat whose first becomes a dead letter is called in its turn: it may be the corrected event.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, list[Item]] = {}
        self.waiting = 0
        """How many events wait for another of their id."""

    def hold_back(self, items: Sequence[Item]) -> list[Item]:
        """Those that are the first of their id in hand; the others wait until theirs is finished."""
        first = []
        for item in items:
            record = item.delivery.record
            if REPLAY_GROUP in record.headers:
                first.append(item)
            elif record.id in self._waiting:
                self._waiting[record.id].append(item)
                self.waiting += 1
            else:
                self._waiting[record.id] = []
                first.append(item)
        return first

    def settle(self, done: Sequence[Completion]) -> list[Item]:
        """Take these as finished, one way or another. Returns what waited for them, to be taken in again."""
        released: list[Item] = []
        for completion in done:
            record = completion.delivery.record
            if REPLAY_GROUP not in record.headers:
                released += self._waiting.pop(record.id, ())
        self.waiting -= len(released)
        return released


def pass_over(items: Sequence[Item], finished: Collection[int]) -> tuple[list[Item], list[Completion]]:
    """Those that are to be called, and the completions of the others: their ids were finished before.

    A replayed dead letter is called in any case: somebody wants it to be.
    """
    passed = {p for p in finished if REPLAY_GROUP not in items[p].delivery.record.headers}
    called = [item for position, item in enumerate(items) if position not in passed]
    return called, [Completion(items[position].delivery) for position in sorted(passed)]


def remembered(done: Sequence[Completion], group: str) -> list[Completion]:
    """Completions that say what is to be remembered: all that was answered or passed over in this group."""
    return [_remembered(completion, group) for completion in done]


def _remembered(completion: Completion, group: str) -> Completion:
    if is_letter(completion):
        return completion
    replayed_for = completion.delivery.record.headers.get(REPLAY_GROUP)
    if replayed_for is None:
        return Completion(completion.delivery, completion.outputs, "drop")
    if replayed_for == group:
        return Completion(completion.delivery, completion.outputs, "record")
    return completion
