"""Connections on which commands are pipelined: packed commands are sent, and replies come back in order.

Commands are packed and replies parsed by hiredis (RESP,
redis.io/docs/latest/develop/reference/protocol-spec). A caller that is cancelled does not disturb the
connection: its replies are still read, and dropped.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import hiredis
import msgspec

from eventml.backends.redis.errors import (
    ConnectionLostError,
    DeniedError,
    ErrorReply,
    ReplyTooLongError,
    check_replies,
    error_for,
)
from eventml.backends.redis.settings import Address, Host, Settings, tls_context
from eventml.errors import UnavailableError
from eventml.loopback import is_loopback

if TYPE_CHECKING:
    from typing_extensions import Buffer

log = logging.getLogger("eventml.redis")

_BUFFER: Final = 1 << 18  # bytes read at once; as many as asyncio's own transports read
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


class _Request(msgspec.Struct):
    """Commands that were sent, and the future of their replies.

    `close_at` is the count of received bytes at which the connection is closed, if there is a limit.
    """

    future: asyncio.Future[list[Any]]
    expected: int
    timeout: float
    close_at: float
    deadline: Any = None  # a TimerHandle, once it is sent
    replies: list[Any] = []


class Connection(asyncio.BufferedProtocol):
    """One connection, which any number of callers may use at the same time.

    Attributes:
        hello: The server's reply to HELLO: its name and version, and the number of this connection.
        writable: Set unless the send buffer is full: wait for it before `send`.
        received: How many bytes have been received.
    """

    def __init__(self, name: str) -> None:
        self.hello: dict[str, Any] = {}
        self.writable = asyncio.Event()
        self.received = 0
        self._received_at = 0.0
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._pending: deque[_Request] = deque()
        # Any: the type stub of `feed` leaves out that it accepts any buffer.
        self._parser: Any = hiredis.Reader(replyError=ErrorReply, notEnoughData=_INCOMPLETE)
        self._parser.setmaxbuf(8 * _BUFFER)  # else hiredis frees its buffer whenever it runs empty
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._transport: asyncio.WriteTransport | None = None
        self._rejection = ""

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def send(
        self, commands: bytes, expected: int, timeout: float, max_bytes: float = math.inf
    ) -> asyncio.Future[list[Any]]:
        """Send packed commands, and return a future of that number of replies.

        An error reply stands in its place among them. If nothing has been received for `timeout` seconds, or
        more than `max_bytes` and not all of them, the connection is closed. Cancelling it is harmless.

        Raises:
            ConnectionLostError: the connection is closed and nothing was sent. The future raises it
                too, if the connection is lost before the replies have come.
        """
        if self._transport is None or self._transport.is_closing():
            raise ConnectionLostError(f"the connection to {self._name} is closed", unsent=True)
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        request = _Request(future, expected, timeout, self.received + max_bytes)
        request.deadline = self._loop.call_later(timeout, self._check_deadline, request)
        self._pending.append(request)
        self._transport.write(commands)
        return future

    def close(self) -> None:
        """Close the connection at once. Requests without a reply fail."""
        if self._transport is not None:
            self._transport.abort()

    def _check_deadline(self, request: _Request) -> None:
        left = self._received_at + request.timeout - self._loop.time()
        if left > 0:  # replies are arriving, however slowly
            request.deadline = self._loop.call_later(left, self._check_deadline, request)
            return
        self._fail_pending(f"{self._name} has not answered for {request.timeout:g} s")
        self.close()

    def _fail_pending(self, reason: str, error: type[ConnectionLostError] = ConnectionLostError) -> None:
        while self._pending:
            request = self._pending.popleft()
            request.deadline.cancel()
            if not request.future.done():
                # Each has an exception of its own: one object raised in many tasks shares a traceback.
                request.future.set_exception(error(reason))
                request.future.exception()  # marks it as retrieved, in case that nothing awaits the future

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport: commands can be sent."""
        self._transport = cast("asyncio.WriteTransport", transport)
        self.writable.set()

    def get_buffer(self, sizehint: int) -> Buffer:  # noqa: ARG002 - the protocol's signature
        """Return the buffer to receive into."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Parse the bytes received, and resolve the requests whose replies are complete."""
        parser = self._parser
        pending = self._pending
        self.received += nbytes
        self._received_at = self._loop.time()
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
        if pending and self.received > pending[0].close_at:
            self._fail_pending(f"a reply of {self._name} is too long", ReplyTooLongError)
            self.close()

    def pause_writing(self) -> None:
        """Let senders wait: the send buffer is full."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """Let senders continue: the send buffer has room."""
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the requests that have no reply."""
        self.writable.set()
        reason = exc or "the server closed it"
        self._fail_pending(f"the connection to {self._name} was lost: {reason}{self._rejection}")


class Login:
    """Opens connections to any host as the user of an address, with its database and with or without TLS.

    The error for a wrong password names the setting that holds it.
    """

    def __init__(self, address: Address, settings: Settings, *, setting: str = "backend.url") -> None:
        self._address = address
        self._settings = settings
        self._setting = setting
        self._tls = tls_context(settings) if address.tls else None
        self._warned: set[Host] = set()

    async def connect(self, target: Host | str) -> Connection:
        """Connect to a host, or to the path of a Unix socket; see `Server.connect`."""
        if not isinstance(target, str):
            self._warn_of_plaintext(target)
        name = str(Address((), path=target) if isinstance(target, str) else Address((target,)))
        connection = Connection(name)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._settings.timeout):
                if isinstance(target, str):
                    await loop.create_unix_connection(lambda: connection, target)
                else:
                    transport, _ = await loop.create_connection(lambda: connection, *target, ssl=self._tls)
                    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except OSError as exc:  # a TimeoutError is one, and has no text
            reason = str(exc) or f"no connection within {self._settings.timeout:g} s"
            raise UnavailableError(f"cannot reach Redis at {name}: {reason}") from exc
        try:
            await self._log_in(connection, name)
        except BaseException:
            connection.close()
            raise
        return connection

    async def ask(self, hosts: Iterable[Host], command: bytes, failure: str) -> tuple[Host, Any]:
        """Send a packed command to one host after the other, until one gives a reply that is not empty.

        Returns the host and its reply.

        Raises:
            DeniedError: the last host that failed refuses the user or the password.
            UnavailableError: none has a reply, for another reason.
            BackendError: a host gives an error reply.
        """
        problem: UnavailableError | DeniedError | None = None
        for host in hosts:
            try:
                connection = await self.connect(host)
                try:
                    replies = await connection.send(command, 1, self._settings.timeout)
                finally:
                    connection.close()
                [reply] = check_replies(replies, f"asking {host[0]}:{host[1]}")
            except (UnavailableError, DeniedError) as exc:
                problem = exc
            else:
                if reply:
                    return host, reply
        if isinstance(problem, DeniedError):
            raise problem
        last = f"; the last one that failed: {problem}" if problem else ""
        raise UnavailableError(f"{failure}{last}") from problem

    def _warn_of_plaintext(self, host: Host) -> None:
        """Warn, once for each host, that nothing is encrypted on the way to it."""
        if self._tls is None and host not in self._warned and not is_loopback(host[0]):
            self._warned.add(host)
            secret = " and the password" if self._address.password else ""
            log.warning("data%s go to %s unencrypted; use rediss://", secret, Address((host,)))

    async def _log_in(self, connection: Connection, name: str) -> None:
        user, password, db = self._address.username, self._address.password, self._address.db
        login = ("AUTH", user or "default", password or "") if user or password else ()
        commands = [pack("HELLO", 2, *login, "SETNAME", "eventml")]
        if db:
            commands.append(pack("SELECT", db))
        replies = await connection.send(b"".join(commands), len(commands), self._settings.timeout)
        for what, reply in zip(("the user or the password", "the database"), replies, strict=False):
            if type(reply) is not ErrorReply:
                continue
            # A server that does not know HELLO repeats its arguments, or the first part of them.
            text = str(reply).partition(", with args")[0]
            reply = ErrorReply(text.replace(password, "***") if password else text)  # noqa: PLW2901 - for messages
            if reply.code == "NOAUTH":
                raise DeniedError(f"{self._setting}: {name} requires a user and a password: {reply}")
            error = error_for(reply, f"{self._setting}: logging in to {name}")
            if isinstance(error, UnavailableError):
                raise error
            raise DeniedError(f"{self._setting}: {name} refuses {what}: {reply}")
        connection.hello = fields_of(replies[0])
