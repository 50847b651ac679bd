"""Publish records: an idempotent producer with acks=all, and a fresh one after any unknown outcome.

`Sender` sends through any producer; `Publisher` owns the one outside of transactions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka

from eventml.backends.kafka.admin import AdminClient
from eventml.backends.kafka.connection import ClientFactory, abort, batches_of, stop
from eventml.backends.kafka.errors import (
    AUTHORIZATION_ERRORS,
    CLIENT_ERRORS,
    describe,
    topic_not_found,
    translate,
)
from eventml.backends.kafka.packing import Batch, PackedRecords, Packer, TopicPartitions
from eventml.backends.kafka.wire import Partition
from eventml.errors import EventMLError, PublishError, UnavailableError
from eventml.records import Record

log = logging.getLogger("eventml")

_TOO_LARGE: Final = (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError)
_NOT_WRITTEN: Final = (
    # The broker has not got the batch before this one, which it refused, or does not know the producer any
    # more. It has written nothing: a fresh producer may send the same.
    kafka.OutOfOrderSequenceNumber,
    kafka.UnknownProducerId,
    kafka.InvalidProducerEpoch,
    kafka.ProducerFenced,
    kafka.ProducerClosed,
)
_SMALLEST_LIMIT: Final = 1_024  # bytes
_BACKOFF: Final = 0.2  # seconds


class Sender:
    """Packs records into batches of at most `max_request_size` bytes, and sends them through any producer."""

    def __init__(self, admin: AdminClient, max_request_size: int) -> None:
        self._admin = admin
        self._packer = Packer(max_request_size)

    async def pack(
        self,
        producer: AIOKafkaProducer,
        records: Sequence[Record],
        positions: Sequence[int],
        *,
        all_topics: bool,
    ) -> PackedRecords:
        """Pack the records at these positions, for `send`. Refused are those of missing topics, too.

        Raises:
            TopicNotFoundError: all topics of `records` are missing, or (`all_topics`) one of them.
            UnavailableError: no answer.
            BackendError: the user may not see a topic.
        """
        names = {records[position].topic for position in positions}
        topics = await self._topics(producer, names)
        missing: dict[int, str] = {}
        if len(topics) < len(names):
            error = topic_not_found(names - set(topics))
            missing = {p: str(error) for p in positions if records[p].topic not in topics}
            if all_topics or len(missing) == len(records):
                raise error
            positions = [position for position in positions if position not in missing]
        packed = self._packer.pack(batches_of(producer), records, positions, topics)
        packed.refused.update(missing)
        return packed

    async def send(self, producer: AIOKafkaProducer, packed: PackedRecords) -> list[int]:
        """Send all batches, those of a partition one after the other.

        Returns the positions of the records that were not written and may be sent again. If there are any,
        this producer cannot be used any more.

        Raises:
            UnavailableError: the outcome of some is unknown.
            BackendError: the user may not write to a topic.
            PublishError: a broker refused a batch for a reason that is not its size.
        """
        unsent: list[int] = []
        batches = packed.batches
        while batches:
            first = {partition: queue.popleft() for partition, queue in batches.items()}
            for partition, error in (await _send_each(producer, first)).items():
                if error is None:
                    continue
                # The partition's later batches wait for this one, or records would change their order.
                unsent += first[partition].positions
                unsent += [p for batch in batches.pop(partition, ()) for p in batch.positions]
                if isinstance(error, _TOO_LARGE):
                    await self._learn_limit(partition[0], first[partition].builder.size())
            batches = {partition: queue for partition, queue in batches.items() if queue}
        return sorted(unsent)

    async def _topics(self, producer: AIOKafkaProducer, names: Collection[str]) -> dict[str, TopicPartitions]:
        """The partitions of those topics that exist."""
        cluster = producer.client.cluster
        unknown = [topic for topic in names if cluster.partitions_for_topic(topic) is None]
        if unknown:
            # aiokafka would look for a missing topic until its deadline.
            for topic in await self._admin.partition_counts(unknown):
                try:
                    await producer.partitions_for(topic)
                except CLIENT_ERRORS as exc:
                    raise translate(exc, f"asking for topic {topic}") from exc
        return {
            topic: TopicPartitions(len(found), sorted(cluster.available_partitions_for_topic(topic)))
            for topic in names
            if (found := cluster.partitions_for_topic(topic))
        }

    async def _learn_limit(self, topic: str, refused: int) -> None:
        """A topic refused so many bytes. Where its limit cannot be read, try half of that."""
        limit = await self._admin.max_message_bytes(topic)
        half = max(refused // 2, _SMALLEST_LIMIT)
        self._packer.limits[topic] = limit if limit is not None and limit < refused else half


async def _send_each(
    producer: AIOKafkaProducer, batches: Mapping[Partition, Batch]
) -> dict[Partition, BaseException | None]:
    """Send one batch to each partition. Returns None for a batch that was written, else the error."""
    futures: dict[Partition, asyncio.Future[Any]] = {}
    outcomes: dict[Partition, BaseException | None] = {}
    try:
        for partition, batch in batches.items():
            try:
                futures[partition] = await _enqueue(producer, partition, batch)
            except _NOT_WRITTEN as exc:
                outcomes[partition] = exc
        if futures:
            await asyncio.wait(futures.values())
    except BaseException:
        for future in futures.values():
            future.cancel()  # or asyncio logs that their exceptions were never retrieved
        raise
    outcomes |= {partition: future.exception() for partition, future in futures.items()}
    for partition, error in outcomes.items():
        if error is not None and not isinstance(error, (*_TOO_LARGE, *_NOT_WRITTEN)):
            raise _failure(error, partition[0]) from error
    return outcomes


async def _enqueue(producer: AIOKafkaProducer, partition: Partition, batch: Batch) -> asyncio.Future[Any]:
    topic, number = partition
    while True:
        # The batch before it may not have been sent yet. The caller has the deadline.
        with suppress(kafka.KafkaTimeoutError):
            future: asyncio.Future[Any] = await producer.send_batch(batch.builder, topic, partition=number)
            return future


def _failure(error: BaseException, topic: str) -> EventMLError:
    """The error to raise for a batch that failed, and not because of its size."""
    if isinstance(error, kafka.UnknownError):
        return PublishError(
            f"topic {topic} refused a batch for a reason that this client does not know. One such reason is "
            "a record without a key on a compacted topic: give it a key"
        )
    if (
        isinstance(error, kafka.BrokerResponseError)
        and not error.retriable
        and not isinstance(error, AUTHORIZATION_ERRORS)
    ):
        return PublishError(f"topic {topic} refused a batch: {describe(error)}")
    return translate(error, f"publishing to {topic}")


class Publisher:
    """Publishes records outside of transactions, each call within `timeout` seconds."""

    def __init__(self, clients: ClientFactory, sender: Sender, timeout: float) -> None:
        self._clients = clients
        self._sender = sender
        self._timeout = timeout
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._stopping: set[asyncio.Task[None]] = set()

    async def publish(self, records: Sequence[Record], *, all_topics: bool = False) -> None:
        """Write records; returns when all in-sync replicas have them.

        If `all_topics`, and one of their topics is missing, it writes none.

        Raises:
            TopicNotFoundError: all of their topics are missing, or (`all_topics`) one of them.
            PublishError: some were refused; `failed` has their positions.
            BackendError: the user may not write to a topic.
            UnavailableError: not all were written in time; some may have been.
        """
        failed: dict[int, str] = {}
        positions: Sequence[int] = range(len(records))
        try:
            async with asyncio.timeout(self._timeout):
                while positions:
                    positions = await self._send(records, positions, failed, all_topics=all_topics)
        except TimeoutError as exc:
            # Batches that are still queued must not be sent after the caller has been told, and retries.
            self._discard(self._producer)
            raise UnavailableError(
                f"the brokers at {self._clients.brokers} did not take the records within "
                f"{self._timeout:g} s (backend.publish_timeout); some may have been written"
            ) from exc
        if failed:
            raise PublishError(f"{len(failed)} records were refused: {next(iter(failed.values()))}", failed)

    async def close(self) -> None:
        """Send what is queued, and disconnect."""
        self._discard(self._producer, wait=True)
        if self._stopping:
            await asyncio.wait(self._stopping)

    async def _send(
        self,
        records: Sequence[Record],
        positions: Sequence[int],
        failed: dict[int, str],
        *,
        all_topics: bool,
    ) -> list[int]:
        """Send records once. Returns the positions of those to send again."""
        producer = await self._started()
        packed = await self._sender.pack(producer, records, positions, all_topics=all_topics)
        failed |= packed.refused
        try:
            unsent = await self._sender.send(producer, packed)
        except UnavailableError:
            self._discard(producer)
            raise
        except CLIENT_ERRORS as exc:
            self._discard(producer)
            raise translate(exc, "publishing") from exc
        if unsent:
            self._discard(producer, wait=True)
        return unsent

    def _discard(self, producer: AIOKafkaProducer | None, *, wait: bool = False) -> None:
        """Stop this producer; the next call starts another. If `wait`, it sends its queue first."""
        if producer is not None and producer is self._producer:
            self._producer = None
            self._in_background(stop(producer) if wait else abort(producer))

    def _in_background(self, stopping: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(stopping)
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def _started(self) -> AIOKafkaProducer:
        async with self._starting:
            while self._producer is None:
                producer = self._clients.producer()
                try:
                    await self._clients.start(producer)
                except BaseException as exc:
                    self._in_background(abort(producer))
                    if not isinstance(exc, CLIENT_ERRORS):
                        raise
                    error = translate(exc, f"connecting a producer to {self._clients.brokers}")
                    if not isinstance(error, UnavailableError):
                        raise error from exc
                    log.debug("%s; again in %g s", error, _BACKOFF)
                    await asyncio.sleep(_BACKOFF)
                else:
                    self._producer = producer
            return self._producer
