"""A subscription that reads all partitions without a group."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from operator import attrgetter
from typing import Final

from aiokafka import TopicPartition
from anyio.lowlevel import checkpoint_if_cancelled

from eventml.backends.base import Completion, Start
from eventml.backends.kafka.admin import AdminClient
from eventml.backends.kafka.connection import ClientFactory, stop
from eventml.backends.kafka.errors import CLIENT_ERRORS, repeatable, translate, translated
from eventml.backends.kafka.fetching import fetch_deliveries
from eventml.backends.kafka.publishing import Publisher
from eventml.records import Delivery, count_fitting

_POLL: Final = 500  # milliseconds that a fetch waits for records


class Reader:
    """Reads all partitions, from one end on, without a group and without commits; as `base.Subscription`."""

    def __init__(
        self, clients: ClientFactory, publisher: Publisher, topics: Mapping[str, int], max_bytes: int
    ) -> None:
        self._clients = clients
        self._topics = tuple(topics)
        self._partitions = [TopicPartition(topic, p) for topic, count in topics.items() for p in range(count)]
        self._consumer = clients.consumer(None, len(self._partitions))
        self._publisher = publisher
        self._max_bytes = max_bytes
        self._deliveries: deque[Delivery] = deque()
        self._fetching: asyncio.Task[None] | None = None
        self._next: dict[TopicPartition, int] = {}  # offsets to fetch next
        self._ends: dict[TopicPartition, int] | None = None
        self._over = False

    async def start(self, start: Start, admin: AdminClient, within: float) -> None:
        """Go to one end of every partition, within so many seconds."""
        self._admin, partitions = admin, self._partitions
        self._consumer.assign(partitions)
        async with translated("starting to read", within):
            await self._clients.start(self._consumer)
        self._next = await admin.offsets(partitions, start)
        self._seek()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """As `Subscription.receive`, and `Bounded`."""
        while not self._deliveries:
            if self._over:
                return ()
            if self._fetching is None:
                self._fetching = asyncio.create_task(self._fetch(limit))
            # A fetch that is cancelled would break aiokafka's count of those under way.
            await asyncio.wait([self._fetching])
            fetching, self._fetching = self._fetching, None
            fetching.result()
            await checkpoint_if_cancelled()
        count = count_fitting(islice(self._deliveries, limit), self._max_bytes) or 1
        return [self._deliveries.popleft() for _ in range(count)]

    async def stop_at(self, end: Start) -> None:
        """As `Bounded.stop_at`. Partitions that the topics get later are not read."""
        self._ends = await self._admin.offsets(self._partitions, end)
        self._deliveries = deque(self._before_end(self._deliveries))

    async def complete(self, done: Sequence[Completion]) -> None:
        """Publish the outputs; there is nothing to ack."""
        await self._publisher.publish([record for completion in done for record in completion.outputs])

    async def lag(self) -> int | None:
        """Unknown: there is no group."""
        return None

    async def close(self) -> None:
        """Disconnect. Never raises."""
        await stop(self._consumer)
        if self._fetching is not None:
            await asyncio.wait([self._fetching])

    async def _add_new_partitions(self) -> None:
        """Read partitions that the topics have got meanwhile, from their beginning."""
        consumer, topics = self._consumer, self._topics
        found = [TopicPartition(t, p) for t in topics for p in consumer.partitions_for_topic(t) or ()]
        if len(found) > len(self._partitions):
            positions = {partition: await consumer.position(partition) for partition in self._partitions}
            self._partitions = sorted(positions.keys() | found)
            consumer.assign(self._partitions)
            for partition in self._partitions:
                consumer.seek(partition, positions.get(partition, 0))

    def _seek(self) -> None:
        """Fetch what comes next, where the consumer may have moved on. It has all of what is paused."""
        for partition, offset in self._next.items():
            if partition not in self._consumer.paused():
                self._consumer.seek(partition, offset)

    async def _ended(self, ends: Mapping[TopicPartition, int]) -> bool:
        done = [p for p, end in ends.items() if await self._consumer.position(p) >= end]
        self._consumer.pause(*done)
        return len(done) == len(ends)

    def _before_end(self, deliveries: Iterable[Delivery]) -> Iterable[Delivery]:
        ends = self._ends
        if ends is None:
            return deliveries
        return (d for d in deliveries if int(d.offset) < ends.get((d.record.topic, d.partition), 0))

    async def _fetch(self, limit: int) -> None:
        try:
            await self._add_new_partitions()
            self._over = self._ends is not None and await self._ended(self._ends)
            if self._over:
                return
            fetched = await fetch_deliveries(self._consumer, limit, _POLL)
        except CLIENT_ERRORS as exc:
            self._seek()
            raise repeatable(translate(exc, "reading")) from exc
        self._next |= {p: int(deliveries[-1].offset) + 1 for p, deliveries in fetched.items()}
        # Partitions have no common order but time. Each keeps its own: a publisher's clock may jump back.
        merged = heapq.merge(*fetched.values(), key=attrgetter("timestamp"))
        self._deliveries.extend(self._before_end(merged))
