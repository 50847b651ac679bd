"""Reading ahead: the next read is under way while a batch is processed. Also the reader without a group.

A read that blocks in the server is never cancelled: what it returns would be pending, and no member
would know of it. A caller that stops waiting leaves the read under way, for the next caller.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from eventml.backends.base import Completion, Start
from eventml.backends.redis.connection import Connection, pack
from eventml.backends.redis.errors import (
    ConnectionLostError,
    ErrorReply,
    ReplyTooLongError,
    check_replies,
    error_for,
)
from eventml.backends.redis.publishing import Publisher
from eventml.backends.redis.server import Client, Server
from eventml.backends.redis.wire import FIRST, decode_entries, id_before, ordered
from eventml.errors import BackendError, EventMLError
from eventml.records import Delivery, count_fitting

log = logging.getLogger("eventml")

BLOCK: Final = 1_000  # milliseconds that the server holds a read open that finds no new entries

_FIRST_COUNT: Final = 8  # entries that the first read asks for
_LEAST_BYTES: Final = 256_000  # replies are not lost for their size below this
_OVERSIZE: Final = 4  # times `max_bytes`: a longer reply is not read to its end

R = TypeVar("R", bound="ReadAhead")


class ReadSize:
    """How much to read at once. A read is bounded in entries by the server, and in bytes by this estimate:
    the entries of a read are as large as those of the read before it.

    It starts small, and at most doubles from read to read. It shrinks when a reply is lost: a slow link, and
    the server's client-output-buffer-limit, lose large ones.

    Attributes:
        max_bytes: How many bytes a reply should have now.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = self._most = max_bytes
        self._count = _FIRST_COUNT

    def count(self, limit: int) -> int:
        """How many entries to ask for, of up to `limit`."""
        return min(self._count, limit)

    def succeeded(self, asked: int, entries: int, size: int) -> None:
        """So many entries came of those that were asked for of a topic, in a reply of `size` bytes."""
        if entries:
            self.max_bytes = min(self.max_bytes + self.max_bytes // 50 + 1, self._most)
            wanted = 2 * asked if entries >= asked else self._count
            self._count = max(min(wanted, self.max_bytes * entries // size), 1)

    def failed(self, asked: int) -> None:
        """The reply with so many entries was lost."""
        self.max_bytes = max(self.max_bytes // 4, min(_LEAST_BYTES, self._most))
        self._count = max(min(self._count, asked) // 4, 1)


class ReadAhead:
    """Reads from the topics of one slot, one read at a time, on a connection of its own, which blocks.

    `command` returns the packed command that reads up to so many entries, and `decode` decodes those of one
    topic. `arrived` is set when entries have come, or a read has failed.

    Attributes:
        size: How much to read at once.
        pending: The read that is under way.
        ready: Deliveries that have been read and not been taken.
        reads: How many reads have succeeded.
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
        self.size = ReadSize(server.settings.max_bytes)
        self.pending: asyncio.Future[list[Any]] | None = None
        self.ready: list[Delivery] = []
        self.reads = 0
        self._command = command
        self._decode = decode
        self._arrived = arrived
        self._timeout = BLOCK / 1_000 + server.settings.timeout
        self._slow = BLOCK / 1_000 + server.settings.lease / 4
        self._max_bytes = server.settings.max_bytes
        self._ready_bytes = 0  # of the reply that `ready` came in
        self._begun = 0.0
        self._received = 0  # bytes that the connection had received when the read began
        self._failure: BackendError | None = None

    def arrives_slowly(self, seconds: float) -> bool:
        """Whether the read under way began so long ago, and its reply has begun to arrive."""
        connection = self.client.connected
        arriving = (
            self.pending is not None and connection is not None and connection.received > self._received
        )
        return arriving and time.monotonic() - self._begun > seconds

    def check(self) -> None:
        """Raise the failure of the last read, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def take(self, limit: int) -> list[Delivery]:
        """Take the deliveries that are ready, up to a limit and `max_bytes`."""
        if self._ready_bytes > self._max_bytes:
            limit = count_fitting(self.ready[:limit], self._max_bytes) or 1
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
        count = self.size.count(limit)
        self._begun, self._received = time.monotonic(), connection.received
        longest = _OVERSIZE * self._max_bytes if count > 1 else math.inf
        self.pending = connection.send(self._command(count), 1, self._timeout, longest)
        self.pending.add_done_callback(partial(self._finish, connection, count))

    async def finish(self, other: Client) -> None:
        """Wait for the read that is under way; another client unblocks it, if the user may do that."""
        connection = self.client.connected
        if self.pending is not None and connection is not None:
            with suppress(EventMLError):  # the read then ends when it has blocked for long enough
                await other.request(pack("CLIENT", "UNBLOCK", connection.hello["id"]))
        if self.pending is not None:
            await asyncio.wait([self.pending])

    def _finish(self, connection: Connection, asked: int, read: asyncio.Future[list[Any]]) -> None:
        self.pending = None
        try:
            [reply] = read.result()
        except ConnectionLostError as exc:
            self._failure = exc
            self.size.failed(asked)
        else:
            if type(reply) is ErrorReply:
                self.client.check_server([reply])
                self._failure = error_for(reply, "reading")
            else:
                self.reads += 1
                for topic, entries in reply or ():
                    self.ready += self._decode(topic.decode(), entries)
                self._ready_bytes = connection.received - self._received
                # COUNT is for each topic, so the fullest one says what the next read may ask for.
                fullest = max((len(entries) for _, entries in reply or ()), default=0)
                self.size.succeeded(asked, fullest, self._ready_bytes)
                # The leases of its entries are renewed only once a reply is there.
                if self.ready and time.monotonic() - self._begun > self._slow:
                    self.size.failed(asked)
        self._arrived.set()


async def receive(
    sources: list[R], limit: int, arrived: asyncio.Event, *, until_read: bool = False
) -> Sequence[Delivery]:
    """Wait for at least one delivery from any source, and take up to `limit`; see `Subscription.receive`.

    The source that they come from is the last one in the list then. With `until_read` it takes none once all
    sources have been read.
    """
    reads = [source.reads for source in sources]
    while True:
        await checkpoint_if_cancelled()  # a caller that has been cancelled meanwhile takes nothing
        arrived.clear()
        for position, source in enumerate(sources):
            try:
                source.check()
            except ReplyTooLongError as exc:
                log.info("%s; it is read again, in parts", exc)
            if taken := source.take(limit):
                sources.append(sources.pop(position))
                for other in sources:
                    other.read_ahead(limit)
                return taken
        if until_read and all(source.reads > before for source, before in zip(sources, reads, strict=True)):
            return ()
        for source in sources:
            await source.read(limit)
        await arrived.wait()


class Reader:
    """A subscription without a group: no acks, and no trace in the server."""

    def __init__(self, publisher: Publisher, topics: Sequence[str]) -> None:
        self._arrived = asyncio.Event()
        self._publisher = publisher
        self._positions = dict.fromkeys(topics, FIRST)
        self._ends: dict[str, str] = {}  # ids of the last entries to deliver; empty if there is no end
        self._reads = [
            ReadAhead(publisher.server, slot, partial(self._command, some), self._decode, self._arrived)
            for slot, some in publisher.server.by_slot(topics).items()
        ]

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """See `Subscription.receive`, and `Bounded`."""
        while not self._ended():
            if self._ends:  # connecting may take longer than the wait below, and has a limit of its own
                for read in self._reads:
                    await read.client.connection()
            with anyio.move_on_after(BLOCK / 1_000 if self._ends else math.inf):
                return await receive(self._reads, limit, self._arrived)
            # An entry at an end may have been removed.
            self._ends = {topic: await self._last(topic, end) for topic, end in self._ends.items()}
        return ()

    async def stop_at(self, end: Start) -> None:
        """See `Bounded.stop_at`."""
        last = "+" if end == "latest" else id_before(end)
        self._ends = {topic: await self._last(topic, last) for topic in self._positions}
        for read in self._reads:
            read.ready = self._before_end(read.ready)

    async def complete(self, done: Sequence[Completion]) -> None:
        """Publish the outputs; without a group there is nothing to acknowledge."""
        if outputs := [output for completion in done for output in completion.outputs]:
            await self._publisher.publish(outputs)

    async def lag(self) -> int | None:
        """Return None, for unknown: the server keeps no count for a reader."""
        return None

    def _decode(self, topic: str, entries: list[Any]) -> list[Delivery]:
        deliveries = decode_entries(topic, entries)
        self._positions[topic] = last = str(deliveries[-1].offset)
        ends = self._ends.get(topic)  # most entries are before it, and the last one says so of all
        return deliveries if ends and ordered(last) <= ordered(ends) else self._before_end(deliveries)

    def _before_end(self, deliveries: list[Delivery]) -> list[Delivery]:
        ends = {topic: ordered(end) for topic, end in self._ends.items()}
        return [d for d in deliveries if ordered(d.offset) <= ends[d.record.topic]] if ends else deliveries

    def _ended(self) -> bool:
        if not self._ends or any(read.ready for read in self._reads):
            return False
        return all(ordered(self._positions[topic]) >= ordered(end) for topic, end in self._ends.items())

    async def _last(self, topic: str, end: str) -> str:
        """The id of the last entry up to the end."""
        command = pack("XREVRANGE", topic, end, "-", "COUNT", 1)
        replies = await self._publisher.client(topic).request(command)
        [last] = check_replies(replies, f"reading {topic}")
        return str(last[0][0].decode()) if last else FIRST

    def _command(self, topics: Sequence[str], limit: int) -> bytes:
        positions = [self._positions[topic] for topic in topics]
        return pack("XREAD", "COUNT", limit, "BLOCK", BLOCK, "STREAMS", *topics, *positions)

    @asynccontextmanager
    async def started(self, start: Start) -> AsyncIterator[Reader]:
        """Start reading; at the end, close the connections."""
        try:
            for topic in self._positions:
                latest = start == "latest"  # what is published from now on will be read
                self._positions[topic] = await self._last(topic, "+") if latest else id_before(start)
            yield self
        finally:
            for read in self._reads:
                read.client.close()
