"""Sending packed batches through a producer, and what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping  # noqa: TC003 - of a constant
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from aiokafka import errors as kafka

from eventml.backends.kafka import topics as topic_limits
from eventml.backends.kafka.batches import Packer, Partitions, spread
from eventml.backends.kafka.faults import describe, ours
from eventml.backends.kafka.partitioning import Partitioner
from eventml.backends.kafka.wire import HeaderEncoder
from eventml.errors import EventMLError, PublishError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from aiokafka import AIOKafkaProducer

    from eventml.backends.kafka.batches import Batch, Place
    from eventml.backends.kafka.observer import Observer
    from eventml.records import Record

_TOO_LARGE: Final = (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError)
_NOT_WRITTEN: Final = (
    # The broker misses what this producer sent before, a batch that it refused, or has forgotten the
    # producer. It took nothing: a fresh producer may send the same.
    kafka.OutOfOrderSequenceNumber,
    kafka.UnknownProducerId,
    kafka.InvalidProducerEpoch,
    kafka.ProducerFenced,
    kafka.ProducerClosed,
)
_SMALLEST = 1_024
NONE_PINNED: Final[Mapping[int, int]] = MappingProxyType({})


class Sender:
    """Packs records and sends them; what producers have in common, whichever of them it is.

    Args:
        observer: Knows which topics there are, and what they take.
        max_request_size: The most bytes in a batch.
    """

    def __init__(self, observer: Observer, max_request_size: int) -> None:
        self._observer = observer
        self._capacity = max_request_size
        self._headers = HeaderEncoder()
        self._partitioner = Partitioner()
        self._limits: dict[str, int] = {}

    async def partitions(self, producer: AIOKafkaProducer, topics: Collection[str]) -> dict[str, Partitions]:
        """The partitions of those topics that there are."""
        cluster = producer.client.cluster
        unknown = [topic for topic in topics if cluster.partitions_for_topic(topic) is None]
        if unknown:
            # aiokafka would look for a missing topic until its deadline.
            for topic in await self._observer.partitions(unknown):
                await producer.partitions_for(topic)
        return {
            topic: Partitions(len(found), sorted(cluster.available_partitions_for_topic(topic)))
            for topic in topics
            if (found := cluster.partitions_for_topic(topic))
        }

    def pack(
        self,
        producer: AIOKafkaProducer,
        records: Sequence[Record],
        positions: Sequence[int],
        partitions: Mapping[str, Partitions],
        pinned: Mapping[int, int] = NONE_PINNED,
    ) -> Packer:
        """Pack the records at these positions. What is too large is in the packer's `too_large`.

        Those at the positions in `pinned` go to the partitions that it says, the others where they belong.
        """
        packer = Packer(
            producer.create_batch, capacity=self._capacity, limits=self._limits, headers=self._headers
        )
        free = [p for p in positions if p not in pinned] if pinned else positions
        places = spread(records, free, partitions, self._partitioner)
        for position in positions if pinned else ():
            if position in pinned:
                places.setdefault((records[position].topic, pinned[position]), []).append(position)
        packer.pack(records, places)
        return packer

    async def send(self, producer: AIOKafkaProducer, packer: Packer) -> list[int]:
        """Send all batches, a partition's one after the other.

        Returns the positions of the records that were not written and may be sent again, by a fresh
        producer: this one is of no use any more if there are any.

        Raises:
            UnavailableError: nobody knows what became of some.
            PublishError: a broker refused a batch for a reason that is no record's.
        """
        again: list[int] = []
        while packer.batches:
            first = {place: queue.popleft() for place, queue in packer.batches.items()}
            for place, error in (await _deliver(producer, first)).items():
                if error is None:
                    continue
                # What comes after it in its partition waits for it, or the order would be lost.
                again += first[place].positions
                again += [p for batch in packer.batches.pop(place, ()) for p in batch.positions]
                if isinstance(error, _TOO_LARGE):
                    await self._learn_limit(place[0], first[place].builder.size())
            packer.batches = {place: queue for place, queue in packer.batches.items() if queue}
        return sorted(again)

    async def _learn_limit(self, topic: str, refused: int) -> None:
        """A topic refused so many bytes. Where it does not tell what it takes, half is tried."""
        told = await topic_limits.limit(self._observer, topic)
        half = max(refused // 2, _SMALLEST)
        self._limits[topic] = told if told is not None and told < refused else half


async def _deliver(
    producer: AIOKafkaProducer, batches: Mapping[Place, Batch]
) -> dict[Place, BaseException | None]:
    """Send one batch for each partition and wait for the brokers' word on all.

    Gives None for a batch that was written, an error for one that was not.
    """
    futures: dict[Place, asyncio.Future[Any]] = {}
    outcomes: dict[Place, BaseException | None] = {}
    try:
        for place, batch in batches.items():
            try:
                futures[place] = await _enqueue(producer, place, batch)
            except _NOT_WRITTEN as exc:
                outcomes[place] = exc
        if futures:
            await asyncio.wait(futures.values())
    except BaseException:
        for future in futures.values():
            future.cancel()  # nobody will look at what becomes of them
        raise
    outcomes |= {place: future.exception() for place, future in futures.items()}
    for place, error in outcomes.items():
        if error is not None and not isinstance(error, (*_TOO_LARGE, *_NOT_WRITTEN)):
            raise _failure(error, place[0]) from error
    return outcomes


async def _enqueue(producer: AIOKafkaProducer, place: Place, batch: Batch) -> asyncio.Future[Any]:
    topic, partition = place
    while True:
        try:
            future: asyncio.Future[Any] = await producer.send_batch(batch.builder, topic, partition=partition)
        except kafka.KafkaTimeoutError:
            # The batch before it has not been sent yet. How long to wait is for our caller to say.
            continue
        return future


def _failure(error: BaseException, topic: str) -> EventMLError:
    """What to raise for a batch that failed, and not because of its records."""
    if isinstance(error, kafka.UnknownError):
        return PublishError(
            f"topic {topic} refused a batch for a reason that this client does not know. A record without "
            "a key on a compacted topic is one: give it a key"
        )
    if isinstance(error, kafka.BrokerResponseError) and not error.retriable:
        return PublishError(f"topic {topic} refused a batch: {describe(error)}")
    return ours(error, f"publishing to {topic}")
