"""Connections on which commands are pipelined: packed commands are sent, and replies come back in order.

Commands are packed and replies parsed by hiredis (RESP,
redis.io/docs/latest/develop/reference/protocol-spec). A caller that is cancelled does not disturb the
connection: its replies are still read, and dropped.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import hiredis

from eventml.backends.redis.errors import (
    ConnectionLostError,
    DeniedError,
    ErrorReply,
    error_for,
    is_wrong_server,
)
from eventml.backends.redis.settings import Address, Settings, tls_context
from eventml.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    Host = tuple[str, int]

_BUFFER: Final = 1 << 18  # bytes read at once; as many as asyncio's own transports read
_CLOSE_TIMEOUT: Final = 1.0  # seconds that an orderly close may take; TLS exchanges messages for it
_INCOMPLETE: Final = object()

_pack: Final[Any] = hiredis.pack_command  # Any: its type stub accepts tuples of one element only


def pack(*arguments: str | bytes | int) -> bytes:
    """Pack one command."""
    return cast("bytes", _pack(arguments))


def bulk(argument: bytes) -> bytes:
    """Pack one argument of a command."""
    return b"$%d\r\n%b\r\n" % (len(argument), argument)


def fields_of(reply: Sequence[Any]) -> dict[str, Any]:
    """A reply of alternating names and values, as a mapping."""
    return {name.decode(): value for name, value in zip(reply[::2], reply[1::2], strict=True)}


class _Request:
    """Commands that were sent, and the future of their replies."""

    __slots__ = ("deadline", "expected", "future", "replies")

    def __init__(
        self, future: asyncio.Future[list[Any]], expected: int, deadline: asyncio.TimerHandle
    ) -> None:
        self.future = future
        self.expected = expected
        self.deadline = deadline
        self.replies: list[Any] = []


class Connection(asyncio.BufferedProtocol):
    """One connection, which any number of callers may use at the same time.

    Args:
        name: The server's name in messages.

    Attributes:
        client_id: The server's number for this connection (CLIENT ID); None if the user may not ask for it.
    """

    def __init__(self, name: str) -> None:
        self.client_id: int | None = None
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._pending: deque[_Request] = deque()
        # Any: the type stub of `feed` leaves out that it accepts any buffer.
        self._parser: Any = hiredis.Reader(replyError=ErrorReply, notEnoughData=_INCOMPLETE)
        self._parser.setmaxbuf(8 * _BUFFER)  # else hiredis frees its buffer whenever it runs empty
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._transport: asyncio.WriteTransport | None = None
        self._writable = asyncio.Event()
        self._closed = self._loop.create_future()
        self._rejection = ""

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def writable(self) -> None:
        """Wait until most of what was sent has left the send buffer."""
        if not self._writable.is_set():
            await self._writable.wait()

    def send(self, commands: bytes, expected: int, timeout: float) -> asyncio.Future[list[Any]]:
        """Send packed commands, and return a future of their replies.

        An error reply stands in its place among them. Cancelling the future is harmless.

        Args:
            commands: One or more packed commands.
            expected: The number of replies.
            timeout: How long the replies may take, in seconds; after that the connection is closed.

        Raises:
            ConnectionLostError: the connection is closed and nothing was sent. The future raises it
                too, if the connection is lost before the replies have come.
        """
        if self._transport is None or self._transport.is_closing():
            raise ConnectionLostError(f"the connection to {self._name} is closed", unsent=True)
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        deadline = self._loop.call_later(timeout, self._time_out, timeout)
        self._pending.append(_Request(future, expected, deadline))
        self._transport.write(commands)
        return future

    async def close(self) -> None:
        """Close the connection in good order. Requests without a reply fail."""
        if self._transport is not None:
            self._transport.close()
            await asyncio.wait([self._closed], timeout=_CLOSE_TIMEOUT)
            self._transport.abort()

    def abort(self) -> None:
        """Close the connection at once: it is broken, or leads to the wrong server."""
        if self._transport is not None:
            self._transport.abort()

    def _time_out(self, timeout: float) -> None:
        self._fail_pending(f"{self._name} has not answered for {timeout:g} s")
        self.abort()

    def _fail_pending(self, reason: str) -> None:
        while self._pending:
            request = self._pending.popleft()
            request.deadline.cancel()
            if not request.future.done():
                # Each has an exception of its own: one object raised in many tasks shares a traceback.
                request.future.set_exception(ConnectionLostError(reason))
                request.future.exception()  # marks it as retrieved, in case that nothing awaits the future

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport: commands can be sent."""
        self._transport = cast("asyncio.WriteTransport", transport)
        self._writable.set()

    def get_buffer(self, sizehint: int) -> Buffer:  # noqa: ARG002 - the protocol's signature
        """Return the buffer to receive into."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Parse the bytes received, and resolve the requests whose replies are complete."""
        parser = self._parser
        pending = self._pending
        parser.feed(self._buffer, 0, nbytes)
        while (reply := parser.gets()) is not _INCOMPLETE:
            if not pending:  # a server that rejects a connection says why before it closes it
                self._rejection = f" ({reply})" if type(reply) is ErrorReply else ""
                continue
            request = pending[0]
            request.replies.append(reply)
            if len(request.replies) == request.expected:
                pending.popleft()
                request.deadline.cancel()
                if not request.future.done():
                    request.future.set_result(request.replies)

    def pause_writing(self) -> None:
        """Let senders wait: the send buffer is full."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let senders continue: the send buffer has room."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the requests that have no reply."""
        self._writable.set()
        reason = exc or "the server closed it"
        self._fail_pending(f"the connection to {self._name} was lost: {reason}{self._rejection}")
        if not self._closed.done():
            self._closed.set_result(None)


class Login:
    """Opens connections, and logs in on them.

    Args:
        address: The user, the database, and whether to use TLS; not the hosts.
        settings: Time limits and certificates.
        setting: The setting that a wrong password stands in, for messages.
    """

    def __init__(self, address: Address, settings: Settings, *, setting: str = "backend.url") -> None:
        self._address = address
        self._settings = settings
        self._setting = setting
        self._tls = tls_context(settings) if address.tls else None

    async def connect(self, target: Host | str, name: str = "") -> Connection:
        """Connect to a host, or to the path of a Unix socket.

        Raises:
            UnavailableError: the server cannot be reached, or does not answer in time.
            DeniedError: the server refuses the user, the password or the database.
        """
        hosts, path = ((), target) if isinstance(target, str) else ((target,), None)
        name = name or str(Address(hosts=hosts, path=path))
        connection = Connection(name)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                if isinstance(target, str):
                    await loop.create_unix_connection(lambda: connection, target)
                else:
                    transport, _ = await loop.create_connection(lambda: connection, *target, ssl=self._tls)
                    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except OSError as exc:  # a TimeoutError is one, and has no text
            reason = str(exc) or f"no connection within {self._settings.connect_timeout:g} s"
            raise UnavailableError(f"cannot reach Redis at {name}: {reason}") from exc
        try:
            await self._log_in(connection, name)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _log_in(self, connection: Connection, name: str) -> None:
        user, password, db = self._address.username, self._address.password, self._address.db
        required = {}
        if user is not None or password is not None:
            login = (password or "",) if user is None else (user, password or "")
            required["the user or the password"] = pack("AUTH", *login)
        if db:
            required["the database"] = pack("SELECT", db)
        # The user may not be allowed the other two, which only help to leave a group and to be recognised.
        commands = [*required.values(), pack("CLIENT", "ID"), pack("CLIENT", "SETNAME", "eventml")]
        replies = await connection.send(b"".join(commands), len(commands), self._settings.timeout)
        for refused, reply in zip_longest(required, replies):
            if type(reply) is not ErrorReply:
                continue
            if reply.code == "NOAUTH":
                raise DeniedError(f"{self._setting}: {name} requires a user and a password: {reply}")
            error = error_for(reply, f"{self._setting}: logging in to {name}")
            if isinstance(error, UnavailableError):
                raise error
            if refused is not None:
                raise DeniedError(f"{self._setting}: {name} refuses {refused}: {reply}")
        connection.client_id = replies[-2] if type(replies[-2]) is int else None


class Connector(Protocol):
    """Connects to the server that stores a topic. `servers.py` has one for each kind of deployment."""

    def slot(self, topic: str) -> int:
        """The slot of a topic. Topics of one slot are always on one server."""
        ...

    async def connect(self, slot: int) -> Connection:
        """Connect to the server that serves a slot.

        Raises:
            UnavailableError: the server cannot be reached.
            DeniedError: the server refuses the user or the password.
        """
        ...

    def forget(self) -> None:
        """Look up the servers again before the next connection: one of them did not serve its slot."""
        ...


class Client:
    """Sends requests to the server of a slot; connects when needed, and again after a connection was lost.

    Args:
        connector: Makes the connections.
        slot: The slot whose server to connect to.
        timeout: How long a reply may take, in seconds.
    """

    def __init__(self, connector: Connector, slot: int, timeout: float) -> None:
        self._connector = connector
        self._slot = slot
        self._timeout = timeout
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()

    @property
    def connected(self) -> Connection | None:
        """The connection, if it is open."""
        return self._connection if self._connection is not None and self._connection.is_open else None

    async def connection(self) -> Connection:
        """The connection, made if none is open.

        Raises:
            UnavailableError: the server cannot be reached.
            DeniedError: the server refuses the user or the password.
        """
        if self.connected is None:
            async with self._connecting:
                if self.connected is None:
                    self._connection = await self._connector.connect(self._slot)
        assert self._connection is not None  # noqa: S101 - for the type checker
        return self._connection

    async def request(self, commands: bytes, expected: int = 1) -> list[Any]:
        """Send packed commands and wait for their replies, error replies in their places among them.

        Args:
            commands: One or more packed commands.
            expected: The number of replies.

        Raises:
            ConnectionLostError: the connection was lost before the replies came.
            UnavailableError: the server cannot be reached. Nothing was sent.
            DeniedError: the server refuses the user or the password. Nothing was sent.
        """
        connection = await self.connection()
        await connection.writable()
        replies = await connection.send(commands, expected, self._timeout)
        if ErrorReply in set(map(type, replies)):
            self.check_server(replies)
        return replies

    def check_server(self, replies: list[Any]) -> None:
        """Close the connection if one of the replies says that it leads to the wrong server."""
        if any(type(reply) is ErrorReply and is_wrong_server(reply) for reply in replies):
            self._connector.forget()
            if self._connection is not None:
                self._connection.abort()

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            await self._connection.close()
