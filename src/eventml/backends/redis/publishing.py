"""Publishing: a call is one write, or few, and returns when the server has answered."""

from __future__ import annotations

import asyncio
from random import random
from typing import TYPE_CHECKING, Final

from eventml.backends.redis.adding import Producers, expected, outcomes, pack_write, writes
from eventml.backends.redis.link import Link
from eventml.backends.redis.replies import LostError
from eventml.backends.redis.write import Write
from eventml.errors import FullError, PublishError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.backends.redis.connecting import Connector
    from eventml.backends.redis.features import Features
    from eventml.backends.redis.retention import Retention
    from eventml.backends.redis.settings import Settings
    from eventml.backends.redis.wire import HeaderEncoder
    from eventml.records import Record

_FIRST_WAIT: Final = 0.05  # seconds between two attempts
_LONGEST_WAIT: Final = 1.0


class Publisher:
    """Writes records, on connections of its own.

    Args:
        connector: Makes the connections.
        settings: Time limits.
        headers: Encodes headers.
        retention: Told of what is written.
        features: What the server can do.
    """

    def __init__(
        self,
        connector: Connector,
        settings: Settings,
        *,
        headers: HeaderEncoder,
        retention: Retention,
        features: Features,
    ) -> None:
        self._connector = connector
        self._settings = settings
        self._headers = headers
        self._retention = retention
        self._producers = Producers() if features.idempotent else None
        self._largest = features.largest
        self._links: dict[int, Link] = {}

    def link(self, slot: int) -> Link:
        """The connection to the server that has a slot."""
        if slot not in self._links:
            self._links[slot] = Link(self._connector, slot, self._settings.timeout)
        return self._links[slot]

    async def publish(self, records: Sequence[Record]) -> None:
        """Write records; see `Backend.publish`."""
        give_up = asyncio.get_running_loop().time() + self._settings.publish_timeout
        refused: dict[int, str] = {}
        unwritten: dict[int, str] = {}
        for slot, positions in self._by_slot(records).items():
            mine = [records[position] for position in positions]
            for part in writes(mine):
                write = Write([mine[number] for number in part])
                await self._write(self.link(slot), write, give_up)
                here = positions[part.start : part.stop]
                refused |= {here[number]: why for number, why in write.refused.items()}
                if write.left:  # there is no room, nor for what comes after these
                    after = positions[part.stop :]
                    unwritten |= dict.fromkeys([*(here[number] for number in write.left), *after], write.full)
                    break
        if unwritten:
            why = next(iter(unwritten.values()))
            if len(unwritten) + len(refused) == len(records):
                raise FullError(why)
            raise UnavailableError(f"{len(unwritten)} of {len(records)} records were not written: {why}")
        if refused:
            position, why = min(refused.items())
            raise PublishError(
                f"{len(refused)} of {len(records)} records were refused, the first for "
                f"{records[position].topic!r}: {why}",
                refused,
            )

    async def close(self) -> None:
        for link in self._links.values():
            await link.close()

    def _by_slot(self, records: Sequence[Record]) -> dict[int, Sequence[int]]:
        slots = {topic: self._connector.slot(topic) for topic in {record.topic for record in records}}
        if len(set(slots.values())) <= 1:
            return dict.fromkeys(slots.values(), range(len(records)))
        found: dict[int, list[int]] = {slot: [] for slot in slots.values()}
        for position, record in enumerate(records):
            found[slots[record.topic]].append(position)
        return dict(found)

    async def _write(self, link: Link, write: Write, give_up: float) -> None:
        """Write until every record is added or refused for good, or memory stays full until the end.

        Raises:
            UnavailableError: the server was out of reach until the end, or nobody can say what became
                of the records.
        """
        names = self._producers.take(len(write.records)) if self._producers else []
        if self._producers:
            write.marks = self._producers.marks(names, len(write.records))
        failures = 0
        while write.left:
            error = await self._attempt(link, write)
            if error is None:
                continue
            failures += 1
            if asyncio.get_running_loop().time() >= give_up:
                if write.full:
                    return
                raise error
            longest = min(_FIRST_WAIT * 2.0 ** min(failures, 10), _LONGEST_WAIT)
            await asyncio.sleep(longest * random())  # noqa: S311 - jitter is no secret
        if self._producers:
            self._producers.give_back(names)
        await self._cap(link, write)

    async def _attempt(self, link: Link, write: Write) -> UnavailableError | None:
        """Write once what is left. Returns why to try again later, if that is so."""
        try:
            packed = pack_write(write.records_left(), self._headers, write.marks_left())
        except UnicodeEncodeError:
            write.refuse_unencodable()
            return None
        if len(packed) > self._largest and write.refuse_larger(self._largest):
            return None
        count = len(write.left)
        try:
            replies = await link.ask(packed, expected(count))
        except LostError as exc:
            if exc.undone or write.marks:
                return exc
            raise
        except UnavailableError as exc:
            return exc  # not connected: nothing was sent
        return write.settle(outcomes(replies, count))

    async def _cap(self, link: Link, write: Write) -> None:
        topics = [record.topic for record in write.records]
        for topic in set(topics):
            if self._retention.wrote(topic, topics.count(topic)):
                await self._retention.cap(link, topic)
