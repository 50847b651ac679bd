"""Publishing: a call of `publish` is one write, or a few, and returns when the server has replied."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from random import random
from typing import Any, Final

from eventml.backends.redis.connection import pack
from eventml.backends.redis.errors import (
    ConnectionLostError,
    DeniedError,
    ErrorReply,
    NoMemoryError,
    error_for,
)
from eventml.backends.redis.server import Client, Script, Server
from eventml.backends.redis.wire import add_commands, defect
from eventml.errors import BackendError, FullError, PublishError, UnavailableError
from eventml.records import Record

log = logging.getLogger("eventml.redis")

_WRITE_RECORDS: Final = 1_000
_WRITE_BYTES: Final = 4_000_000
"""Limits of one write: a larger one is no more efficient, and delays the server's other clients."""

_FIRST_DELAY: Final = 0.05  # seconds between two attempts
_LONGEST_DELAY: Final = 1.0

_TRIM_TO_LENGTH: Final = Script("trim_to_length")
_CUT_AT_ONCE: Final = 1_000  # entries removed by one call at most; the script looks at each
_SLACK: Final = 100  # entries: as many as a node of a stream holds

_MULTI: Final = pack("MULTI")
_EXEC: Final = pack("EXEC")


def split_writes(records: Sequence[Record], positions: Sequence[int]) -> Iterator[Sequence[int]]:
    """Split the positions of some records, in their order, into those that are written together."""
    start = size = 0
    for number, position in enumerate(positions):
        length = len(records[position].value)
        if number > start and (number - start >= _WRITE_RECORDS or size + length > _WRITE_BYTES):
            yield positions[start:number]
            start, size = number, 0
        size += length
    if positions:
        yield positions[start:]


def pack_write(commands: Sequence[bytes]) -> tuple[bytes, int]:
    """Join packed commands, in a transaction if there are several. Returns also the number of replies.

    A transaction is refused as a whole where one of its commands would be: a server that runs out
    of memory never accepts the later of two records and refuses the earlier.
    """
    if len(commands) == 1:
        return commands[0], 1
    return b"".join((_MULTI, *commands, _EXEC)), len(commands) + 2


def errors_of(replies: Sequence[Any]) -> list[ErrorReply | None]:
    """The error reply for each record of a write; None for those that were added."""
    if len(replies) > 1:
        begun, *replies, added = replies
        if type(begun) is ErrorReply:
            pass  # MULTI was refused, so each record was added by itself
        elif type(added) is list:
            replies = added
        else:  # Aborted. A record that was refused has its own error; the others would have been accepted.
            return [reply if type(reply) is ErrorReply else added for reply in replies]
    return [reply if type(reply) is ErrorReply else None for reply in replies]


def settle(
    records: Sequence[Record], unwritten: dict[int, ErrorReply], refused: dict[int, str]
) -> tuple[Sequence[int], UnavailableError | None]:
    """Find which of the unwritten records are to be written again, and the reason to wait, if there is one.

    Those that are refused for good are added to `refused`, with the reason.
    """
    errors = {p: error_for(reply, f"publishing to {records[p].topic!r}") for p, reply in unwritten.items()}
    later = {p: error for p, error in errors.items() if isinstance(error, UnavailableError)}
    refused |= {p: str(error) for p, error in errors.items() if p not in later}
    if len(later) < len(errors):  # these may be accepted at once, without those that were refused
        return list(later), None
    return list(later), max(later.values(), key=lambda error: isinstance(error, NoMemoryError), default=None)


class Publisher:
    """Writes records, on connections of its own."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._uncut: Counter[str] = Counter()  # entries added to each topic since it was cut
        self._clients: dict[int, Client] = {}

    def client(self, topic: str) -> Client:
        """The client that writes to a topic."""
        slot = self.server.slot(topic)
        if slot not in self._clients:
            self._clients[slot] = Client(self.server, slot)
        return self._clients[slot]

    async def publish(self, records: Sequence[Record]) -> None:
        """Write records; see `Backend.publish`."""
        give_up = asyncio.get_running_loop().time() + self.server.settings.publish_timeout
        slots = {topic: self.server.slot(topic) for topic in {record.topic for record in records}}
        by_slot: dict[int, list[int]] = {}
        for position, record in enumerate(records):
            by_slot.setdefault(slots[record.topic], []).append(position)
        refused: dict[int, str] = {}
        written = 0
        for part in [part for slot in by_slot.values() for part in split_writes(records, slot)]:
            left, full = await self._write(records, part, refused, give_up)
            if full is not None:
                written += len(part) - len(left)
                if written == len(refused):
                    raise FullError(str(full)) from full
                unwritten = f"{len(records) - written} of {len(records)} records were not written"
                raise UnavailableError(f"{unwritten}: {full}") from full
            written += len(part)
        if refused:
            position, reason = min(refused.items())
            raise PublishError(
                f"{len(refused)} of {len(records)} records were refused, the first for "
                f"{records[position].topic!r}: {reason}",
                refused,
            )

    async def cut(self, client: Client, topics: Iterable[str]) -> None:
        """Cut topics to `max_length` when that is due, given the topic of each entry that was added.

        A failure is logged, and the next cut makes up for it.
        """
        max_length = self.server.settings.max_length
        if max_length is None:
            return
        added = Counter(topics)
        self._uncut.update(added)
        for topic in added:
            if self._uncut[topic] <= min(_SLACK, max_length):
                continue
            del self._uncut[topic]
            removed = _CUT_AT_ONCE
            try:
                while removed >= _CUT_AT_ONCE:
                    arguments = (max_length, _CUT_AT_ONCE)
                    removed, unread = await _TRIM_TO_LENGTH.run(
                        client, topic, *arguments, action=f"cutting {topic!r}"
                    )
                    if unread:
                        log.warning(
                            "backend.max_length removed %d entries of %r that a group had not read; the "
                            "group has lost them",
                            unread,
                            topic,
                        )
            except BackendError as exc:
                log.warning("backend.max_length: %s", exc)

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            client.close()

    async def _write(
        self, records: Sequence[Record], positions: Sequence[int], refused: dict[int, str], give_up: float
    ) -> tuple[Sequence[int], NoMemoryError | None]:
        """Write the records at some positions, all of one slot, until each is added or refused for good.

        It gives up at a time of the event loop's clock. Returns the positions of those that were not written
        since memory stayed full, and the last error.

        Raises:
            UnavailableError: the server was out of reach until the end, or it is unknown whether the
                records were added.
        """
        client = self.client(records[positions[0]].topic)
        left = positions
        failures = 0
        while left:
            left, error = await self._attempt(client, records, left, refused)
            if error is None:
                continue
            failures += 1
            if asyncio.get_running_loop().time() >= give_up:
                if isinstance(error, NoMemoryError):
                    return left, error
                raise error
            longest = min(_FIRST_DELAY * 2.0 ** min(failures, 10), _LONGEST_DELAY)
            await asyncio.sleep(longest * random())  # noqa: S311 - jitter is no secret
        await self.cut(client, (records[position].topic for position in positions))
        return (), None

    async def _attempt(
        self, client: Client, records: Sequence[Record], left: Sequence[int], refused: dict[int, str]
    ) -> tuple[Sequence[int], UnavailableError | None]:
        """Write once. Returns what is still left, and the reason to try again later, if there is one."""
        largest = self.server.largest
        packed, expected = b"", 0
        with suppress(UnicodeEncodeError):
            packed, expected = pack_write(add_commands([records[position] for position in left]))
        if not packed or len(packed) > largest:
            defects = {position: defect(records[position], largest) for position in left}
            if any(defects.values()):
                refused |= {position: reason for position, reason in defects.items() if reason is not None}
                return [position for position in left if defects[position] is None], None
        try:
            replies = await client.request(packed, expected)
        except ConnectionLostError as exc:
            if exc.unsent:
                return left, exc
            raise
        except UnavailableError as exc:
            return left, exc  # not connected: nothing was sent
        except DeniedError as exc:
            refused |= dict.fromkeys(left, str(exc))
            return (), None
        errors = zip(left, errors_of(replies), strict=True)
        return settle(records, {position: reply for position, reply in errors if reply is not None}, refused)
