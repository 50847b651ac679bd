"""A connection on which commands are pipelined: packed bytes go out, parsed replies come back in order.

redis-py makes the connection; its transport is then taken over, because its client spends several
times as much per reply as the reply takes to parse. A reply costs here what hiredis needs for it, and
a caller who is cancelled costs the connection nothing: its replies are still read, and dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import hiredis

from eventml.backends.redis.replies import ErrorReply, LostError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_BUFFER: Final = 1 << 18  # bytes read at once; as much as asyncio's own transports take
_GOODBYE: Final = 1.0  # seconds that closing in good order may take; TLS takes its leave
_MORE: Final = object()


class _Exchange:
    """Replies that are expected, and who waits for them."""

    __slots__ = ("deadline", "expected", "future", "replies")

    def __init__(
        self, future: asyncio.Future[list[Any]], expected: int, deadline: asyncio.TimerHandle
    ) -> None:
        self.future = future
        self.expected = expected
        self.deadline = deadline
        self.replies: list[Any] = []


class Channel(asyncio.BufferedProtocol):
    """One connection. Any number of callers may have commands on it.

    Args:
        name: Of the server, for messages.

    Attributes:
        number: What the server calls this connection (CLIENT ID); None if it does not say.
    """

    def __init__(self, name: str) -> None:
        self.number: int | None = None
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._pending: deque[_Exchange] = deque()
        # Any: its own types leave out that it reads from any buffer.
        self._parser: Any = hiredis.Reader(replyError=ErrorReply, notEnoughData=_MORE)
        self._parser.setmaxbuf(8 * _BUFFER)  # else hiredis frees its buffer whenever it runs empty
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._transport: asyncio.WriteTransport | None = None
        self._writable = asyncio.Event()
        self._closed = self._loop.create_future()

    def attach(self, writer: asyncio.StreamWriter) -> None:
        """Take over a connection with nothing on its way in either direction."""
        self._writer = writer  # kept: its transport is closed when it is collected
        self._transport = writer.transport
        self._writable.set()
        writer.transport.set_protocol(self)

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def writable(self) -> None:
        """Wait until what was sent before has mostly left."""
        if not self._writable.is_set():
            await self._writable.wait()

    def send(self, commands: bytes, expected: int, timeout: float) -> asyncio.Future[list[Any]]:
        """Send packed commands, and get a future of so many replies.

        An error reply stands in its place among them. Cancelling the future is harmless.

        Args:
            commands: One or more, packed.
            expected: How many replies they have.
            timeout: How long the replies may take, in seconds; past it the connection is given up.

        Raises:
            LostError: the connection is closed; nothing was sent. In the future: it was lost since.
        """
        if self._transport is None or self._transport.is_closing():
            raise LostError(f"the connection to {self._name} is closed", undone=True)
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        deadline = self._loop.call_later(timeout, self._overdue, timeout)
        self._pending.append(_Exchange(future, expected, deadline))
        self._transport.write(commands)
        return future

    async def close(self) -> None:
        """Close the connection. Replies that have not come are given up."""
        if self._transport is not None:
            self._transport.close()
            await asyncio.wait([self._closed], timeout=_GOODBYE)
            self._transport.abort()

    def drop(self) -> None:
        """Give the connection up: it may lead to the wrong server, or nowhere."""
        if self._transport is not None:
            self._transport.abort()

    def _overdue(self, timeout: float) -> None:
        self._fail(f"{self._name} has not answered for {timeout:g} s")
        self.drop()

    def _fail(self, why: str) -> None:
        while self._pending:
            exchange = self._pending.popleft()
            exchange.deadline.cancel()
            if not exchange.future.done():
                # Each has an error of its own: one object raised in many tasks shares a traceback.
                exchange.future.set_exception(LostError(why))
                exchange.future.exception()  # whoever waits sees it; if nobody does, nobody minds

    # What the transport calls.

    def get_buffer(self, sizehint: int) -> Buffer:  # noqa: ARG002 - the protocol's signature
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        parser = self._parser
        pending = self._pending
        parser.feed(self._buffer, 0, nbytes)
        while (reply := parser.gets()) is not _MORE:
            if not pending:
                continue
            exchange = pending[0]
            exchange.replies.append(reply)
            if len(exchange.replies) == exchange.expected:
                pending.popleft()
                exchange.deadline.cancel()
                if not exchange.future.done():
                    exchange.future.set_result(exchange.replies)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def eof_received(self) -> None:
        """The server hangs up: let the transport close."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        self._fail(f"the connection to {self._name} was lost: {exc or 'it was closed'}")
        if not self._closed.done():
            self._closed.set_result(None)
