"""Publishing: a call of `publish` is one write, or a few, and returns when the server has replied."""

from __future__ import annotations

import asyncio
import secrets
from itertools import count
from random import random
from typing import TYPE_CHECKING, Any, Final

from eventml.backends.redis.connection import Client, pack
from eventml.backends.redis.errors import (
    ConnectionLostError,
    DeniedError,
    ErrorReply,
    error_for,
    is_out_of_memory,
)
from eventml.backends.redis.retention import LengthCap
from eventml.backends.redis.servers import Server
from eventml.backends.redis.wire import RecordEncoder, defect
from eventml.errors import FullError, PublishError, UnavailableError
from eventml.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from eventml.backends.redis.wire import ProducerId

_WRITE_RECORDS: Final = 1_000
_WRITE_BYTES: Final = 4_000_000
"""Limits of one write: a larger one is no more efficient, and delays the server's other clients."""

RECOGNISED: Final = 100
"""How many ids of one producer Redis keeps to recognise duplicates (IDMP-MAXSIZE's default)."""

_FIRST_DELAY: Final = 0.05  # seconds between two attempts
_LONGEST_DELAY: Final = 1.0

_MULTI: Final = pack("MULTI")
_EXEC: Final = pack("EXEC")


def split_writes(records: Sequence[Record]) -> Iterator[range]:
    """The positions of the records that are written together, in their order."""
    start = size = 0
    for position, record in enumerate(records):
        if position > start and (
            position - start >= _WRITE_RECORDS or size + len(record.value) > _WRITE_BYTES
        ):
            yield range(start, position)
            start, size = position, 0
        size += len(record.value)
    if records:
        yield range(start, len(records))


def pack_write(commands: Sequence[bytes]) -> bytes:
    """Join packed commands, in a transaction if there are several.

    A transaction is refused as a whole where one of its commands would be: a server that runs out
    of memory never accepts the later of two records and refuses the earlier.
    """
    return b"".join((_MULTI, *commands, _EXEC)) if len(commands) > 1 else commands[0]


def expected_replies(records: int) -> int:
    """The number of replies to a write of so many records."""
    return records + 2 if records > 1 else records


def errors_of(replies: Sequence[Any], records: int) -> list[ErrorReply | None]:
    """The error reply for each record of a write; None for those that were added."""
    if records == 1:
        return _errors(replies)
    begun, added = replies[0], replies[-1]
    if type(begun) is ErrorReply:  # MULTI was refused, so each record was added by itself
        return _errors(replies[1:-1])
    if type(added) is list:
        return _errors(added)
    # Aborted. A record that was refused has its own error; the others would have been accepted.
    return [reply if type(reply) is ErrorReply else added for reply in replies[1:-1]]


def _errors(replies: Iterable[Any]) -> list[ErrorReply | None]:
    return [reply if type(reply) is ErrorReply else None for reply in replies]


class Producers:
    """Producer names to write under, so that the server recognises a record written before (Redis 8.6, IDMP).

    Redis keeps the last 100 ids of each producer, so at most 100 records are under way under one name: a
    write takes as many names as it needs, and returns them when the server has replied.
    """

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._names = count()
        self._free: list[bytes] = []
        self._numbers = count()

    def take(self, records: int) -> list[bytes]:
        """Names for a write of so many records."""
        return [
            self._free.pop() if self._free else f"{self._prefix}-{next(self._names)}".encode()
            for _ in range(-(-records // RECOGNISED))
        ]

    def give_back(self, names: Sequence[bytes]) -> None:
        """Return names when all replies have come. Else they are not used again: a record may yet arrive."""
        self._free += names

    def ids(self, names: Sequence[bytes], records: int) -> list[ProducerId]:
        """The arguments of XADD that identify each record of a write."""
        return [
            (b"IDMP", names[position // RECOGNISED], b"%d" % next(self._numbers))
            for position in range(records)
        ]


class _Write:
    """Records that are written together, and which of them are still to be written.

    Attributes:
        records: All records of the write.
        left: The positions of those that are neither added nor refused for good.
        refused: The reasons for those that are refused for good, by position.
        ids: The producer's id of each record, where the server recognises duplicates.
        full: The last error, if the server had no memory left.
    """

    def __init__(self, records: Sequence[Record], ids: Sequence[ProducerId]) -> None:
        self.records = records
        self.left: Sequence[int] = range(len(records))
        self.refused: dict[int, str] = {}
        self.ids = ids
        self.full = ""

    def commands(self, encoder: RecordEncoder) -> list[bytes]:
        """The packed commands for the records that are left."""
        if len(self.left) == len(self.records):
            return encoder.add_commands(self.records, self.ids)
        ids = [self.ids[position] for position in self.left] if self.ids else ()
        return encoder.add_commands([self.records[position] for position in self.left], ids)

    def settle(self, errors: Sequence[ErrorReply | None]) -> UnavailableError | None:
        """Apply the outcome of an attempt. Returns the reason to try again later, if there is one."""
        self.full = ""
        if ErrorReply not in set(map(type, errors)):
            self.left = ()
            return None
        unwritten: dict[int, ErrorReply] = {}
        later: UnavailableError | None = None
        refused = False
        for position, reply in zip(self.left, errors, strict=True):
            if reply is None:
                continue
            error = error_for(reply, f"publishing to {self.records[position].topic!r}")
            if isinstance(error, UnavailableError):
                later = later or error
                self.full = self.full or (str(error) if is_out_of_memory(reply) else "")
                unwritten[position] = reply
            elif reply.code == "EXECABORT":
                unwritten[position] = reply
            else:
                self.refused[position] = str(error)
                refused = True
        self.left = list(unwritten)
        if refused or not unwritten:  # the others may be accepted at once, without those that were refused
            return None
        return later or UnavailableError(str(next(iter(unwritten.values()))))

    def refuse(self, reasons: dict[int, str]) -> None:
        """Refuse records for good."""
        self.refused |= reasons
        self.left = [position for position in self.left if position not in reasons]

    def defects(self, largest: int) -> dict[int, str]:
        """Why the server cannot accept some of the records that are left, by position."""
        found = {position: defect(self.records[position], largest) for position in self.left}
        return {position: reason for position, reason in found.items() if reason is not None}


class Publisher:
    """Writes records, on connections of its own.

    Args:
        server: The server to write to.

    Attributes:
        encoder: Encodes records; the completer shares its cache.
        cap: Applies `max_length`; the completer reports to it too.
    """

    def __init__(self, server: Server) -> None:
        self.encoder = RecordEncoder()
        self.cap = LengthCap(server.settings.max_length, server.counters)
        self._server = server
        self._producers = Producers() if server.features.idempotent else None
        self._clients: dict[int, Client] = {}

    def client(self, topic: str) -> Client:
        """The client that writes to a topic."""
        slot = self._server.slot(topic)
        if slot not in self._clients:
            self._clients[slot] = self._server.client(slot)
        return self._clients[slot]

    async def publish(self, records: Sequence[Record]) -> None:
        """Write records; see `Backend.publish`."""
        give_up = asyncio.get_running_loop().time() + self._server.settings.publish_timeout
        refused: dict[int, str] = {}
        unwritten: dict[int, str] = {}
        for positions in self._by_slot(records):
            slot_records = [records[position] for position in positions]
            for part in split_writes(slot_records):
                write = await self._write(slot_records[part.start : part.stop], give_up)
                here = positions[part.start : part.stop]
                refused |= {here[number]: reason for number, reason in write.refused.items()}
                if write.left:  # the server has no memory for these, nor for those behind them
                    after = positions[part.stop :]
                    unwritten |= dict.fromkeys([*(here[number] for number in write.left), *after], write.full)
                    break
        if unwritten:
            reason = next(iter(unwritten.values()))
            if len(unwritten) + len(refused) == len(records):
                raise FullError(reason)
            raise UnavailableError(f"{len(unwritten)} of {len(records)} records were not written: {reason}")
        if refused:
            position, reason = min(refused.items())
            raise PublishError(
                f"{len(refused)} of {len(records)} records were refused, the first for "
                f"{records[position].topic!r}: {reason}",
                refused,
            )

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.close()

    def _by_slot(self, records: Sequence[Record]) -> Iterable[Sequence[int]]:
        slots = {topic: self._server.slot(topic) for topic in {record.topic for record in records}}
        if len(set(slots.values())) <= 1:
            return [range(len(records))]
        found: dict[int, list[int]] = {slot: [] for slot in slots.values()}
        for position, record in enumerate(records):
            found[slots[record.topic]].append(position)
        return found.values()

    async def _write(self, records: Sequence[Record], give_up: float) -> _Write:
        """Write records of one slot until each is added or refused for good, or until memory stays full.

        Raises:
            UnavailableError: the server was out of reach until the end, or it is unknown whether the
                records were added.
        """
        client = self.client(records[0].topic)
        names = self._producers.take(len(records)) if self._producers else []
        write = _Write(records, self._producers.ids(names, len(records)) if self._producers else ())
        failures = 0
        while write.left:
            error = await self._attempt(client, write)
            if error is None:
                continue
            failures += 1
            if asyncio.get_running_loop().time() >= give_up:
                if write.full:
                    return write
                raise error
            longest = min(_FIRST_DELAY * 2.0 ** min(failures, 10), _LONGEST_DELAY)
            await asyncio.sleep(longest * random())  # noqa: S311 - jitter is no secret
        if self._producers:
            self._producers.give_back(names)
        await self.cap.added(client, (record.topic for record in records))
        return write

    async def _attempt(self, client: Client, write: _Write) -> UnavailableError | None:
        """Write once what is left. Returns the reason to try again later, if there is one."""
        largest = self._server.features.largest
        try:
            packed = pack_write(write.commands(self.encoder))
        except UnicodeEncodeError:
            write.refuse(write.defects(largest))
            return None
        if len(packed) > largest and (defects := write.defects(largest)):
            write.refuse(defects)
            return None
        records = len(write.left)
        try:
            replies = await client.request(packed, expected_replies(records))
        except ConnectionLostError as exc:
            if exc.unsent or write.ids:
                return exc
            raise
        except UnavailableError as exc:
            return exc  # not connected: nothing was sent
        except DeniedError as exc:
            write.refuse(dict.fromkeys(write.left, str(exc)))
            return None
        return write.settle(errors_of(replies, records))
