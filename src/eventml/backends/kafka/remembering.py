"""The memory of a member whose group remembers what it finished: what it knows, and where it is kept.

There is a compacted topic, `<topic>.<group>.seen`, with a partition for each of the topic's. Whoever gets
a partition loads what is remembered of it when it is first asked for, and writes on from there.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

from aiokafka import TopicPartition
from msgspec.structs import replace

from eventml.backends.kafka.reading import records
from eventml.backends.kafka.seen import Seen
from eventml.records import Record

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from eventml.backends.base import Completion
    from eventml.backends.kafka.observer import Observer
    from eventml.backends.kafka.seen import Entry
    from eventml.records import Delivery

_STEP: Final = 1_048_576  # bytes of a fetch
_LARGEST: Final = 65_536  # characters of ids in a record


def seen_topic(topic: str, group: str) -> str:
    """Where a group's finished ids of a topic are kept."""
    return f"{topic}.{group}.seen"


class Remembering:
    """What a member remembers of the partitions that it has.

    Args:
        observer: Reads what was written.
        group: The group.
        window: How many ids to remember of a partition.
        max_request_size: The most bytes in a batch.
    """

    def __init__(self, observer: Observer, group: str, window: int, max_request_size: int) -> None:
        self._observer = observer
        self._group = group
        self._window = window
        self._largest = min(max_request_size // 4, _LARGEST)  # a character has four bytes at most
        self._seen: dict[tuple[str, int], Seen] = {}
        self._loading = asyncio.Lock()
        self._ours: frozenset[tuple[str, int]] = frozenset()
        self._version = 0

    def resume(self, partitions: Collection[TopicPartition], kept: Collection[TopicPartition]) -> None:
        """These are ours from now on. What others may have had meanwhile is to be loaded again."""
        self._version += 1
        self._ours = frozenset(partitions)
        self._seen = {place: seen for place, seen in self._seen.items() if place in kept}

    def drop(self, partition: TopicPartition) -> None:
        """Somebody else has been at a partition."""
        self._version += 1
        self._seen.pop(partition, None)

    def seen(self, place: tuple[str, int]) -> Seen | None:
        """What is remembered of a partition; None if that is not loaded, or not ours."""
        return self._seen.get(place)

    @property
    def all(self) -> dict[tuple[str, int], Seen]:
        """What is remembered, as far as it was asked for."""
        return dict(self._seen)

    async def load(self, deliveries: Iterable[Delivery]) -> None:
        """See to it that what is remembered where these come from is known.

        Raises:
            UnavailableError: no answer.
        """
        missing = {_place(delivery) for delivery in deliveries} - self._seen.keys()
        if missing:
            async with self._loading:
                for place in missing & self._ours - self._seen.keys():
                    version = self._version
                    seen = await self._read(place)
                    if version == self._version:
                        self._seen[place] = seen

    async def completed_before(self, deliveries: Sequence[Delivery]) -> list[int]:
        """As `DedupeSubscription.finished`."""
        await self.load(deliveries)
        return [position for position, delivery in enumerate(deliveries) if self._knows(delivery)]

    async def without_repeats(self, done: Sequence[Completion]) -> list[Completion]:
        """Completions without the outputs of those whose ids were finished before."""
        await self.load(completion.delivery for completion in done)
        return [
            replace(c, outputs=()) if c.dedupe == "drop" and c.outputs and self._knows(c.delivery) else c
            for c in done
        ]

    def finish(self, done: Iterable[Completion]) -> None:
        """Remember those that are to be."""
        for completion in done:
            seen = self.seen(_place(completion.delivery))
            if seen is not None and completion.dedupe != "off":
                seen.finish(completion.delivery.record.id)

    def written(self, place: tuple[str, int], entry: Entry) -> list[Record]:
        """The records that say it; they go to the partition of the same number."""
        topic = seen_topic(place[0], self._group)
        # A record without a value is what crosses out another. Nobody but the packer sees it.
        return [Record(topic, cast("bytes", held), slot) for slot, held in entry.slots.items()]

    def _knows(self, delivery: Delivery) -> bool:
        seen = self.seen(_place(delivery))
        return seen is not None and delivery.record.id in seen

    async def _read(self, place: tuple[str, int]) -> Seen:
        seen, partition = (
            Seen(self._window, self._largest),
            TopicPartition(seen_topic(place[0], self._group), place[1]),
        )
        at = (await self._observer.offsets([partition], "earliest"))[partition]
        end = (await self._observer.offsets([partition], "latest"))[partition]
        while at < end:
            fetched = (await self._observer.fetch({partition: at}, _STEP))[partition]
            if fetched is None:  # the broker has dropped what was there
                at = (await self._observer.offsets([partition], "earliest"))[partition]
                continue
            found, upto = records(partition, fetched, at, _slot)
            for slot, held in found:
                seen.load(slot, held)
            if upto == at:
                break
            at = upto
        return seen


def _slot(record: Any) -> tuple[bytes, bytes | None]:
    return record.key or b"", record.value


def _place(delivery: Delivery) -> tuple[str, int]:
    return delivery.record.topic, delivery.partition
