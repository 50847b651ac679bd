"""Reading without a group: all partitions, from one end on, leaving no trace."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from aiokafka import TopicPartition
from anyio.lowlevel import checkpoint_if_cancelled

from eventml.backends.kafka.clients import stop
from eventml.backends.kafka.faults import FOREIGN, ours, translating
from eventml.backends.kafka.wire import DeliveryReader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventml.backends.base import Completion, Start
    from eventml.backends.kafka.clients import Clients
    from eventml.backends.kafka.observer import Observer
    from eventml.backends.kafka.publisher import Publisher
    from eventml.records import Delivery

_POLL = 500  # milliseconds that a fetch waits for records


class Reader:
    """Reads on its own: no group, no commits.

    Args:
        clients: Makes its consumer.
        publisher: For the outputs of completions.
    """

    def __init__(self, clients: Clients, publisher: Publisher) -> None:
        self._clients = clients
        self._consumer = clients.consumer(None)
        self._publisher = publisher
        self._deliveries = DeliveryReader()
        self._waiting: deque[Delivery] = deque()
        self._fetching: asyncio.Task[None] | None = None

    async def start(
        self, partitions: Mapping[str, int], start: Start, observer: Observer, within: float
    ) -> None:
        """Begin at one end of every partition."""
        every = [TopicPartition(topic, p) for topic, count in partitions.items() for p in range(count)]
        self._consumer.assign(every)
        with translating("beginning to read", within):
            async with asyncio.timeout(within):
                await self._clients.start(self._consumer)
        for partition, position in (await observer.offsets(every, start)).items():
            self._consumer.seek(partition, position)

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """As `Subscription.receive`."""
        while not self._waiting:
            if self._fetching is None:
                self._fetching = asyncio.create_task(self._fetch(limit))
            # A fetch that is cancelled would break aiokafka's count of those under way.
            await asyncio.wait([self._fetching])
            fetching, self._fetching = self._fetching, None
            fetching.result()
            await checkpoint_if_cancelled()
        return [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]

    async def complete(self, done: Sequence[Completion]) -> None:
        """Publish the outputs; there is nothing to ack."""
        await self._publisher.publish([record for completion in done for record in completion.outputs])

    async def lag(self) -> int | None:
        """Unknown: there is no group to lag behind."""
        return None

    async def close(self) -> None:
        """Disconnect. Never raises."""
        await stop(self._consumer)
        if self._fetching is not None:
            await asyncio.wait([self._fetching])

    async def _fetch(self, limit: int) -> None:
        try:
            fetched = await self._consumer.getmany(timeout_ms=_POLL, max_records=limit)
        except FOREIGN as exc:
            raise ours(exc, "reading") from exc
        found = [
            delivery
            for partition, records in fetched.items()
            for delivery in self._deliveries.read(partition, records)
        ]
        # Partitions have no common order but time.
        self._waiting.extend(sorted(found, key=lambda delivery: delivery.timestamp))
