"""The leases of one member at one topic: taken by reading and claiming, renewed, and given back."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from eventml.backends.redis.holding import Holding

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eventml.backends.redis.group import Claimed, Consumer
    from eventml.backends.redis.losses import Losses
    from eventml.backends.redis.wire import Entry, EntryDecoder
    from eventml.records import Delivery

    Offset = int | str

log = logging.getLogger("eventml.redis")

_BEGINNING: Final = "0-0"


class Leases:
    """What a member holds at a topic, and what it may take over.

    Args:
        consumer: Asks the server.
        decoder: Makes deliveries of entries.
        losses: Counts what is lost.
        lease: How long a silent member keeps what it holds, in seconds.
    """

    def __init__(self, consumer: Consumer, decoder: EntryDecoder, losses: Losses, lease: float) -> None:
        self.consumer = consumer
        self.holding = Holding()
        self._decoder = decoder
        self._losses = losses
        self._lease = lease
        self._cursor: str | None = _BEGINNING

    @property
    def sweeping(self) -> bool:
        """Whether a sweep has not come to its end. A new member begins with one."""
        return self._cursor is not None

    def sweep_again(self) -> None:
        """Begin another sweep, if none is under way."""
        self._cursor = self._cursor or _BEGINNING

    def take_in(self, entries: Sequence[Entry], attempts: Sequence[int] = ()) -> list[Delivery]:
        """Deliveries of entries that the server has given us, whose leases begin now."""
        deliveries = self._decoder.deliveries(self.consumer.topic, entries, attempts)
        self.holding.take([delivery.offset for delivery in deliveries], time.monotonic())
        return deliveries

    async def renew(self) -> set[Offset]:
        """Renew the leases that are not fresh. Returns those entries that are not ours any more."""
        now = time.monotonic()
        entries = self.holding.older_than(now - self._lease / 6)
        gone = await self.consumer.renew(entries)
        self.holding.drop(gone)
        self.holding.take([entry for entry in entries if entry not in gone and entry in self.holding], now)
        return gone

    async def sweep(self, limit: int) -> list[Delivery]:
        """The next step of a sweep: take over entries whose holders have died or fallen silent."""
        cursor, entries, trimmed = await self.consumer.overdue(self._lease, self._cursor or _BEGINNING, limit)
        self._count(0, trimmed)
        deliveries = await self._adopt([entry for entry in entries if entry not in self.holding])
        self._cursor = None if cursor == _BEGINNING else cursor
        return deliveries

    async def recover(self, limit: int) -> tuple[list[Delivery], bool]:
        """What the server holds for us and we do not know of. Nothing may be on its way to us meanwhile.

        Returns:
            The deliveries, and whether that is all.
        """
        entries = await self.consumer.unseen(self.holding, limit)
        return await self._adopt(entries), len(entries) < limit

    async def give_back(self, untouched: Iterable[Delivery]) -> None:
        """Leave: all that is ours goes back to the group."""
        before = {str(d.offset): d.attempt - 1 for d in untouched if d.record.topic == self.consumer.topic}
        await self.consumer.release(before)
        await self.consumer.leave()

    async def _adopt(self, entries: Sequence[str]) -> list[Delivery]:
        claimed: Claimed = await self.consumer.adopt(entries)
        self._count(len(claimed.entries), claimed.trimmed)
        return self.take_in(claimed.entries, claimed.attempts)

    def _count(self, claimed: int, trimmed: int) -> None:
        self._losses.claimed += claimed
        self._losses.trimmed += trimmed
        if trimmed:
            log.warning(
                "%d entries of %r were cut from the topic before group %r had finished them; they are lost "
                "to it",
                trimmed,
                self.consumer.topic,
                self.consumer.group,
            )
