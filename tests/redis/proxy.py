"""A TCP proxy that can stop or slow down forwarding, close connections, or lose replies."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

CHUNK = 1 << 16


class Proxy:
    """In front of one server, on a port of its own. Made by `proxied`.

    Attributes:
        swallow: Whether the reply to a client's commands is to be lost: the server executes
            them, and then the connection breaks.
        swallowed: How many replies were lost.
        bytes_per_second: How fast replies are forwarded; None is no limit.
        connecting: Seconds that pass before anything of a new connection is forwarded.
    """

    def __init__(self, host: str, port: int) -> None:
        self._upstream = host, port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.url = ""
        self.swallow: Callable[[bytes], bool] = lambda _: False
        self.swallowed = 0
        self.bytes_per_second: float | None = None
        self.connecting = 0.0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def kill(self) -> None:
        """Close all connections, and accept no more."""
        if self._server is not None:
            self._server.close()
        self.cut()
        self._flowing.set()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Close the connections that are open."""
        for writer in self._writers:
            writer.transport.abort()

    @asynccontextmanager
    async def silence(self) -> AsyncIterator[None]:
        """Forward nothing in either direction; connections stay open."""
        self.hold()
        try:
            yield
        finally:
            self.flow()

    def hold(self) -> None:
        """Forward nothing until `flow`."""
        self._flowing.clear()

    def flow(self) -> None:
        """Forward what was held, and what comes."""
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            with suppress(OSError):
                await asyncio.sleep(self.connecting)
                upstream_reader, upstream_writer = await asyncio.open_connection(*self._upstream)
                await self._join(_Line(reader, writer), _Line(upstream_reader, upstream_writer))
        finally:
            writer.transport.abort()

    async def _join(self, client: _Line, server: _Line) -> None:
        self._writers |= {client.writer, server.writer}
        doomed = asyncio.Event()
        try:
            pumps = [
                asyncio.create_task(self._requests(client.reader, server.writer, doomed)),
                asyncio.create_task(self._replies(server.reader, client.writer, doomed)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            server.writer.transport.abort()
            client.writer.transport.abort()
            await asyncio.wait(pumps)
            self._writers -= {client.writer, server.writer}

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._flowing.wait()
                if self.swallow(data):
                    doomed.set()
                writer.write(data)
                await writer.drain()

    async def _replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, doomed: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._flowing.wait()
                if doomed.is_set():
                    if data != b"*-1\r\n":  # a read that found nothing is no loss
                        self.swallowed += 1
                        return
                    doomed.clear()
                if self.bytes_per_second is not None:
                    await asyncio.sleep(len(data) / self.bytes_per_second)
                writer.write(data)
                await writer.drain()


class _Line:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[Proxy]:
    """A proxy in front of the server at a URL."""
    parts = urlsplit(url)
    proxy = Proxy(parts.hostname or "localhost", parts.port or 6379)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.kill()
