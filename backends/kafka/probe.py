"""Asks a broker for the state of its cluster, without a client library.

It sends one request: Metadata, version 7, of Kafka's protocol guide, which Kafka 2.1 and newer answer. Later
versions use the compact encodings.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Final

from backends.process import LOOPBACK

METADATA: Final = 3
VERSION: Final = 7
CORRELATION: Final = 1
ALL_TOPICS: Final = -1


@dataclass(frozen=True)
class Partition:
    """One partition: its replicas, and those in sync."""

    topic: str
    index: int
    leader: int
    replicas: frozenset[int]
    in_sync: frozenset[int]


@dataclass(frozen=True)
class Metadata:
    """A broker's view: the ports of the live nodes by node id, and all partitions."""

    nodes: dict[int, int]
    partitions: tuple[Partition, ...]

    @property
    def in_sync(self) -> bool:
        """Whether every partition has a leader and all its copies."""
        return all(p.leader >= 0 and p.in_sync == p.replicas for p in self.partitions)


def ask(port: int, *, timeout: float = 2.0) -> Metadata:
    """The metadata of the broker on this loopback port.

    Raises:
        OSError: nothing answers there, or not with this protocol.
    """
    with socket.create_connection((LOOPBACK, port), timeout=timeout) as connection:
        connection.sendall(request())
        (size,) = struct.unpack(">i", _exactly(connection, 4))
        return parse(_exactly(connection, size))


def request() -> bytes:
    """The request's bytes: for all topics, creating none."""
    client = b"eventml-probe"
    body = struct.pack(">hhih", METADATA, VERSION, CORRELATION, len(client)) + client
    body += struct.pack(">i?", ALL_TOPICS, False)
    return struct.pack(">i", len(body)) + body


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise ConnectionError("the broker closed the connection within its answer")
        parts += part
    return bytes(parts)


class _Reader:
    """Reads the protocol's primitive types, one after the other."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._at = 0

    def number(self, kind: str) -> int:
        (value,) = struct.unpack_from(f">{kind}", self._answer, self._at)
        self._at += struct.calcsize(f">{kind}")
        return int(value)

    def text(self) -> str:
        size = max(self.number("h"), 0)  # -1 is null
        self._at += size
        return self._answer[self._at - size : self._at].decode()

    def length(self) -> range:
        return range(self.number("i"))

    def nodes(self) -> frozenset[int]:
        return frozenset(self.number("i") for _ in self.length())


def parse(answer: bytes) -> Metadata:
    """The answer's bytes, without their length.

    Raises:
        ConnectionError: they are not such an answer.
    """
    read = _Reader(answer)
    try:
        return _metadata(read)
    except (struct.error, UnicodeDecodeError) as exc:
        raise ConnectionError("the answer is not a Kafka broker's") from exc


def _metadata(read: _Reader) -> Metadata:
    read.number("i")  # correlation id
    read.number("i")  # throttle time
    nodes: dict[int, int] = {}
    for _ in read.length():
        node = read.number("i")
        read.text()  # host
        nodes[node] = read.number("i")
        read.text()  # rack
    read.text()  # cluster id
    read.number("i")  # controller
    return Metadata(nodes, tuple(p for _ in read.length() for p in _topic(read)))


def _topic(read: _Reader) -> list[Partition]:
    read.number("h")  # error
    name = read.text()
    read.number("b")  # is it internal
    return [_partition(read, name) for _ in read.length()]


def _partition(read: _Reader, topic: str) -> Partition:
    read.number("h")  # error
    index = read.number("i")
    leader = read.number("i")
    read.number("i")  # leader epoch
    replicas, in_sync = read.nodes(), read.nodes()
    read.nodes()  # offline
    return Partition(topic, index, leader, replicas, in_sync)
