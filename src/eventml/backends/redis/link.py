"""A connection that is made when it is wanted, and made again when it was lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from eventml.backends.redis.replies import ErrorReply, moved

if TYPE_CHECKING:
    from eventml.backends.redis.channel import Channel
    from eventml.backends.redis.connecting import Connector


class Link:
    """One connection to the server that has a slot.

    Args:
        connector: Makes the connection.
        slot: Whose server to connect to.
        timeout: How long an answer may take, in seconds.
    """

    def __init__(self, connector: Connector, slot: int, timeout: float) -> None:
        self._connector = connector
        self._slot = slot
        self._timeout = timeout
        self._channel: Channel | None = None
        self._connecting = asyncio.Lock()

    @property
    def current(self) -> Channel | None:
        """The connection, if there is one that is open."""
        return self._channel if self._channel is not None and self._channel.open else None

    async def channel(self) -> Channel:
        """The connection, made if there is none.

        Raises:
            UnavailableError: the server cannot be reached. Nothing has been sent.
        """
        if self.current is None:
            async with self._connecting:
                if self.current is None:
                    self._channel = await self._connector.connect(self._slot)
        assert self._channel is not None  # noqa: S101 - for the type checker
        return self._channel

    async def ask(self, commands: bytes, expected: int = 1, wait: float = 0.0) -> list[Any]:
        """Send packed commands and wait for their replies, errors among them in their places.

        Args:
            commands: One or more, packed.
            expected: How many replies they have.
            wait: How long the server itself may take before it answers, in seconds.

        Raises:
            LostError: the connection was lost on the way.
            UnavailableError: the server cannot be reached. Nothing has been sent.
        """
        channel = await self.channel()
        await channel.writable()
        replies = await channel.send(commands, expected, wait + self._timeout)
        if ErrorReply in set(map(type, replies)):
            self.heed(replies)
        return replies

    def heed(self, replies: list[Any]) -> None:
        """Look elsewhere next time, if these say that this is the wrong server."""
        if any(type(reply) is ErrorReply and moved(reply) for reply in replies):
            self._connector.moved()
            if self._channel is not None:
                self._channel.drop()

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
