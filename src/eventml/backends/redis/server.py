"""A Redis server, and how to ask it: requests and scripts. Sentinels and clusters are in `cluster.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from hashlib import sha1
from importlib import resources
from typing import Any

from eventml.backends.redis.connection import Connection, Login, pack
from eventml.backends.redis.errors import WRONG_SERVER, ErrorReply, check_replies
from eventml.backends.redis.settings import Address, Settings


class Server:
    """The Redis behind one backend: one server at a fixed address.

    Attributes:
        largest: The largest argument that the server accepts, in bytes; it closes the connection on larger
            ones.
    """

    def __init__(self, address: Address, settings: Settings) -> None:
        self.settings = settings
        self.largest = 512 << 20  # the default of the server's proto-max-bulk-len
        self._address = address
        self._login = Login(address, settings)

    def slot(self, topic: str) -> int:  # noqa: ARG002 - all topics are on one server
        """The slot of a topic. Topics of one slot are always on one server."""
        return 0

    async def connect(self, slot: int) -> Connection:  # noqa: ARG002 - the same
        """Connect to the server that serves a slot.

        Raises:
            UnavailableError: the server cannot be reached.
            DeniedError: the server refuses the user, the password or the database.
        """
        return await self._login.connect(self._address.path or self._address.hosts[0])

    def forget(self) -> None:
        """Look up the servers again before the next connection: one of them did not serve its slot."""

    def by_slot(self, topics: Iterable[str]) -> dict[int, list[str]]:
        """The topics, each once, by their slots."""
        found: dict[int, list[str]] = {}
        for topic in dict.fromkeys(topics):
            found.setdefault(self.slot(topic), []).append(topic)
        return found


class Client:
    """Sends requests to the server of a slot; connects when needed, and again after a connection was lost.

    What sends or connects raises UnavailableError if the server cannot be reached, and DeniedError if it
    refuses the user or the password. In both cases nothing was sent.
    """

    def __init__(self, server: Server, slot: int) -> None:
        self._server = server
        self._slot = slot
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()

    @property
    def connected(self) -> Connection | None:
        """The connection, if it is open."""
        return self._connection if self._connection is not None and self._connection.is_open else None

    async def connection(self) -> Connection:
        """The connection, made if none is open."""
        connection = self.connected
        if connection is None:
            async with self._connecting:
                connection = self.connected
                if connection is None:
                    connection = self._connection = await self._server.connect(self._slot)
        return connection

    async def request(self, commands: bytes, expected: int = 1) -> list[Any]:
        """Send packed commands and wait for that number of replies, error replies in their places.

        Raises:
            ConnectionLostError: the connection was lost before the replies came.
        """
        connection = await self.connection()
        await connection.writable.wait()
        replies = await connection.send(commands, expected, self._server.settings.timeout)
        self.check_server(replies)
        return replies

    def check_server(self, replies: list[Any]) -> None:
        """Close the connection if one of the replies says that it leads to the wrong server."""
        if ErrorReply in set(map(type, replies)) and any(
            type(reply) is ErrorReply and reply.code in WRONG_SERVER for reply in replies
        ):
            self._server.forget()
            self.close()

    def close(self) -> None:
        """Close the connection, if there is one. Requests without a reply fail."""
        if self._connection is not None:
            self._connection.close()


class Script:
    """The script of that name in `scripts/`, which the server knows by its digest once it has been sent."""

    def __init__(self, name: str) -> None:
        self.source = (resources.files("eventml.backends.redis") / f"scripts/{name}.lua").read_bytes()
        self.digest = sha1(self.source, usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> bytes:
        """The packed command that runs the script."""
        return pack("EVALSHA", self.digest, len(keys), *keys, *arguments)

    async def run(self, client: Client, topic: str, *arguments: str | bytes | int, action: str) -> Any:
        """Run the script with the topic as its only key, and return its reply.

        Raises:
            BackendError: the server cannot be reached, or refuses. The message begins with the action.
        """
        [reply] = check_replies(await self.run_calls(client, [self.call([topic], arguments)]), action)
        return reply

    async def run_calls(self, client: Client, calls: Sequence[bytes]) -> list[Any]:
        """Run packed calls of the script in their order. Returns and raises as `Client.request` does."""
        replies = await client.request(b"".join(calls), len(calls))
        unknown = [
            position
            for position, reply in enumerate(replies)
            if type(reply) is ErrorReply and reply.code == "NOSCRIPT"
        ]
        if unknown:  # the server has restarted, and has not run these calls
            repeated = await client.request(
                pack("SCRIPT", "LOAD", self.source) + b"".join(calls[position] for position in unknown),
                1 + len(unknown),
            )
            for position, reply in zip(unknown, repeated[1:], strict=True):
                replies[position] = reply
        return replies
