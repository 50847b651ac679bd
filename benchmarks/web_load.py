"""Clients in a process of their own: each sends a request, waits for its response, and sends the next.

    python -m benchmarks.web_load RIDES PORT CLIENTS SECONDS WRAP

RIDES is a file of JSON lines. WRAP is the field in which the server expects a list of rides, or empty. The
clients write HTTP to bare sockets, which costs little CPU. Prints the latency of each request and the
duration of the run, in seconds, as JSON. It fails on a status other than 200, or another ride.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence


class Client(asyncio.Protocol):
    """A client on one connection."""

    def __init__(self, requests: Sequence[tuple[bytes, bytes]], until: float) -> None:
        self._requests = requests
        self._until = until
        self._next = 0
        self._buffer = b""
        self.latencies: list[float] = []
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._request, self._expected = self._requests[self._next % len(self._requests)]
        self._next += 1
        self._begun = time.perf_counter()
        self._transport.write(self._request)  # type: ignore[attr-defined] # it is a stream's

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found or len(body) < _length(head):
            return
        now = time.perf_counter()
        self.latencies.append(now - self._begun)
        self._buffer = b""
        if not head.startswith(b"HTTP/1.1 200") or self._expected not in body:
            self.ended.set_exception(AssertionError(f"{head!r} {body!r} to {self._request!r}"))
        elif now < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            if exc is None:
                self.ended.set_result(None)
            else:
                self.ended.set_exception(exc)


def _length(head: bytes) -> int:
    lower = head.lower()
    start = lower.index(b"content-length:") + len(b"content-length:")
    return int(lower[start:].partition(b"\r\n")[0])


def requests(lines: Sequence[bytes], wrap: str) -> list[tuple[bytes, bytes]]:
    """Return the bytes of each request, and the bytes that its response must contain."""
    made = []
    for line in lines:
        body = b'{"%b":[%b]}' % (wrap.encode(), line) if wrap else line
        head = (
            "POST /predict/minutes HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        made.append((head.encode() + body, b"" if wrap else msgspec.json.decode(line)["ride_id"].encode()))
    return made


async def run(
    lines: Sequence[bytes], port: int, clients: int, seconds: float, wrap: str
) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    begun = time.perf_counter()
    ready = [requests(lines[client * 8 : client * 8 + 8], wrap) for client in range(clients)]
    made = [Client(one, begun + seconds) for one in ready]
    for client in made:
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.gather(*(client.ended for client in made))
    latencies = [latency for client in made for latency in client.latencies]
    return {"latencies": latencies, "seconds": time.perf_counter() - begun}


def main() -> None:
    rides, port, clients, seconds, wrap = sys.argv[1:]
    answer = asyncio.run(
        run(Path(rides).read_bytes().splitlines(), int(port), int(clients), float(seconds), wrap)
    )
    sys.stdout.buffer.write(msgspec.json.encode(answer))


if __name__ == "__main__":
    main()
