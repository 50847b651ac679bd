"""The transactions of one input partition: outputs and the offset that acks their inputs, in one step.

There is one transactional producer for each input partition, whose transactional id names the group and the
partition: the member that gets the partition next fences the one before it. What that one left open is
aborted, and what it tries later is refused. aiokafka speaks the first version of the protocol (before
KIP-447), in which this id is the only fence. So, once the group has started with a partition, nothing but
these transactions commits an offset of it.

After an unknown outcome the producer is discarded. A fresh one ends the open transaction, and then the
committed offset says whether the transaction was committed: there is no other way to find out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from eventml.backends.base import Completion
from eventml.backends.kafka.admin import AdminClient
from eventml.backends.kafka.assignment import Assignment
from eventml.backends.kafka.commit_metadata import MAX_METADATA, encode_metadata
from eventml.backends.kafka.connection import ClientFactory, abort, stop
from eventml.backends.kafka.errors import CLIENT_ERRORS, translate
from eventml.backends.kafka.packing import PackedRecords
from eventml.backends.kafka.partitions import CommittedOffset
from eventml.backends.kafka.publishing import Sender
from eventml.errors import EventMLError, UnavailableError
from eventml.records import Delivery

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer, TopicPartition

log = logging.getLogger("eventml")


class TransactionalClient(NamedTuple):
    """Clients and sender for transactions; `timeout` is the longest time of one, in seconds."""

    clients: ClientFactory
    sender: Sender
    admin: AdminClient
    group: str
    timeout: float


class _Transaction(NamedTuple):
    """A transaction that may have been committed: what it completes, and the offset that it commits."""

    deliveries: Sequence[Delivery]
    committed: CommittedOffset


class PartitionTransactions:
    """The transactions of one input partition, one after the other."""

    def __init__(self, client: TransactionalClient, partition: TopicPartition) -> None:
        self._client = client
        self._partition = partition
        self._producer: AIOKafkaProducer | None = None
        self._unknown: _Transaction | None = None  # its outcome is not known
        self._aborting: set[asyncio.Task[None]] = set()
        self._closed = False
        self.lock = asyncio.Lock()
        """Held while an offset of the partition is committed, and while the member asks where to begin."""

    @property
    def idle(self) -> bool:
        """Whether it is connected, no transaction is under way, and the outcome of the last one is known."""
        return self._producer is not None and self._unknown is None and not self.lock.locked()

    async def fence(self) -> None:
        """Start a producer: no other can commit for this partition from now on, until it fences this one.

        Raises:
            UnavailableError: the brokers cannot be reached.
            BackendError: the user may not use the transactional id.
        """
        await self._discard()
        if self._closed:
            raise UnavailableError(f"group {self._client.group}: a rebalance is under way; repeat the call")
        topic, number = self._partition
        transactional_id = f"{self._client.group}.{topic}.{number}"
        producer = self._client.clients.producer(transactional_id=transactional_id)
        self._producer = producer
        try:
            await self._client.clients.start(producer)
        except BaseException as exc:
            await self._discard()
            if isinstance(exc, CLIENT_ERRORS):
                raise translate(exc, f"starting the transactional producer {transactional_id}") from exc
            raise

    async def complete(self, assignment: Assignment, done: Mapping[int, Completion]) -> dict[int, str]:
        """Publish and ack these completions. Returns the positions of those refused, and why.

        Raises:
            TopicNotFoundError: the topic of an output is missing.
            PublishError: a broker refused a batch for a reason that is not its size.
            BackendError: the user has no permission.
            UnavailableError: the outcome is unknown; repeat the call.
        """
        failed: dict[int, str] = {}
        try:
            async with self.lock, asyncio.timeout(self._client.timeout):
                while todo := _in_flight(assignment, done, failed):
                    await self._resolve(assignment)
                    if todo := _in_flight(assignment, done, failed):
                        failed |= await self._complete_once(assignment, todo)
        except TimeoutError as exc:
            raise UnavailableError(
                f"a transaction of group {self._client.group} did not end within {self._client.timeout:g} s "
                "(backend.publish_timeout)"
            ) from exc
        return failed

    async def commit(self, assignment: Assignment) -> None:
        """Commit what has changed since the last commit.

        Raises:
            UnavailableError: the outcome is unknown.
            BackendError: the user has no permission.
        """
        async with self.lock, asyncio.timeout(self._client.timeout):
            await self._resolve(assignment)
            if self._partition in assignment.to_commit():
                await self._complete_once(assignment, {})

    async def close(self) -> None:
        """Disconnect; a transaction under way fails. Never raises."""
        self._closed = True
        producer, self._producer = self._producer, None
        if producer is not None:
            await (abort(producer) if self.lock.locked() else stop(producer))
        if self._aborting:
            await asyncio.wait(self._aborting)

    async def _resolve(self, assignment: Assignment) -> None:
        """Find out whether the last transaction was committed, if that is not known."""
        if self._producer is not None and self._unknown is None:
            return
        unknown, partition, group = self._unknown, self._partition, self._client.group
        await self.fence()
        found = (await self._client.admin.committed(group, [partition], stable=True)).get(partition)
        if found is None:
            raise UnavailableError(f"group {group} has no committed offset of {partition} any more")
        known = assignment.committed.get(partition)
        if unknown is not None and found.same_completed(unknown.committed):
            self._record(assignment, unknown.deliveries, found)
        elif known is not None and found.same_completed(known):
            self._record(assignment, (), found)
        else:
            log.warning("group %s: another member has committed for %s; it is restarted", group, partition)
            assignment.restart(partition, found)
        self._unknown = None

    async def _complete_once(self, assignment: Assignment, todo: Mapping[int, Completion]) -> dict[int, str]:
        """Run one transaction. Returns completions to leave out; if there are any, nothing was done."""
        producer, sender = self._producer, self._client.sender
        if producer is None:
            raise UnavailableError(f"group {self._client.group}: the member is leaving; repeat the call")
        owners = [position for position, completion in todo.items() for _ in completion.outputs]
        records = [record for completion in todo.values() for record in completion.outputs]
        packed = await sender.pack(producer, records, range(len(records)), all_topics=True)
        if packed.refused:
            return {owners[n]: why for n, why in packed.refused.items()}
        deliveries = [completion.delivery for completion in todo.values()]
        also = frozenset(delivery.offset for delivery in deliveries)
        state = assignment.states.get(self._partition)
        if state is None:  # a rebalance has taken the partition away meanwhile
            return {}
        committed = state.to_commit(also)
        metadata, complete = encode_metadata(committed)
        if not complete:
            raise UnavailableError(
                f"group {self._client.group}: more is completed out of order than a commit's metadata can "
                f"describe ({MAX_METADATA} characters); repeat the call once earlier records are completed"
            )
        transaction = _Transaction(deliveries, committed)
        self._unknown = transaction
        if await self._run(producer, packed, {self._partition: (committed.offset, metadata)}):
            self._record(assignment, *transaction)
            self._unknown = None
        else:
            await self._discard()  # `_resolve` finds out that nothing was done
        return {}

    async def _run(
        self,
        producer: AIOKafkaProducer,
        packed: PackedRecords,
        offsets: Mapping[TopicPartition, tuple[int, str]],
    ) -> bool:
        """Run a transaction. False if a batch was refused in a way that another try may avoid."""
        group = self._client.group
        try:
            await producer.begin_transaction()
            if await self._client.sender.send(producer, packed):
                return False
            await producer.send_offsets_to_transaction(offsets, group)
            await producer.commit_transaction()
        except EventMLError:
            await self._discard()
            raise
        except (*CLIENT_ERRORS, AssertionError) as exc:  # aiokafka asserts the states of a transaction
            await self._discard()
            raise translate(exc, f"running a transaction of group {group}") from exc
        except BaseException:  # cancelled: there is no time to wait for the abort
            self._producer = None
            aborting = asyncio.create_task(abort(producer))
            self._aborting.add(aborting)
            aborting.add_done_callback(self._aborting.discard)
            raise
        return True

    def _record(
        self, assignment: Assignment, deliveries: Sequence[Delivery], committed: CommittedOffset
    ) -> None:
        assignment.complete(deliveries)
        assignment.record_commit({self._partition: committed})

    async def _discard(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await abort(producer)


def _in_flight(
    assignment: Assignment, done: Mapping[int, Completion], failed: Mapping[int, str]
) -> dict[int, Completion]:
    """The completions that are still in flight and not refused, each delivery once."""
    positions = [position for position in done if position not in failed]
    found: dict[int | str, tuple[int, Completion]] = {}
    for n in assignment.positions_in_flight(done[position].delivery for position in positions):
        completion = done[positions[n]]
        found.setdefault(completion.delivery.offset, (positions[n], completion))
    return dict(found.values())
