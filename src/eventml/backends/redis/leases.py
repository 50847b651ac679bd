"""Leases: the deliveries of one member at one topic; how they are renewed, claimed and given back."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final

from eventml.backends.redis.connection import pack
from eventml.backends.redis.errors import check_replies
from eventml.backends.redis.group import RELEASED, Consumer
from eventml.backends.redis.scripts import LEAVE, RELEASE, RENEW, Script
from eventml.backends.redis.servers import Counters
from eventml.backends.redis.wire import EntryDecoder
from eventml.records import Delivery

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eventml.backends.redis.wire import Entry

    Offset = int | str

log = logging.getLogger("eventml.redis")

_START: Final = "0-0"  # the cursor of XAUTOCLAIM, at the start and at the end
_CHUNK: Final = 200  # entries in one call of a script, or in one page of a reply


class Leases:
    """The leases of one consumer, and the claiming of entries whose leases have expired.

    Methods that ask the server raise what those of `Consumer` raise.

    Args:
        consumer: The consumer that entries are pending for.
        decoder: Decodes entries.
        counters: Where claimed and trimmed entries are counted.
        lease: How long an unresponsive member keeps its deliveries, in seconds.
    """

    def __init__(self, consumer: Consumer, decoder: EntryDecoder, counters: Counters, lease: float) -> None:
        self.consumer = consumer
        self._decoder = decoder
        self._counters = counters
        self._lease = lease
        self._renewed: dict[Offset, float] = {}  # when each entry was last renewed, on a monotonic clock
        self._cursor: str | None = _START

    def __len__(self) -> int:
        """The number of entries that are leased."""
        return len(self._renewed)

    def take(self, entries: Sequence[Entry], attempts: Sequence[int] = ()) -> list[Delivery]:
        """Lease entries that the server has delivered, and decode them."""
        deliveries = self._decoder.deliveries(self.consumer.topic, entries, attempts)
        self._renewed.update(dict.fromkeys([delivery.offset for delivery in deliveries], time.monotonic()))
        return deliveries

    def drop(self, entries: Iterable[Offset]) -> None:
        """Forget leases of entries that are completed, or that another member has claimed."""
        for entry in entries:
            self._renewed.pop(entry, None)

    async def renew(self) -> set[Offset]:
        """Renew the leases that are due. Returns the entries that another consumer has claimed meanwhile."""
        now = time.monotonic()
        due = [entry for entry, renewed in self._renewed.items() if renewed < now - self._lease / 6]
        replies = await self._run(RENEW, [self.consumer.name], due, "renewing leases")
        lost = {entry.decode() for reply in replies for entry in reply}
        self.drop(lost)
        self._renewed.update(
            dict.fromkeys([entry for entry in due if entry not in lost and entry in self._renewed], now)
        )
        return lost

    @property
    def sweeping(self) -> bool:
        """Whether a sweep has not reached its end. A new member begins with one."""
        return self._cursor is not None

    def start_sweep(self) -> None:
        """Begin another sweep, if none is under way."""
        self._cursor = self._cursor or _START

    async def sweep(self, limit: int) -> list[Delivery]:
        """Take the next step of a sweep: claim entries whose leases have expired."""
        consumer = self.consumer
        [reply] = await self._request(
            pack(
                "XAUTOCLAIM", consumer.topic, consumer.group, consumer.name, int(self._lease * 1000),
                self._cursor or _START, "COUNT", limit, "JUSTID",
            ),
            "claiming",
        )  # fmt: skip
        if len(reply) > 2:  # noqa: PLR2004 - from Redis 7.0 on, the entries that were trimmed stand third
            self._count(0, len(reply[2]))
        entries = [entry.decode() for entry in reply[1]]
        deliveries = await self._claim([entry for entry in entries if entry not in self._renewed])
        cursor = reply[0].decode()
        self._cursor = None if cursor == _START else cursor
        return deliveries

    async def anything_released(self) -> bool:
        """Whether a member has given back entries that have not been claimed yet."""
        command = pack("XPENDING", self.consumer.topic, self.consumer.group, "-", "+", 1, RELEASED)
        [reply] = await self._request(command, "looking for released entries")
        return bool(reply)

    async def recover(self, limit: int) -> tuple[list[Delivery], bool]:
        """Claim entries that are pending for this consumer but not leased: the reply to a read was lost.

        No read and no claim may be under way meanwhile.

        Returns:
            The deliveries, and whether these are all.
        """
        consumer = self.consumer
        found: list[str] = []
        first = "-"
        while len(found) < limit:
            command = pack("XPENDING", consumer.topic, consumer.group, first, "+", _CHUNK, consumer.name)
            [page] = await self._request(command, "looking for deliveries whose reply was lost")
            found += [entry for entry in (row[0].decode() for row in page) if entry not in self._renewed]
            if len(page) < _CHUNK:
                break
            first = f"({page[-1][0].decode()}"
        return await self._claim(found[:limit]), len(found) < limit

    async def give_back(self, untouched: Iterable[Delivery]) -> None:
        """Give all pending entries back to the group, and delete the consumer.

        Args:
            untouched: Deliveries that no handler has received: this delivery does not count as an attempt.
        """
        consumer = self.consumer
        attempts = [(d.offset, d.attempt - 1) for d in untouched if d.record.topic == consumer.topic]
        await self._run(RELEASE, [consumer.name, RELEASED], attempts, "leaving")
        call = LEAVE.call([consumer.topic], (consumer.group, consumer.name, RELEASED, 0))
        check_replies(await LEAVE.run(consumer.client, [call]), f"leaving {consumer}")

    async def _claim(self, entries: Sequence[str]) -> list[Delivery]:
        """Claim entries with their fields, as another delivery, and lease them."""
        if not entries:
            return []
        consumer = self.consumer
        commands = [pack("XCLAIM", consumer.topic, consumer.group, consumer.name, 0, *entries)]
        commands += [pack("XPENDING", consumer.topic, consumer.group, entry, entry, 1) for entry in entries]
        claimed, *counts = await self._request(b"".join(commands), "claiming", len(commands))
        attempts = {row[0]: row[3] for [row] in filter(None, counts)}
        whole = [entry for entry in claimed if entry is not None and entry[1] is not None]
        if missing := {entry.encode() for entry in entries} - {entry[0] for entry in whole}:
            # Either completed meanwhile by their former member, or trimmed while they were pending.
            commands = [pack("XRANGE", consumer.topic, entry, entry) for entry in missing]
            commands.append(pack("XACK", consumer.topic, consumer.group, *missing))
            *found, _ = await self._request(b"".join(commands), "claiming", len(commands))
            self._count(0, sum(not entry for entry in found))
        self._count(len(whole), 0)
        return self.take(whole, [attempts.get(entry[0], 1) for entry in whole])

    def _count(self, claimed: int, trimmed: int) -> None:
        self._counters.claimed += claimed
        self._counters.trimmed += trimmed
        if trimmed:
            log.warning(
                "%d entries of %r were removed from the topic before group %r had completed them; the group "
                "has lost them",
                trimmed,
                self.consumer.topic,
                self.consumer.group,
            )

    async def _request(self, commands: bytes, action: str, expected: int = 1) -> list[Any]:
        replies = await self.consumer.client.request(commands, expected)
        return check_replies(replies, f"{action} for {self.consumer}")

    async def _run(self, script: Script, head: Sequence[str], items: Sequence[Any], action: str) -> list[Any]:
        """Run a script on entries, or on pairs of an entry and a number, in chunks that do not block long."""
        calls = []
        for start in range(0, len(items), _CHUNK):
            some = items[start : start + _CHUNK]
            flat = [value for item in some for value in item] if isinstance(some[0], tuple) else some
            calls.append(script.call([self.consumer.topic], (self.consumer.group, *head, *flat)))
        if not calls:
            return []
        return check_replies(await script.run(self.consumer.client, calls), f"{action} for {self.consumer}")
