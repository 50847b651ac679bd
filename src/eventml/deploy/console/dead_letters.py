"""The dead letters of a bus: how many are left, by cause, and replaying or dropping those of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from eventml.backends.base import Backend, Subscription
from eventml.errors import TopicNotFoundError
from eventml.runtime import (
    DeadLetterAction,
    DeadLetterDelivery,
    DeadLetterFilter,
    DeadLetterQueue,
    ReplayReport,
    browse,
    replay_or_drop,
)

T = TypeVar("T")


class Cause(msgspec.Struct):
    """The dead letters of one queue with one exception: how many, and when they failed.

    Attributes:
        first: The earliest of their last failures, in seconds since the epoch.
        last: The latest one; `reason` is its message, `id` that of its event.
        misplaced: How many cannot be replayed, as they name another topic or group.
    """

    queue: str
    exception: str
    count: int = 0
    first: float = 0.0
    last: float = 0.0
    reason: str = ""
    id: str = ""
    misplaced: int = 0

    def add(self, one: DeadLetterDelivery, *, owned: bool) -> None:
        """Count a dead letter."""
        self.first = min(self.first, one.last_failure) if self.count else one.last_failure
        if not self.count or one.last_failure >= self.last:
            self.last, self.reason, self.id = one.last_failure, one.message, one.id
        self.count += 1
        self.misplaced += not owned


async def visit_queue(
    backend: Backend, queue: DeadLetterQueue, visit: Callable[[Subscription], Awaitable[T]]
) -> T | None:
    """Call `visit` as a member of the group that replays a queue. None if the queue holds no dead letters."""
    try:
        lag = await backend.lag(queue.dead_letter_topic, group=queue.replay_group)
        if lag is not None and not sum(lag.values()):
            return None
        async with backend.subscribe(
            [queue.dead_letter_topic], group=queue.replay_group, start="earliest"
        ) as subscription:
            return await visit(subscription)
    except TopicNotFoundError:
        return None  # no dead letter was ever written


async def count_left(backend: Backend, queues: Sequence[DeadLetterQueue]) -> dict[str, int]:
    """Return how many dead letters are left, by handler; those of queues that can tell."""
    found: dict[str, int] = {}
    for queue in queues:
        try:
            lag = await backend.lag(queue.dead_letter_topic, group=queue.replay_group)
        except TopicNotFoundError:
            lag = {}  # no dead letter was ever written
        left = sum(lag.values()) if lag is not None else await visit_queue(backend, queue, lambda s: s.lag())
        found |= dict.fromkeys(queue.handlers, left or 0)
    return found


async def read_dead_letters(
    backend: Backend,
    queues: Sequence[DeadLetterQueue],
    matching: DeadLetterFilter,
    visit: Callable[[DeadLetterQueue, DeadLetterDelivery | None], Awaitable[None]],
    limit: int | None = None,
) -> None:
    """Call `visit` with each dead letter that matches, up to a limit; with None for a record that is none."""

    async def read(subscription: Subscription, queue: DeadLetterQueue, limit: int | None) -> int:
        taken = 0
        async for one in browse(subscription, matching, limit=limit):
            taken += one is not None
            await visit(queue, one)
        return taken

    for queue in queues:
        if limit != 0:
            taken = await visit_queue(backend, queue, partial(read, queue=queue, limit=limit)) or 0
            limit = None if limit is None else limit - taken


async def read_causes(
    backend: Backend, queues: Sequence[DeadLetterQueue], matching: DeadLetterFilter
) -> tuple[list[Cause], Counter[str]]:
    """Count all dead letters that match: by cause, the largest first; and by queue records that are none."""
    causes, unreadable = dict[tuple[str, str], Cause](), Counter[str]()

    async def count(queue: DeadLetterQueue, one: DeadLetterDelivery | None) -> None:
        if one is None:
            unreadable[queue.name] += 1
        else:
            cause = causes.setdefault((queue.name, one.exception), Cause(queue.name, one.exception))
            cause.add(one, owned=queue.owns(one))

    await read_dead_letters(backend, queues, matching, count)
    return sorted(causes.values(), key=lambda cause: -cause.count), unreadable


async def replay_or_drop_all(
    backend: Backend,
    queues: Sequence[DeadLetterQueue],
    matching: DeadLetterFilter,
    action: DeadLetterAction,
    limit: int | None = None,
) -> list[tuple[DeadLetterQueue, ReplayReport]]:
    """Replay or drop the dead letters of some queues that match; see `runtime.replay_or_drop`."""
    reports, singly = [], backend.capabilities.redelivery == "lease"
    for queue in queues:
        act = partial(replay_or_drop, queue=queue, chosen=matching, action=action, acks_singly=singly)
        report = None if limit == 0 else await visit_queue(backend, queue, partial(act, limit=limit))
        if report is not None:
            reports.append((queue, report))
            limit = None if limit is None else limit - report.chosen.total()
    return reports
