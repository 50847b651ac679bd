"""Reading ahead: the next read is under way while a batch is processed. Also the reader without a group.

A read that blocks in the server is never cancelled: what it returns would be pending, and no member
would know of it. A caller that stops waiting leaves the read under way, for the next caller.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from eventml.backends.base import Completion, Start
from eventml.backends.redis.connection import Client, pack
from eventml.backends.redis.errors import ConnectionLostError, ErrorReply, check_replies, error_for
from eventml.backends.redis.publishing import Publisher
from eventml.backends.redis.servers import Server
from eventml.backends.redis.wire import EntryDecoder
from eventml.records import Delivery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence


class ReadAhead:
    """Reads from the topics of one slot, one read at a time, on a connection of its own.

    Args:
        client: The client that reads; its connection blocks.
        command: Returns the packed command that reads up to so many entries.
        decode: Decodes the entries of one topic.
        arrived: Set when entries have come, or a read has failed.
        timeout: How long a read may take before the connection is closed, in seconds.

    Attributes:
        ready: Deliveries that have been read and not been taken.
    """

    def __init__(
        self,
        client: Client,
        command: Callable[[int], bytes],
        decode: Callable[[str, list[Any]], Sequence[Delivery]],
        *,
        arrived: asyncio.Event,
        timeout: float,
    ) -> None:
        self._client = client
        self._command = command
        self._decode = decode
        self._arrived = arrived
        self._timeout = timeout
        self._pending: asyncio.Future[list[Any]] | None = None
        self._failure: ConnectionLostError | ErrorReply | None = None
        self.ready: list[Delivery] = []

    @property
    def pending(self) -> bool:
        """Whether a read is under way."""
        return self._pending is not None

    @property
    def blocked_client(self) -> int | None:
        """The server's number for the connection whose read is under way, if there is one."""
        connection = self._client.connected
        return None if self._pending is None or connection is None else connection.client_id

    def check(self) -> None:
        """Raise the failure of the last read, once.

        Raises:
            BackendError: the connection was lost, or the server refused the read.
        """
        failure, self._failure = self._failure, None
        if isinstance(failure, ErrorReply):
            raise error_for(failure, "reading")
        if failure is not None:
            raise failure

    def take(self, limit: int) -> list[Delivery]:
        """Take the deliveries that are ready, up to a limit."""
        if len(self.ready) <= limit:
            taken, self.ready = self.ready, []
            return taken
        taken = self.ready[:limit]
        del self.ready[:limit]
        return taken

    async def read(self, limit: int) -> None:
        """Start a read, unless one is under way or deliveries are ready.

        Raises:
            UnavailableError: the server cannot be reached.
            DeniedError: the server refuses the user or the password.
        """
        if self._pending is None and not self.ready and self._failure is None:
            await self._client.connection()
            self.read_ahead(limit)

    def read_ahead(self, limit: int) -> None:
        """Start a read as `read` does, if the client is connected."""
        connection = self._client.connected
        if connection is None or self._pending is not None or self.ready or self._failure is not None:
            return
        self._pending = connection.send(self._command(limit), 1, self._timeout)
        self._pending.add_done_callback(self._finish)

    async def wait(self) -> None:
        """Wait for the read that is under way; its entries are in `ready` then."""
        if self._pending is not None:
            await asyncio.wait([self._pending])

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()

    def _finish(self, read: asyncio.Future[list[Any]]) -> None:
        self._pending = None
        try:
            [reply] = read.result()
        except ConnectionLostError as exc:
            self._failure = exc
        else:
            if type(reply) is ErrorReply:
                self._client.check_server([reply])
                self._failure = reply
            else:
                for topic, entries in reply or ():
                    self.ready += self._decode(topic.decode(), entries)
        self._arrived.set()


class Source(Protocol):
    """Topics of one slot that a subscription receives from; see `ReadAhead`."""

    def check(self) -> None:
        """Raise the last failure, once."""

    def take(self, limit: int) -> list[Delivery]:
        """Take the deliveries that are ready, up to a limit."""
        ...

    async def read(self, limit: int) -> None:
        """Start a read, unless that is not needed."""

    def read_ahead(self, limit: int) -> None:
        """Start a read if the client is connected, unless that is not needed."""


async def receive(sources: Sequence[Source], limit: int, arrived: asyncio.Event) -> Sequence[Delivery]:
    """Wait for at least one delivery from any source, and take up to `limit`; see `Subscription.receive`."""
    while True:
        await checkpoint_if_cancelled()  # a caller that has been cancelled meanwhile takes nothing
        arrived.clear()
        taken: list[Delivery] = []
        for source in sources:
            source.check()
            if len(taken) < limit:
                taken = taken + source.take(limit - len(taken)) if taken else source.take(limit)
        if taken:
            for source in sources:
                source.read_ahead(limit)
            return taken
        for source in sources:
            await source.read(limit)
        await arrived.wait()


class Reader:
    """A subscription without a group: no acks, and no trace in the server.

    Args:
        server: The server that has the topics.
        topics: The topics to read.
        publisher: Publishes the outputs of completions.
    """

    def __init__(self, server: Server, topics: Sequence[str], publisher: Publisher) -> None:
        self._arrived = asyncio.Event()
        self._publisher = publisher
        self._decoder = EntryDecoder()
        self._positions = dict.fromkeys(topics, "0-0")
        self._block = max(int(server.settings.block * 1000), 1)
        self._by_slot = server.by_slot(topics)
        self._clients = {slot: server.client(slot) for slot in self._by_slot}
        self._reads = [
            ReadAhead(
                self._clients[slot],
                partial(self._command, slot_topics),
                self._decode,
                arrived=self._arrived,
                timeout=server.settings.block + server.settings.timeout,
            )
            for slot, slot_topics in self._by_slot.items()
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
        deliveries = self._decoder.deliveries(topic, entries)
        self._positions[topic] = str(deliveries[-1].offset)
        return deliveries

    def _command(self, topics: Sequence[str], limit: int) -> bytes:
        positions = [self._positions[topic] for topic in topics]
        return pack("XREAD", "COUNT", limit, "BLOCK", self._block, "STREAMS", *topics, *positions)

    async def _find_start(self, start: Start) -> None:
        """Look up the last entries: what is published from now on will be read."""
        if start == "earliest":
            return
        for slot, topics in self._by_slot.items():
            commands = b"".join(pack("XREVRANGE", topic, "+", "-", "COUNT", 1) for topic in topics)
            replies = check_replies(
                await self._clients[slot].request(commands, len(topics)), f"reading {', '.join(topics)}"
            )
            for topic, last in zip(topics, replies, strict=True):
                if last:
                    self._positions[topic] = last[0][0].decode()

    @asynccontextmanager
    async def started(self, start: Start) -> AsyncIterator[Reader]:
        """Start reading; at the end, close the connections."""
        try:
            await self._find_start(start)
            yield self
        finally:
            with anyio.CancelScope(shield=True):
                for client in self._clients.values():
                    await client.close()
