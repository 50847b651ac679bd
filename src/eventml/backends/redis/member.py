"""One member of a consumer group at work: the `Subscription` that the runtime sees."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from itertools import compress
from operator import attrgetter
from typing import TYPE_CHECKING, TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from eventml.backends.redis.group import Consumer, consumer_name
from eventml.backends.redis.lag import unfinished
from eventml.backends.redis.leases import Leases
from eventml.backends.redis.link import Link
from eventml.backends.redis.share import Share
from eventml.errors import EventMLError, PublishError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

    from eventml.backends.base import Completion, Start
    from eventml.backends.redis.completer import Completer
    from eventml.backends.redis.equipment import Equipment
    from eventml.records import Delivery

log = logging.getLogger("eventml.redis")

T = TypeVar("T")

_TOPIC_OF, _INPUT_TOPIC_OF = attrgetter("record.topic"), attrgetter("delivery.record.topic")


class Member:
    """Works for a group at topics, on connections of its own: two for each server that has some of them.

    Args:
        equipment: What all of a backend's parts share.
        topics: What is read.
        group: Whose member it is.
        completer: Completes deliveries.
        window: How many finished ids the group remembers at each topic.
    """

    def __init__(
        self,
        equipment: Equipment,
        topics: Sequence[str],
        group: str,
        completer: Completer,
        *,
        window: int = 0,
    ) -> None:
        self._arrived = asyncio.Event()
        self._completer = completer
        self._name = consumer_name()
        self._group = group
        self._window = window
        by_slot: dict[int, list[str]] = {}
        for topic in dict.fromkeys(topics):
            by_slot.setdefault(equipment.connector.slot(topic), []).append(topic)
        self._shares = [self._share(equipment, slot, mine) for slot, mine in by_slot.items()]
        self._share_of = {topic: share for share in self._shares for topic in share.leases}

    def _share(self, equipment: Equipment, slot: int, topics: Sequence[str]) -> Share:
        settings, losses = equipment.settings, equipment.losses
        control = Link(equipment.connector, slot, settings.timeout)
        consumers = [
            Consumer(control, topic, self._group, self._name, window=self._window) for topic in topics
        ]
        leases = {
            consumer.topic: Leases(consumer, equipment.decoder, losses, settings.lease)
            for consumer in consumers
        }
        return Share(
            leases,
            reads=Link(equipment.connector, slot, settings.timeout),
            control=control,
            settings=settings,
            retention=equipment.retention,
            losses=losses,
            wake=self._arrived.set,
        )

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """See `Subscription.receive`."""
        while True:
            await checkpoint_if_cancelled()  # whoever has been cancelled meanwhile takes nothing
            self._arrived.clear()
            taken: list[Delivery] = []
            for share in self._shares:
                share.check()
                if len(taken) < limit:
                    taken = taken + share.take(limit - len(taken)) if taken else share.take(limit)
            if taken:
                for share in self._shares:
                    share.read_ahead(limit)
                return taken
            for share in self._shares:
                await share.read(limit)
            await self._arrived.wait()

    async def complete(self, done: Sequence[Completion]) -> None:
        """See `Subscription.complete`."""
        refused: dict[int, str] = {}
        for topic, positions in self._by_topic(done, _INPUT_TOPIC_OF).items():
            mine = done if len(positions) == len(done) else [done[position] for position in positions]
            found = await self._completer.complete(self._share_of[topic], topic, mine)
            refused |= {positions[number]: why for number, why in found.items()}
        if refused:
            position, why = min(refused.items())
            raise PublishError(
                f"{len(refused)} of {len(done)} completions were refused, the first for the output of "
                f"{done[position].delivery.record.id!r}: {why}",
                refused,
            )

    async def completed_before(self, deliveries: Sequence[Delivery]) -> Collection[int]:
        """See `DedupeSubscription.finished`."""
        found: list[int] = []
        for topic, positions in self._by_topic(deliveries, _TOPIC_OF).items():
            consumer = self._share_of[topic].leases[topic].consumer
            known = await consumer.finished([deliveries[position].record.id for position in positions])
            found += compress(positions, known)
        return found

    def _by_topic(self, items: Sequence[T], topic_of: Callable[[T], str]) -> dict[str, Sequence[int]]:
        """The positions of each topic's items."""
        if len(self._share_of) == 1 and items:
            return {next(iter(self._share_of)): range(len(items))}
        found: dict[str, list[int]] = {}
        for position, item in enumerate(items):
            found.setdefault(topic_of(item), []).append(position)
        return dict(found)

    async def lag(self) -> int | None:
        """See `Subscription.lag`."""
        total = 0
        for topic, share in self._share_of.items():
            found = await unfinished(share.control, topic, self._group)
            if found is None:
                return None
            total += found
        return total

    async def leave(self, tending: Sequence[asyncio.Task[None]]) -> None:
        """Stop, give back what was not completed, and close the connections."""
        for share in self._shares:
            await share.stop()
        if tending:
            await asyncio.wait(tending)
        for share in self._shares:
            try:
                await share.leave()
            except EventMLError as exc:
                log.warning(
                    "what group %r had in hand here waits for its lease to run out: %s", self._group, exc
                )
            await share.close()

    async def join(self, start: Start) -> list[asyncio.Task[None]]:
        """Create what is missing, and begin to tend to it."""
        for share in self._shares:
            await share.join(start)
        return [asyncio.create_task(share.tend()) for share in self._shares]


@asynccontextmanager
async def joined(member: Member, start: Start) -> AsyncIterator[Member]:
    """A member that has joined, and leaves at the end, whatever that is."""
    tending: list[asyncio.Task[None]] = []
    try:
        tending = await member.join(start)
        yield member
    finally:
        with anyio.CancelScope(shield=True):
            await member.leave(tending)
