"""Asking brokers: topics, offsets, limits. A client of its own, that neither writes nor consumes."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from aiokafka import TopicPartition
from aiokafka import errors as kafka
from aiokafka.client import CoordinationType
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest

from eventml.backends.kafka.faults import FOREIGN, ours, translating
from eventml.backends.kafka.progress import Place, read
from eventml.errors import EventMLError, TopicNotFoundError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from eventml.backends.kafka.clients import Clients

    Ask = Callable[[int], Awaitable[Any]]

_BACKOFF = 0.1
_UNKNOWN_FOR = 1.0  # seconds for which a topic just created may be unknown to a broker
_TIMES: Final = {"earliest": -2, "latest": -1}
_READ_COMMITTED: Final = 1
_NO_LOG_START: Final = 4  # the version of an answer that does not tell where the log begins


class Fetched(NamedTuple):
    """Records as a broker keeps them, and which transactions among them were aborted: producer, offset."""

    records: bytes
    aborted: Sequence[tuple[int, int]] | None


class Observer:
    """Asks brokers. Every question is repeated until the deadline, of other nodes if need be.

    Args:
        clients: Makes its client.
        timeout: The deadline of a question, in seconds.
    """

    def __init__(self, clients: Clients, timeout: float) -> None:
        self._clients = clients
        self._client = clients.plain()
        self._timeout = timeout

    async def start(self) -> None:
        """Connect.

        Raises:
            UnavailableError: nobody answers there.
            ConfigError: the brokers refused the login.
        """
        with translating(f"connecting to {self._clients.brokers}", self._timeout):
            async with asyncio.timeout(self._timeout):
                await self._clients.start(self._client)

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()

    async def partitions(self, topics: Collection[str], patience: float = _UNKNOWN_FOR) -> dict[str, int]:
        """How many partitions each topic has. A topic that is not there is left out, after so many seconds.

        Raises:
            UnavailableError: no answer.
            BackendError: not allowed to know.
        """
        deadline = time.monotonic() + patience
        found: dict[str, int] = {}
        while missing := [topic for topic in topics if topic not in found]:
            found |= await self._until_answered(
                lambda node: self._ask_metadata(node, missing), "asking for topics"
            )
            if len(found) < len(topics):
                if time.monotonic() >= deadline:
                    break
                await asyncio.sleep(_BACKOFF)
        return found

    async def require(self, topics: Collection[str]) -> dict[str, int]:
        """As `partitions`, of topics that have to be there.

        Raises:
            TopicNotFoundError: one is not.
        """
        found = await self.partitions(topics)
        missing = [topic for topic in topics if topic not in found]
        if missing:
            raise not_found(missing)
        return found

    async def offsets(
        self, partitions: Collection[TopicPartition], at: Literal["earliest", "latest"]
    ) -> dict[TopicPartition, int]:
        """Each partition's first offset, or the one after its last. Open transactions are not counted."""
        if not partitions:
            return {}

        async def ask(_: int) -> dict[TopicPartition, int]:
            leaders = await self._leaders(partitions)
            answers = [self._ask_offsets(leader, some, _TIMES[at]) for leader, some in leaders.items()]
            return {p: offset for some in await asyncio.gather(*answers) for p, offset in some.items()}

        offsets: dict[TopicPartition, int] = await self._until_answered(ask, "asking for offsets")
        return offsets

    async def fetch(
        self, offsets: Mapping[TopicPartition, int], size: int
    ) -> dict[TopicPartition, Fetched | None]:
        """What is there from each offset on: a batch at least, and no more than `size` bytes beyond it.

        Does not wait for any. None for an offset that is not in the log any more.
        """
        if not offsets:
            return {}

        async def ask(_: int) -> dict[TopicPartition, Fetched | None]:
            leaders = await self._leaders(offsets)
            answers = [
                self._ask_records(leader, {p: offsets[p] for p in some}, size)
                for leader, some in leaders.items()
            ]
            return {p: found for some in await asyncio.gather(*answers) for p, found in some.items()}

        found: dict[TopicPartition, Fetched | None] = await self._until_answered(ask, "reading records")
        return found

    async def committed(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, Place]:
        """A group's place in each partition; those of which it has committed nothing are left out."""
        wanted = [(topic, sorted(found)) for topic, found in _by_topic(partitions).items()]

        async def ask(_: int) -> dict[TopicPartition, Place]:
            coordinator = await self._client.coordinator_lookup(CoordinationType.GROUP, group)
            answer = await self._client.send(coordinator, OffsetFetchRequest(group, wanted))
            _check(answer.error_code)
            committed = {}
            for topic, of_topic in answer.topics:
                for partition, offset, metadata, error in of_topic:
                    _check(error)
                    if offset >= 0:
                        committed[TopicPartition(topic, partition)] = read(offset, metadata)
            return committed

        found: dict[TopicPartition, Place] = await self._until_answered(
            ask, f"asking for what group {group} committed"
        )
        return found

    async def ask(self, request: Any, what: str, node: Callable[[], int] | None = None) -> Any:
        """Send one request until there is an answer, to any node or to the one that `node` names.

        Only for what may be repeated.
        """
        return await self._until_answered(
            lambda any_node: self._client.send(any_node if node is None else node(), request), what
        )

    @property
    def controller(self) -> int:
        """The node that changes topics."""
        controller = self._client.cluster.controller
        if controller is None:
            raise kafka.NodeNotReadyError
        return int(controller.nodeId)

    @property
    def nodes(self) -> int:
        """How many brokers there are."""
        return len(self._client.cluster.brokers())

    async def _until_answered(self, ask: Ask, what: str) -> Any:
        last: BaseException | None = None
        deadline = time.monotonic() + self._timeout
        while (left := deadline - time.monotonic()) > 0:
            try:
                node = self._client.get_random_node()
                async with asyncio.timeout(left):
                    return await ask(node)
            except EventMLError:
                raise
            except FOREIGN as exc:
                last = exc
                if not _temporary(exc):
                    raise ours(exc, what) from exc
            # Its answer is for the next turn; a broker that is gone would hold this one up.
            self._client.force_metadata_update()
            await asyncio.sleep(_BACKOFF)
        raise UnavailableError(
            f"the brokers at {self._clients.brokers} did not answer within {self._timeout:g} s, {what}"
        ) from last

    async def _ask_metadata(self, node: int, topics: Sequence[str]) -> dict[str, int]:
        answer = await self._client.send(node, MetadataRequest(list(topics), allow_auto_topic_creation=False))
        found = {}
        for error, topic, _internal, partitions in answer.topics:
            if kafka.for_code(error) is kafka.UnknownTopicOrPartitionError:
                continue
            _check(error, topic)
            found[topic] = len(partitions)
        return found

    async def _leaders(self, partitions: Collection[TopicPartition]) -> dict[int, list[TopicPartition]]:
        topics = {partition.topic for partition in partitions}
        if any(self._client.cluster.partitions_for_topic(topic) is None for topic in topics):
            for topic in topics:
                self._client.add_topic(topic)
            await self._client.force_metadata_update()
        leaders: defaultdict[int, list[TopicPartition]] = defaultdict(list)
        for partition in partitions:
            leader = self._client.cluster.leader_for_partition(partition)
            if leader is None or leader < 0:
                raise kafka.LeaderNotAvailableError
            leaders[leader].append(partition)
        return leaders

    async def _ask_offsets(
        self, leader: int, partitions: Collection[TopicPartition], when: int
    ) -> dict[TopicPartition, int]:
        wanted = [(topic, [(p, when) for p in found]) for topic, found in _by_topic(partitions).items()]
        answer = await self._client.send(leader, OffsetRequest(-1, _READ_COMMITTED, wanted))
        offsets = {}
        for topic, of_topic in answer.topics:
            for partition, error, _timestamp, offset in of_topic:
                _check(error)
                offsets[TopicPartition(topic, partition)] = offset
        return offsets

    async def _ask_records(
        self, leader: int, offsets: Mapping[TopicPartition, int], size: int
    ) -> dict[TopicPartition, Fetched | None]:
        wanted = [
            (topic, [(p, offsets[TopicPartition(topic, p)], size) for p in found])
            for topic, found in _by_topic(offsets).items()
        ]
        request = FetchRequest(0, 0, len(offsets) * size, _READ_COMMITTED, wanted)
        answer = await self._client.send(leader, request)
        fetched: dict[TopicPartition, Fetched | None] = {}
        for topic, of_topic in answer.topics:
            for partition, error, _highwater, _stable, *more, records in of_topic:
                place = TopicPartition(topic, partition)
                if kafka.for_code(error) is kafka.OffsetOutOfRangeError:
                    fetched[place] = None
                    continue
                _check(error)
                aborted = more[0] if answer.API_VERSION == _NO_LOG_START else more[1]
                fetched[place] = Fetched(records, aborted)
        return fetched


def not_found(topics: Collection[str]) -> TopicNotFoundError:
    """The error for topics that are not there, with the command that creates them."""
    named = ", ".join(topics)
    return TopicNotFoundError(
        f"no such topic: {named}. Create what the app needs with `eventml topics create MODULE:BUS`; "
        "nothing is created by accident"
    )


def _temporary(exc: BaseException) -> bool:
    return not isinstance(exc, kafka.KafkaError) or bool(exc.retriable)


def _by_topic(partitions: Collection[TopicPartition]) -> dict[str, list[int]]:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for partition in partitions:
        found[partition.topic].append(partition.partition)
    return found


def _check(code: int, *args: str) -> None:
    error = kafka.for_code(code)
    if error is not kafka.NoError:
        raise error(*args)
