"""One consumer of a group at one topic: its leases, what it claims and gives back, and the group's lag."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import Any, Final, Literal

from eventml.backends.base import Start
from eventml.backends.redis.connection import fields_of, pack
from eventml.backends.redis.errors import ErrorReply, NoGroupError, check_replies
from eventml.backends.redis.server import Client, Script
from eventml.backends.redis.wire import Entry, decode_entries, id_before
from eventml.records import Delivery

Offset = int | str

log = logging.getLogger("eventml.redis")

CONSUMER_PREFIX: Final = "eventml:"
RELEASED: Final = f"{CONSUMER_PREFIX}released"
"""The consumer that entries are pending for while they wait to be claimed after a member gave them back."""

_COUNT_AFTER: Final = Script("count_after")
_COUNT_LOST: Final = Script("count_lost")
_RENEW: Final = Script("renew")
_CLAIM: Final = Script("claim")
_RELEASE: Final = Script("release")
_DELETE_IDLE: Final = Script("delete_idle_consumers")
_TRIM_FINISHED: Final = Script("trim_finished")

_MAX_COUNTED: Final = 10_000
"""Entries counted one by one where the server does not keep the count; if there are more, lag is unknown."""

_START: Final = "0-0"  # the cursor of XAUTOCLAIM, at the start and at the end
_RENEW_AT_ONCE: Final = 200  # leases renewed by one call, which must not block the server for long
_CLAIM_AT_ONCE: Final = 200  # entries that one call claims at most
_TRIM_AT_ONCE: Final = 10_000  # entries removed by one call at most; takes some 2 ms
_IDLE_LEASES: Final = 20  # lease periods after which an idle consumer with nothing pending is deleted


def dedupe_key(topic: str, group: str) -> str:
    """The key of the ids that a group has recorded: named like its dead letters, so in one slot with them."""
    return f"{topic}.{group}.seen"


async def group_lag(client: Client, topic: str, group: str) -> int | None:
    """How many entries a group has not finished; None if there is no such group, or it cannot be told.

    Raises:
        BackendError: the server cannot be reached, or refuses.
    """
    replies = await client.request(pack("XINFO", "GROUPS", topic) + pack("XLEN", topic), 2)
    if type(replies[0]) is ErrorReply and "no such key" in str(replies[0]):
        return None
    groups, length = check_replies(replies, f"reading the lag of group {group!r} at {topic!r}")
    info = next((found for found in map(fields_of, groups) if found["name"] == group.encode()), None)
    if info is None:
        return None
    unread = info.get("lag")
    if unread is None:  # Redis before 7.0, or entries have been deleted from the middle
        last = info["last-delivered-id"]
        unread = await _COUNT_AFTER.run(client, topic, last, _MAX_COUNTED, action=f"counting {topic!r}")
        if unread < 0:
            return None
    # Before Redis 7.2.6 unread entries that were trimmed still count. Then all that is left is unread.
    return int(info["pending"] + min(unread, length))


class Consumer:
    """One consumer of a group at one topic, and the leases of the deliveries that it has in flight.

    Every method that asks the server raises UnavailableError if it cannot be reached, NoGroupError if the
    group does not exist any more, and BackendError if the server refuses.

    Attributes:
        window: How many ids the group records at least; 0 if it does not deduplicate.
        lost: How many entries this consumer found to be removed before the group had completed them.
        lost_leases: Whether a delivery of this consumer was ever claimed by another, or went with its group.
        sweeping: Whether `sweep` has not reached the last entry. A new member begins with a sweep.
    """

    def __init__(
        self, client: Client, topic: str, group: str, name: str, *, lease: float, window: int
    ) -> None:
        self.client = client
        self.topic = topic
        self.group = group
        self.name = name
        self.window = window
        self.dedupe_key = dedupe_key(topic, group)
        self._lease = lease
        self._renewed: dict[Offset, float] = {}  # when each entry was last renewed, on a monotonic clock
        self._begun: dict[Offset, int] = {}  # the attempts that are counted of entries in a call
        self._cursor = _START
        self._read_until = ""  # the last entry that the group had read when losses were last counted
        self.sweeping = True
        self.lost = 0
        self.lost_leases = False

    def __str__(self) -> str:
        """The group and the topic, for messages."""
        return f"group {self.group!r} at {self.topic!r}"

    async def create_group(self, start: Start) -> bool:
        """Create the group, and the topic, if they do not exist. Returns whether the group was created.

        Any number of members may do so at once.
        """
        command = pack("XGROUP", "CREATE", self.topic, self.group, id_before(start), "MKSTREAM")
        [reply] = await self.client.request(command)
        if type(reply) is ErrorReply and "BUSYGROUP" in str(reply):
            return False
        check_replies([reply], f"creating {self}")
        return True

    async def recreate_group(self) -> None:
        """Create a group that does not exist any more, from the topic's beginning: nothing is missed."""
        leased = set(self._renewed)  # before the group is there again, and may deliver to this consumer
        if await self.create_group("earliest"):
            self._drop_lost(leased)
            log.warning(
                "%s did not exist any more (FLUSHALL, or a failover to a replica that lagged) and was "
                "created again from the topic's beginning",
                self,
            )

    async def completed_before(self, ids: Sequence[str]) -> list[bool]:
        """For each id, whether the group has recorded it."""
        [scores] = await self._request(pack("ZMSCORE", self.dedupe_key, *ids), "reading the recorded ids")
        return [score is not None for score in scores]

    def take(self, entries: Sequence[Entry], attempts: Sequence[int] = ()) -> list[Delivery]:
        """Lease entries that the server has delivered, and decode them."""
        deliveries = decode_entries(self.topic, entries, attempts)
        self._renewed.update(dict.fromkeys([delivery.offset for delivery in deliveries], time.monotonic()))
        return deliveries

    def has_lease(self, entry: Offset) -> bool:
        """Whether an entry is leased, as far as this consumer knows."""
        return entry in self._renewed

    def drop(self, entries: Iterable[Offset]) -> None:
        """Forget leases of entries that are completed, or that another member has claimed."""
        for entry in entries:
            self._renewed.pop(entry, None)

    def _drop_lost(self, entries: Collection[Offset]) -> None:
        self.drop(entries)
        self.lost_leases |= bool(entries)

    async def renew(self) -> None:
        """Renew the leases that are due, and forget those that another consumer has claimed meanwhile."""
        now = time.monotonic()
        due = [entry for entry, renewed in self._renewed.items() if renewed < now - self._lease / 6]
        lost: set[Offset] = set()
        for start in range(0, len(due), _RENEW_AT_ONCE):
            some = due[start : start + _RENEW_AT_ONCE]
            pairs = chain.from_iterable((entry, "") for entry in some)
            reply = await self._run(_RENEW, self.name, *pairs, action="renewing leases")
            lost |= {entry.decode() for entry in reply}
            self._renewed.update({entry: now for entry in some if entry in self._renewed})
        self._drop_lost(lost)

    async def begin(self, deliveries: Sequence[Delivery]) -> None:
        """As `CountsAttempts.begin`. Entries that are not pending for this consumer are forgotten."""
        attempts = {delivery.offset: delivery.attempt for delivery in deliveries}
        returned = (self._begun.keys() - attempts.keys()) & self._renewed.keys()
        ended = {entry: self._begun[entry] for entry in returned}
        self._begun = ended | attempts  # also if the outcome remains unknown
        counts = ended | {entry: attempt + 1 for entry, attempt in attempts.items()}
        lost: set[Offset] = set()
        if counts:
            pairs = chain.from_iterable(counts.items())
            try:
                reply = await self._run(_RENEW, self.name, *pairs, action="counting attempts")
                lost = {entry.decode() for entry in reply}
            except NoGroupError:  # then nothing is pending any more, first deliveries neither
                lost = {*self._renewed, *attempts}
        self._drop_lost(lost)
        self._begun = {entry: attempt for entry, attempt in attempts.items() if entry not in lost}

    async def sweep(self, limit: int, max_bytes: int) -> list[Delivery]:
        """Take the next step of a sweep: claim entries with expired leases, of so many bytes at most."""
        lease, count = int(self._lease * 1000), min(limit, _CLAIM_AT_ONCE)
        arguments = (self.name, RELEASED, lease, self._cursor, count, max_bytes)
        cursor, claimed, trimmed = await self._run(_CLAIM, *arguments, action="claiming")
        self._cursor = cursor.decode()
        self.sweeping = self._cursor != _START
        self._report_removed(trimmed)
        found = [(entry, fields, n) for entry, fields, n in claimed if entry.decode() not in self._renewed]
        if found:
            log.info("claimed %d deliveries of %s, which had been left unfinished", len(found), self)
        return self.take([(entry, fields) for entry, fields, _ in found], [n for _, _, n in found])

    async def anything_released(self) -> bool:
        """Whether a member has given back entries that have not been claimed yet."""
        command = pack("XPENDING", self.topic, self.group, "-", "+", 1, RELEASED)
        [reply] = await self._request(command, "looking for released entries")
        return bool(reply)

    async def release(self) -> None:
        """Give back entries that are pending for this consumer but not leased: the reply to a read was lost.

        Their delivery does not count as an attempt. No read and no claim may be under way meanwhile.
        """
        await self._give_back("reply lost")
        self._cursor, self.sweeping = _START, True

    async def leave(self, untouched: Iterable[Delivery]) -> None:
        """Give back all pending entries, and delete the consumer.

        No handler has received the untouched ones: for them, this delivery does not count as an attempt.
        """
        self.drop([delivery.offset for delivery in untouched if delivery.record.topic == self.topic])
        await self._give_back("leaves")

    async def take_over(self) -> None:
        """Give back what is pending for a consumer of this name, whose process has died."""
        await self._give_back("died")

    async def _give_back(self, happened: Literal["reply lost", "leaves", "died"]) -> None:
        arguments = (self.name, RELEASED, happened, *self._renewed)
        self._report_removed(await self._run(_RELEASE, *arguments, action="releasing"))

    async def delete_idle_consumers(self) -> None:
        """Delete the consumers of members that have died, once they have had nothing pending for long."""
        idle = int(_IDLE_LEASES * self._lease * 1000)
        await self._run(_DELETE_IDLE, CONSUMER_PREFIX, self.name, idle, action="deleting idle consumers")

    async def trim_finished(self, retention: float) -> None:
        """Remove entries that every group has finished and that are at least `retention` seconds old."""
        bound = f"{int((time.time() - retention) * 1000)}-0"
        removed = _TRIM_AT_ONCE
        while removed >= _TRIM_AT_ONCE // 2:
            action = f"trimming {self.topic!r}"
            removed = await _TRIM_FINISHED.run(self.client, self.topic, bound, _TRIM_AT_ONCE, action=action)

    async def count_lost(self) -> None:
        """Count the entries that were removed unread since any member of the group looked."""
        count, *between = await self._run(_COUNT_LOST, self._read_until, action="looking for removed entries")
        if between:
            self._read_until, first = (entry.decode() for entry in between)
            self._report_removed(count, f"unread, between {self._read_until} and {first}")

    def _report_removed(self, count: int, how: str = "while they were pending") -> None:
        if count:
            self.lost += count
            log.warning(
                "%d entries of %r were removed from the topic (%s) before group %r had completed them; the "
                "group has lost them. Raise the bound that removed them: a MAXLEN, backend.max_length",
                *(count, self.topic, how, self.group),
            )

    async def _request(self, commands: bytes, action: str, expected: int = 1) -> list[Any]:
        return check_replies(await self.client.request(commands, expected), f"{action} for {self}")

    async def _run(self, script: Script, *arguments: str | int, action: str) -> Any:
        return await script.run(
            self.client, self.topic, self.group, *arguments, action=f"{action} for {self}"
        )
