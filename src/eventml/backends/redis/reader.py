"""A reader on its own: no group, no acks, no trace in the server."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from eventml.backends.redis.commands import pack
from eventml.backends.redis.link import Link
from eventml.backends.redis.reading import ReadAhead
from eventml.backends.redis.replies import LostError, checked, error_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from eventml.backends.base import Completion, Start
    from eventml.backends.redis.equipment import Equipment
    from eventml.backends.redis.publishing import Publisher
    from eventml.records import Delivery


class Reader:
    """Reads topics from positions of its own.

    Args:
        equipment: What all of a backend's parts share.
        topics: What is read.
        publisher: Writes the outputs of completions.
    """

    def __init__(self, equipment: Equipment, topics: Sequence[str], publisher: Publisher) -> None:
        self._arrived = asyncio.Event()
        self._publisher = publisher
        self._decoder = equipment.decoder
        self._positions = dict.fromkeys(topics, "0-0")
        self._block = max(int(equipment.settings.block * 1000), 1)
        by_slot: dict[int, list[str]] = {}
        for topic in self._positions:
            by_slot.setdefault(equipment.connector.slot(topic), []).append(topic)
        timeout = equipment.settings.timeout
        self._links = {slot: Link(equipment.connector, slot, timeout) for slot in by_slot}
        self._topics = by_slot
        self._reads = [
            ReadAhead(
                self._links[slot],
                partial(self._command, mine),
                self._take_in,
                wake=self._arrived.set,
                wait=equipment.settings.block + timeout,
            )
            for slot, mine in by_slot.items()
        ]

    async def start(self, start: Start) -> None:
        """Fix where reading begins: what is published from now on is read in any case."""
        if start == "earliest":
            return
        for slot, topics in self._topics.items():
            asked = b"".join(pack("XREVRANGE", topic, "+", "-", "COUNT", 1) for topic in topics)
            replies = checked(await self._links[slot].ask(asked, len(topics)), f"looking at {topics}")
            for topic, last in zip(topics, replies, strict=True):
                if last:
                    self._positions[topic] = last[0][0].decode()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """See `Subscription.receive`."""
        while True:
            await checkpoint_if_cancelled()  # whoever has been cancelled meanwhile takes nothing
            self._arrived.clear()
            taken: list[Delivery] = []
            for read in self._reads:
                self._check(read)
                taken += read.take(limit - len(taken)) if len(taken) < limit else ()
            if taken:
                for read in self._reads:
                    read.start_if_connected(limit)
                return taken
            for read in self._reads:
                await read.start(limit)
            await self._arrived.wait()

    async def complete(self, done: Sequence[Completion]) -> None:
        """Publish the outputs: there is nothing to acknowledge."""
        if outputs := [output for completion in done for output in completion.outputs]:
            await self._publisher.publish(outputs)

    async def lag(self) -> int | None:
        """Unknown: nobody else counts what a reader has read."""
        return None

    async def close(self) -> None:
        for link in self._links.values():
            await link.close()

    def _check(self, read: ReadAhead) -> None:
        failure, read.failure = read.failure, None
        if isinstance(failure, LostError):
            raise failure
        if failure is not None:
            raise error_for(failure, f"reading {', '.join(map(repr, self._positions))}")

    def _take_in(self, topic: str, entries: list[Any]) -> list[Delivery]:
        deliveries = self._decoder.deliveries(topic, entries)
        self._positions[topic] = str(deliveries[-1].offset)
        return deliveries

    def _command(self, topics: Sequence[str], limit: int) -> bytes:
        positions = [self._positions[topic] for topic in topics]
        return pack("XREAD", "COUNT", limit, "BLOCK", self._block, "STREAMS", *topics, *positions)


@asynccontextmanager
async def reading(reader: Reader, start: Start) -> AsyncIterator[Reader]:
    """A reader that knows where it begins, and closes its connections at the end."""
    try:
        await reader.start(start)
        yield reader
    finally:
        with anyio.CancelScope(shield=True):
            await reader.close()
