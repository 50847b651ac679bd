"""Fetch a member's records into its assignment, while there is room."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from eventml.backends.kafka.admin import AdminClient
from eventml.backends.kafka.assignment import Assignment, Chunk
from eventml.backends.kafka.connection import convert_fetched
from eventml.backends.kafka.partitions import CommittedOffset
from eventml.backends.kafka.wire import DeliveryDecoder
from eventml.errors import EventMLError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

log = logging.getLogger("eventml")

_NO_PARTITION: Final = TopicPartition("", -1)  # to poll it keeps the membership, and returns nothing
_POLL: Final = 200  # milliseconds that a fetch waits for records
_PRESUMED_BATCHES: Final = 2  # what a member that died is presumed to have had in flight
_PATIENCE: Final = 5.0  # seconds that other partitions wait for one in recovery that returns no records
_COMMIT_BACKOFF: Final = 0.2  # seconds


async def ends_of_redelivered(
    admin: AdminClient, committed: Mapping[TopicPartition, CommittedOffset], within: float
) -> dict[TopicPartition, int]:
    """Ends of the logs of those partitions whose records were delivered before and not completed."""
    partitions = [partition for partition, at in committed.items() if at.attempts or at.active]
    try:
        async with asyncio.timeout(within):
            return await admin.offsets(partitions, "latest")
    except (TimeoutError, EventMLError):  # a partition without a leader must not hold up the others
        return dict.fromkeys(partitions, sys.maxsize)


class Fetcher:
    """Fetches for one member. A fetch must not be cancelled while the consumer is used: aiokafka breaks.

    Args:
        consumer: The member's.
        assignment: What to fetch, and where it is put.
        commit: Commits all that there is to commit; false if the brokers did not take it.
        on_fetched: Called when there are deliveries to take.
        on_skipped: Called when an offset to commit may have changed without a delivery.
        poll_interval: Most seconds between two polls.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        assignment: Assignment,
        *,
        commit: Callable[[], Awaitable[bool]],
        on_fetched: Callable[[], None],
        on_skipped: Callable[[], None],
        poll_interval: float,
    ) -> None:
        self._consumer = consumer
        self._assignment = assignment
        self._commit = commit
        self._on_fetched = on_fetched
        self._on_skipped = on_skipped
        self._poll_interval = poll_interval
        self._decoder = DeliveryDecoder()
        self._room = asyncio.Event()
        self._limit = 0
        self._version = -1  # of the assignment that the consumer's positions fit
        self._recovering: TopicPartition | None = None  # whose recovery has begun
        self._progress_at = 0.0

    def wake(self, limit: int | None = None) -> None:
        """Fetch on: there is room, from now on for up to `limit` deliveries."""
        self._limit = self._limit if limit is None else limit
        self._room.set()

    def reset(self) -> None:
        """Fetch for a new assignment."""
        self._recovering = None
        self._seek()

    async def run(self) -> None:
        """Fetch for ever."""
        while True:
            await self._fetch_once()

    async def _fetch_once(self) -> None:
        self._room.clear()
        assignment = self._assignment
        if not assignment.active or assignment.buffered >= self._limit or assignment.recovery_fetched:
            await self._consumer.getmany(_NO_PARTITION)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_interval):
                    await self._room.wait()
            return
        version, recovering = assignment.version, assignment.recovering
        if not await self._may_fetch(recovering):
            await asyncio.sleep(_COMMIT_BACKOFF)
            return
        if version != self._version:
            self._seek()
        convert_fetched(self._consumer, self._decoder.delivery)
        only = () if recovering is None else (recovering,)
        fetched = await self._consumer.getmany(*only, timeout_ms=_POLL, max_records=self._limit)
        if assignment.version != version:
            # A rebalance came between: the consumer's positions have moved past the records dropped here.
            self._version = -1
            return
        for partition, records in fetched.items():
            deliveries = self._decoder.deliveries(partition, records)
            assignment.put(Chunk(partition, deliveries, int(deliveries[-1].offset) + 1))
        if fetched:
            self._progress_at = time.monotonic()
            self._on_fetched()
        else:
            await self._skip_markers()

    async def _may_fetch(self, recovering: TopicPartition | None) -> bool:
        """Begin the recovery of a partition, if there is one. False if that cannot be committed now."""
        if recovering is None:
            self._recovering = None
        elif recovering != self._recovering:
            # The next delivery of its records has to be committed before it happens.
            self._assignment.begin_recovery(recovering, _PRESUMED_BATCHES * self._limit)
            if not await self._commit():
                return False
            self._recovering, self._progress_at = recovering, time.monotonic()
        elif time.monotonic() - self._progress_at > _PATIENCE:
            log.debug("no records from %s, which is in recovery: the other partitions go on", recovering)
            self._assignment.skip_recovery(recovering)
        return True

    async def _skip_markers(self) -> None:
        """Skip the markers of transactions: where nothing is left to fetch, nothing else remains."""
        version = self._assignment.version
        for partition in tuple(self._assignment.states):
            position = await self._consumer.position(partition)
            if self._assignment.version != version:
                return
            self._assignment.put(Chunk(partition, (), position))
        self._on_skipped()

    def _seek(self) -> None:
        """Make the next fetch begin after the last one that was put into the assignment."""
        self._version = self._assignment.version
        for partition, offset in self._assignment.fetched.items():
            self._consumer.seek(partition, offset)
