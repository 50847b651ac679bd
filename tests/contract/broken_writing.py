"""Backends that break a promise about topics, or about publishing."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import checkpoint
from msgspec.structs import replace

from eventml.errors import PublishError
from tests.contract.breaking import breaks
from tests.contract.sound import EVERYTHING, Connection, Member

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.backends.base import NewTopic
    from eventml.records import Delivery, Record


# Topics


@breaks("declared_capabilities_hold")
class KeepsLessThanItTold(Connection):
    capabilities = replace(EVERYTHING, atomic_completion=False)


@breaks("topics_are_created_once")
class CreatesTopicsAnew(Connection):
    async def create_topics(self, topics: Sequence[NewTopic]) -> Sequence[str]:
        for topic in topics:
            self.broker.hub._topics.pop(topic.name, None)
            for group in [key for key in self.broker.hub._groups if key[0] == topic.name]:
                del self.broker.hub._groups[group]
        return await super().create_topics(topics)


# Publishing


@breaks("a_record_arrives_as_it_was_published")
class DropsHeaders(Connection):
    async def publish(self, records: Sequence[Record]) -> None:
        await super().publish([replace(record, headers={}) for record in records])


@breaks("a_foreign_record_is_given_an_id")
class NamesForeignRecordsAnew(Connection):
    async def publish(self, records: Sequence[Record]) -> None:
        await super().publish([replace(r, id=r.id or secrets.token_hex(4)) for r in records])


@breaks("a_record_arrives_as_it_was_published")
class CutsLargeRecords(Connection):
    async def publish(self, records: Sequence[Record]) -> None:
        await super().publish([replace(record, value=record.value[:65_536]) for record in records])


@breaks("a_receive_waits")
class WaitsForNothing(Connection):
    async def publish(self, records: Sequence[Record]) -> None:
        if not records:
            await anyio.sleep_forever()
        await super().publish(records)


@breaks("one_call_writes_many_records")
class WritesOneChunk(Connection):
    async def publish(self, records: Sequence[Record]) -> None:
        await super().publish(records[:4096])


@breaks("one_call_writes_many_records")
class WritesToOneTopic(Connection):
    async def publish(self, records: Sequence[Record]) -> None:
        await super().publish([replace(record, topic=records[0].topic) for record in records])


@breaks("many_tasks_publish_at_once")
class SharesABuffer(Connection):
    buffer: Sequence[Record] = ()

    async def publish(self, records: Sequence[Record]) -> None:
        self.buffer = records
        await checkpoint()
        records, self.buffer = self.buffer, ()
        await super().publish(records)


@breaks("the_records_of_a_key_keep_their_order", "a_reader_sees_everything")
class WritesBackwards(Connection):
    async def publish(self, records: Sequence[Record]) -> None:
        await super().publish(records[::-1])


@breaks("a_record_arrives_as_it_was_published")
class CountsMilliseconds(Member):
    async def receive(self, limit: int) -> Sequence[Delivery]:
        return [replace(d, timestamp=d.timestamp * 1_000) for d in await super().receive(limit)]


@breaks("a_refused_record_is_named")
class DoesNotSayWhatItRefused(Connection):
    async def publish(self, records: Sequence[Record]) -> None:
        try:
            await super().publish(records)
        except PublishError as exc:
            raise PublishError(str(exc)) from exc
