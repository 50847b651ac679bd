"""Reading ahead: the next read is under way while a batch is processed. Also the reader without a group.

A read that blocks in the server is never cancelled: what it returns would be pending, and no member
would know of it. A caller that stops waiting leaves the read under way, for the next caller.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from anyio.lowlevel import checkpoint_if_cancelled

from eventml.backends.base import Completion, Start
from eventml.backends.redis.connection import pack
from eventml.backends.redis.errors import ConnectionLostError, ErrorReply, check_replies, error_for
from eventml.backends.redis.publishing import Publisher
from eventml.backends.redis.server import Client, Server
from eventml.backends.redis.wire import decode_entries
from eventml.errors import BackendError, EventMLError
from eventml.records import Delivery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

BLOCK: Final = 1_000  # milliseconds that the server holds a read open that finds no new entries


class ReadAhead:
    """Reads from the topics of one slot, one read at a time, on a connection of its own, which blocks.

    `command` returns the packed command that reads up to so many entries, and `decode` decodes those of one
    topic. `arrived` is set when entries have come, or a read has failed.

    Attributes:
        pending: The read that is under way.
        ready: Deliveries that have been read and not been taken.
    """

    def __init__(
        self,
        server: Server,
        slot: int,
        command: Callable[[int], bytes],
        decode: Callable[[str, list[Any]], Sequence[Delivery]],
        arrived: asyncio.Event,
    ) -> None:
        self.client = Client(server, slot)
        self.pending: asyncio.Future[list[Any]] | None = None
        self.ready: list[Delivery] = []
        self._command = command
        self._decode = decode
        self._arrived = arrived
        self._timeout = BLOCK / 1_000 + server.settings.timeout
        self._failure: BackendError | None = None

    def check(self) -> None:
        """Raise the failure of the last read, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def take(self, limit: int) -> list[Delivery]:
        """Take the deliveries that are ready, up to a limit."""
        taken, self.ready = self.ready[:limit], self.ready[limit:]
        return taken

    async def read(self, limit: int) -> None:
        """Start a read, unless one is under way or deliveries are ready. Connects as `Client.connection`."""
        await self.client.connection()
        self.read_ahead(limit)

    def read_ahead(self, limit: int) -> None:
        """Start a read as `read` does, if the client is connected."""
        connection = self.client.connected
        if connection is None or self.pending is not None or self.ready or self._failure is not None:
            return
        self.pending = connection.send(self._command(limit), 1, self._timeout)
        self.pending.add_done_callback(self._finish)

    async def finish(self, other: Client) -> None:
        """Wait for the read that is under way; another client unblocks it, if the user may do that."""
        connection = self.client.connected
        if self.pending is not None and connection is not None:
            with suppress(EventMLError):  # the read then ends when it has blocked for long enough
                await other.request(pack("CLIENT", "UNBLOCK", connection.hello["id"]))
        if self.pending is not None:
            await asyncio.wait([self.pending])

    def _finish(self, read: asyncio.Future[list[Any]]) -> None:
        self.pending = None
        try:
            [reply] = read.result()
        except ConnectionLostError as exc:
            self._failure = exc
        else:
            if type(reply) is ErrorReply:
                self.client.check_server([reply])
                self._failure = error_for(reply, "reading")
            else:
                for topic, entries in reply or ():
                    self.ready += self._decode(topic.decode(), entries)
        self._arrived.set()


async def receive(sources: Sequence[ReadAhead], limit: int, arrived: asyncio.Event) -> Sequence[Delivery]:
    """Wait for at least one delivery from any source, and take up to `limit`; see `Subscription.receive`."""
    while True:
        await checkpoint_if_cancelled()  # a caller that has been cancelled meanwhile takes nothing
        arrived.clear()
        taken: list[Delivery] = []
        for source in sources:
            source.check()
            taken += source.take(limit - len(taken))
        if taken:
            for source in sources:
                source.read_ahead(limit)
            return taken
        for source in sources:
            await source.read(limit)
        await arrived.wait()


class Reader:
    """A subscription without a group: no acks, and no trace in the server."""

    def __init__(self, publisher: Publisher, topics: Sequence[str]) -> None:
        self._arrived = asyncio.Event()
        self._publisher = publisher
        self._positions = dict.fromkeys(topics, "0-0")
        self._reads = [
            ReadAhead(publisher.server, slot, partial(self._command, some), self._decode, self._arrived)
            for slot, some in publisher.server.by_slot(topics).items()
        ]

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """See `Subscription.receive`."""
        return await receive(self._reads, limit, self._arrived)

    async def complete(self, done: Sequence[Completion]) -> None:
        """Publish the outputs; without a group there is nothing to acknowledge."""
        if outputs := [output for completion in done for output in completion.outputs]:
            await self._publisher.publish(outputs)

    async def lag(self) -> int | None:
        """Return None, for unknown: the server keeps no count for a reader."""
        return None

    def _decode(self, topic: str, entries: list[Any]) -> list[Delivery]:
        deliveries = decode_entries(topic, entries)
        self._positions[topic] = str(deliveries[-1].offset)
        return deliveries

    def _command(self, topics: Sequence[str], limit: int) -> bytes:
        positions = [self._positions[topic] for topic in topics]
        return pack("XREAD", "COUNT", limit, "BLOCK", BLOCK, "STREAMS", *topics, *positions)

    @asynccontextmanager
    async def started(self, start: Start) -> AsyncIterator[Reader]:
        """Start reading; at the end, close the connections."""
        try:
            for topic in self._positions if start == "latest" else ():
                # What is published from now on will be read.
                command = pack("XREVRANGE", topic, "+", "-", "COUNT", 1)
                replies = await self._publisher.client(topic).request(command)
                [last] = check_replies(replies, f"reading {topic}")
                if last:
                    self._positions[topic] = last[0][0].decode()
            yield self
        finally:
            for read in self._reads:
                read.client.close()
