"""Reading one step ahead of whoever takes: the next read is on its way while a batch is worked on.

A read that blocks in the server is never cancelled: what it is given would be pending, and nobody
would know. Whoever stops waiting leaves it where it is, and whoever waits next finds it there.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from eventml.backends.redis.replies import ErrorReply, LostError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventml.backends.redis.link import Link
    from eventml.records import Delivery


class ReadAhead:
    """Reads, one at a time, over a connection of their own.

    Args:
        link: The connection.
        command: The packed command that reads up to so many entries.
        take_in: Makes deliveries of what one topic gave.
        wake: Called when something has come, or gone wrong.
        wait: How long a read may take before the connection is given up, in seconds.

    Attributes:
        ready: What has been read and not been taken.
        failure: Why the last read gave nothing, until somebody clears it.
    """

    def __init__(
        self,
        link: Link,
        command: Callable[[int], bytes],
        take_in: Callable[[str, list[Any]], Sequence[Delivery]],
        *,
        wake: Callable[[], None],
        wait: float,
    ) -> None:
        self._link = link
        self._command = command
        self._take_in = take_in
        self._wake = wake
        self._wait = wait
        self._pending: asyncio.Future[list[Any]] | None = None
        self.ready: list[Delivery] = []
        self.failure: LostError | ErrorReply | None = None

    @property
    def pending(self) -> bool:
        """Whether a read is on its way."""
        return self._pending is not None

    @property
    def blocked(self) -> int | None:
        """The number of the connection whose read is on its way, if there is one."""
        channel = self._link.current
        return None if self._pending is None or channel is None else channel.number

    async def start(self, limit: int) -> None:
        """Have a read on its way.

        Raises:
            UnavailableError: the server cannot be reached.
        """
        if self._pending is None and not self.ready and self.failure is None:
            await self._link.channel()
            self.start_if_connected(limit)

    def start_if_connected(self, limit: int) -> None:
        """As `start`, without waiting: leave it to the next `start` where there is no connection."""
        channel = self._link.current
        if channel is None or self._pending is not None or self.ready or self.failure is not None:
            return
        self._pending = channel.send(self._command(limit), 1, self._wait)
        self._pending.add_done_callback(self._arrived)

    def take(self, limit: int) -> list[Delivery]:
        """What is ready, up to a limit."""
        if len(self.ready) <= limit:
            taken, self.ready = self.ready, []
            return taken
        taken = self.ready[:limit]
        del self.ready[:limit]
        return taken

    async def stop(self) -> None:
        """Wait for the read that is on its way: what it brings is in `ready`."""
        if self._pending is not None:
            await asyncio.wait([self._pending])

    async def close(self) -> None:
        await self._link.close()

    def _arrived(self, read: asyncio.Future[list[Any]]) -> None:
        self._pending = None
        try:
            [reply] = read.result()
        except LostError as exc:
            self.failure = exc
        else:
            if type(reply) is ErrorReply:
                self._link.heed([reply])
                self.failure = reply
            else:
                for topic, entries in reply or ():
                    self.ready += self._take_in(topic.decode(), entries)
        self._wake()
