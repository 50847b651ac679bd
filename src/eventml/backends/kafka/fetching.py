"""Fetching: what a member's consumer brings, put into its assignment, for as long as there is room."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from aiokafka import TopicPartition

from eventml.backends.kafka.assignment import Chunk
from eventml.backends.kafka.wire import DeliveryReader
from eventml.errors import EventMLError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiokafka import AIOKafkaConsumer

    from eventml.backends.kafka.assignment import Assignment
    from eventml.backends.kafka.observer import Observer
    from eventml.backends.kafka.progress import Place

log = logging.getLogger("eventml")

_NOWHERE: Final = TopicPartition("", -1)  # polling it keeps the membership, and what was fetched
_POLL = 200  # milliseconds that a fetch waits for records
_REACH = 2  # batches: of what a member that died has not committed, how much it may have had in hand
_PATIENCE = 5.0  # seconds for which the others wait for a partition whose turn it is
_AGAIN = 0.2  # seconds between two tries to commit that a turn begins


async def ends_of_tried(
    observer: Observer, places: Mapping[TopicPartition, Place], within: float
) -> dict[TopicPartition, int]:
    """Where the logs end of those partitions of which something was handed out before, and not finished."""
    tried = [partition for partition, place in places.items() if place.tried or place.at_work]
    try:
        async with asyncio.timeout(within):
            return await observer.offsets(tried, "latest")
    except (TimeoutError, EventMLError):  # one without a leader must not keep us from the others
        return dict.fromkeys(tried, sys.maxsize)


class Fetching:
    """Fetches of one member, one after the other. Never to be cancelled while its consumer is of use.

    Args:
        consumer: The member's.
        assignment: What to fetch, and where it goes.
        commit: Commits all that there is to commit; says whether the brokers took it.
        fetched: Called when there is something to hand out.
        passed_over: Called when a place may have moved without that.
        longest_wait: The most seconds between two polls.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        assignment: Assignment,
        *,
        commit: Callable[[], Awaitable[bool]],
        fetched: Callable[[], None],
        passed_over: Callable[[], None],
        longest_wait: float,
    ) -> None:
        self._consumer = consumer
        self._assignment = assignment
        self._commit = commit
        self._fetched = fetched
        self._passed_over = passed_over
        self._longest_wait = longest_wait
        self._reader = DeliveryReader()
        self._wanted = asyncio.Event()
        self._limit = 0
        self._version = -1  # of the assignment that the consumer's positions fit
        self._turn: TopicPartition | None = None  # the partition whose turn has begun
        self._turn_since = 0.0

    def wake(self, limit: int | None = None) -> None:
        """There is room for more: for up to `limit` deliveries, from now on."""
        self._limit = self._limit if limit is None else limit
        self._wanted.set()

    def reset(self) -> None:
        """The assignment is a new one."""
        self._turn = None
        self._seek()

    async def run(self) -> None:
        """Fetch for ever."""
        while True:
            await self._once()

    async def _once(self) -> None:
        self._wanted.clear()
        assignment = self._assignment
        if not assignment.active or assignment.waiting >= self._limit or assignment.fetched_turn:
            # Nothing is wanted now, or nothing is ours. This counts as a poll, and returns nothing.
            await self._consumer.getmany(_NOWHERE)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._longest_wait):
                    await self._wanted.wait()
            return
        version, turn = assignment.version, assignment.turn
        if not await self._may_fetch(turn):
            await asyncio.sleep(_AGAIN)
            return
        if version != self._version:
            self._seek()
        self._reader.hook(self._consumer)
        only = () if turn is None else (turn,)
        fetched = await self._consumer.getmany(*only, timeout_ms=_POLL, max_records=self._limit)
        if assignment.version != version:
            # It outlasted a rebalance: what it brought, and moved us past, has to be fetched again.
            self._version = -1
            return
        for partition, records in fetched.items():
            deliveries = self._reader.read(partition, records)
            assignment.put(Chunk(partition, deliveries, int(deliveries[-1].offset) + 1))
        if fetched:
            self._turn_since = time.monotonic()
            self._fetched()
        else:
            await self._pass_over()

    async def _may_fetch(self, turn: TopicPartition | None) -> bool:
        """Begin the turn of a partition, if it is one's. False while that cannot be committed."""
        if turn is None:
            self._turn = None
        elif turn != self._turn:
            # That what was handed out before is handed out once more has to be known beforehand.
            self._assignment.begin(turn, _REACH * self._limit)
            if not await self._commit():
                return False
            self._turn, self._turn_since = turn, time.monotonic()
        elif time.monotonic() - self._turn_since > _PATIENCE:
            log.debug("nothing comes of %s, whose turn it is: the others go on", turn)
            self._assignment.end_turn(turn)
        return True

    async def _pass_over(self) -> None:
        """Where nothing is left to fetch, what remains are marks of transactions: nobody's to finish."""
        version = self._assignment.version
        for partition in self._assignment.partitions:
            position = await self._consumer.position(partition)
            if self._assignment.version != version:
                return
            self._assignment.put(Chunk(partition, (), position))
        self._passed_over()

    def _seek(self) -> None:
        """Make the next fetch begin where the last one counted."""
        self._version = self._assignment.version
        for partition, offset in self._assignment.fetched.items():
            self._consumer.seek(partition, offset)
