"""Ask brokers for topics and offsets, and create topics."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from math import floor
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka import errors as kafka
from aiokafka.client import CoordinationType
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest

from eventml.backends.base import NewTopic, Start
from eventml.backends.kafka.commit_metadata import decode_metadata
from eventml.backends.kafka.connection import ClientFactory
from eventml.backends.kafka.errors import (
    CLIENT_ERRORS,
    LOGIN_ERRORS,
    describe,
    topic_not_found,
    translate,
    translated,
)
from eventml.backends.kafka.offset_fetch import OffsetFetchRequest, UnstableOffsetError
from eventml.backends.kafka.partitions import CommittedOffset
from eventml.errors import BackendError, EventMLError, LoginError, UnavailableError

_BACKOFF: Final = 0.1  # seconds
_PROPAGATION: Final = 1.0  # seconds for which a broker may not know a topic that was just created
_TIMESTAMPS: Final = {"earliest": -2, "latest": -1}  # as the protocol has them
_READ_COMMITTED: Final = 1  # isolation level, in the protocol
_TOPIC_RESOURCE: Final = 2  # kind of resource, in the protocol
_SIZE_LIMIT: Final = "max.message.bytes"
_PARTITIONS: Final = 8  # of a topic for which nothing else is configured
_REPLICATION: Final = 3  # the same, where there are as many brokers
_SEGMENT_MS: Final = 7 * 24 * 3600 * 1000  # Kafka's default


class AdminClient:
    """Sends requests, each repeated until the deadline, to other brokers if need be.

    All methods raise UnavailableError if no broker answers within `timeout` seconds, and BackendError if the
    user has no permission.
    """

    def __init__(self, clients: ClientFactory, timeout: float) -> None:
        self._clients = clients
        self._client = clients.plain()
        self._timeout = timeout

    async def start(self) -> None:
        """Connect.

        Raises:
            UnavailableError: no broker answers.
            LoginError: the brokers refused the login.
        """
        async with translated(f"connecting to {self._clients.brokers}", self._timeout):
            try:
                await self._clients.start(self._client)
            except LOGIN_ERRORS as exc:
                raise LoginError(f"backend.url: the brokers refused the login: {describe(exc)}") from exc

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()

    # Topics

    async def partition_counts(self, topics: Collection[str], wait: float = _PROPAGATION) -> dict[str, int]:
        """The number of partitions of each topic. A topic that is missing for `wait` seconds is left out."""
        deadline = time.monotonic() + wait
        found: dict[str, int] = {}

        async def ask(node: int) -> dict[str, int]:
            request = MetadataRequest(missing, allow_auto_topic_creation=False)
            answer = await self._client.send(node, request)
            counts = {}
            for error, topic, _internal, partitions in answer.topics:
                if kafka.for_code(error) is not kafka.UnknownTopicOrPartitionError:
                    _check(error, topic)
                    counts[topic] = len(partitions)
            return counts

        while missing := [topic for topic in topics if topic not in found]:
            found |= await self._repeat(ask, "asking for topics")
            if len(found) < len(topics):
                if time.monotonic() >= deadline:
                    break
                await asyncio.sleep(_BACKOFF)
        return found

    async def require_topics(self, topics: Collection[str]) -> dict[str, int]:
        """The number of partitions of each topic.

        Raises:
            TopicNotFoundError: a topic is missing.
        """
        found = await self.partition_counts(topics)
        if missing := [topic for topic in topics if topic not in found]:
            raise topic_not_found(missing)
        return found

    async def create_topics(self, topics: Sequence[NewTopic]) -> list[str]:
        """Create topics, and wait until they can be used. Returns the names of those that did not exist.

        Raises:
            BackendError: the brokers refused one; others may have been created.
        """
        if not topics:
            return []
        brokers = max(len(self._client.cluster.brokers()), 1)
        request = CreateTopicsRequest(
            [_creation(topic, brokers) for topic in topics], timeout=10_000, validate_only=False
        )

        async def ask(_: int) -> Any:
            controller = self._client.cluster.controller
            if controller is None:
                raise kafka.NodeNotReadyError
            return await self._client.send(controller.nodeId, request)

        answer = await self._repeat(ask, "creating topics")
        errors = {name: (kafka.for_code(code), message) for name, code, message in answer.topic_errors}
        created = [name for name, (error, _) in errors.items() if error is kafka.NoError]
        refused = [
            n for n, (e, _) in errors.items() if e not in {kafka.NoError, kafka.TopicAlreadyExistsError}
        ]
        existing = await self.partition_counts(refused)  # a user who may not create it may still use it
        for name in refused:
            if name not in existing:
                error, message = errors[name]
                raise BackendError(f"cannot create topic {name}: {message or error.__name__}")
        await self.partition_counts(created, wait=self._timeout)
        return created

    async def max_message_bytes(self, topic: str) -> int | None:
        """The largest batch in bytes that a topic takes; None if the user may not read its configuration."""
        request = DescribeConfigsRequest([(_TOPIC_RESOURCE, topic, [_SIZE_LIMIT])])
        try:
            answer = await self._repeat(
                lambda node: self._client.send(node, request), f"asking for the limits of {topic}"
            )
        except EventMLError:
            return None
        for code, _message, _kind, _name, entries in answer.resources:
            if kafka.for_code(code) is kafka.NoError:
                for name, value, *_ in entries:
                    if name == _SIZE_LIMIT:
                        return int(value)
        return None

    # Offsets

    async def offsets(self, partitions: Collection[TopicPartition], at: Start) -> dict[TopicPartition, int]:
        """Each partition's first offset, the one after its last, or the first of a time on, else the latter.

        Open transactions are not counted.
        """
        if not partitions:
            return {}
        # Asked for first, so that nothing is skipped which arrives meanwhile.
        ends = {} if isinstance(at, str) else await self.offsets(partitions, "latest")
        moment = _TIMESTAMPS[at] if isinstance(at, str) else max(floor(round(at * 1000, 3)), 0)

        async def ask(leader: int, some: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
            topics = [(t, [(p, moment) for p in found]) for t, found in _by_topic(some).items()]
            answer = await self._client.send(leader, OffsetRequest(-1, _READ_COMMITTED, topics))
            offsets = {}
            for topic, of_topic in answer.topics:
                for partition, error, _timestamp, offset in of_topic:
                    _check(error)
                    offsets[TopicPartition(topic, partition)] = offset
            return offsets

        async def ask_leaders(_: int) -> dict[TopicPartition, int]:
            leaders = await self._leaders(partitions)
            answers = await asyncio.gather(*(ask(leader, some) for leader, some in leaders.items()))
            return {partition: offset for answer in answers for partition, offset in answer.items()}

        found: dict[TopicPartition, int] = await self._repeat(ask_leaders, "asking for offsets")
        return {partition: ends[partition] if offset < 0 else offset for partition, offset in found.items()}

    async def committed(
        self, group: str, partitions: Collection[TopicPartition], *, stable: bool
    ) -> dict[TopicPartition, CommittedOffset]:
        """A group's committed offsets; partitions without one are left out.

        If `stable`, it waits for the end of transactions that commit some, and after a broker's failure
        until all that was committed before is found. Otherwise the offsets may be older ones.
        """
        topics = _by_topic(partitions)

        async def ask(_: int) -> dict[TopicPartition, CommittedOffset]:
            coordinator = await self._client.coordinator_lookup(CoordinationType.GROUP, group)
            answer = await self._client.send(coordinator, OffsetFetchRequest(group, topics, stable=stable))
            _check(answer.error_code)
            committed = {}
            for topic, of_topic, _tags in answer.topics:
                for partition, offset, _epoch, metadata, error, _tags in of_topic:
                    _check(error)
                    if offset >= 0:
                        committed[TopicPartition(topic, partition)] = decode_metadata(offset, metadata)
            return committed

        found: dict[TopicPartition, CommittedOffset] = await self._repeat(
            ask, f"asking for the offsets of group {group}"
        )
        return found

    async def _repeat(self, ask: Callable[[int], Awaitable[Any]], action: str) -> Any:
        """Call `ask` with the id of some broker until it returns; it must be safe to repeat."""
        last: BaseException | None = None
        deadline = time.monotonic() + self._timeout
        while (left := deadline - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    return await ask(self._client.get_random_node())
            except EventMLError:
                raise
            except CLIENT_ERRORS as exc:
                if isinstance(exc, kafka.KafkaError) and not exc.retriable:
                    raise translate(exc, action) from exc
                last = exc
            # Not awaited: a broker that does not answer would hold this up.
            self._client.force_metadata_update()
            await asyncio.sleep(_BACKOFF)
        raise UnavailableError(
            f"the brokers at {self._clients.brokers} did not answer within {self._timeout:g} s while {action}"
        ) from last

    async def _leaders(self, partitions: Collection[TopicPartition]) -> dict[int, list[TopicPartition]]:
        cluster, topics = self._client.cluster, {partition.topic for partition in partitions}
        if any(cluster.partitions_for_topic(topic) is None for topic in topics):
            for topic in topics:
                self._client.add_topic(topic)
            await self._client.force_metadata_update()
        leaders: defaultdict[int, list[TopicPartition]] = defaultdict(list)
        for partition in partitions:
            leader = cluster.leader_for_partition(partition)
            if leader is None or leader < 0:
                raise kafka.LeaderNotAvailableError
            leaders[leader].append(partition)
        return leaders


def _creation(topic: NewTopic, brokers: int) -> tuple[Any, ...]:
    config = []
    if topic.retention is not None:
        retention = max(round(topic.retention * 1000), 1)
        config.append(("retention.ms", str(retention)))
        # Retention removes whole segments, once their last record is too old.
        config.append(("segment.ms", str(min(retention, _SEGMENT_MS))))
    replication = topic.replication or min(_REPLICATION, brokers)
    return (topic.name, topic.partitions or _PARTITIONS, replication, [], config)


def _by_topic(partitions: Collection[TopicPartition]) -> dict[str, list[int]]:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for partition in partitions:
        found[partition.topic].append(partition.partition)
    return found


def _check(code: int, *args: str) -> None:
    error = UnstableOffsetError if code == UnstableOffsetError.errno else kafka.for_code(code)
    if error is not kafka.NoError:
        raise error(*args)
