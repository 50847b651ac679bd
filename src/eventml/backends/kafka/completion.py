"""Complete deliveries: publish their outputs and ack them, at least once or exactly once.

At least once, outputs are published first, and `commits` commits the offsets later. Exactly once, both are
one transaction (`transactions`), and so is every commit: the request of a plain one may be delayed, and would
take the group back behind transactions that have ended meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from eventml.backends.base import Completion
from eventml.backends.kafka.assignment import Assignment
from eventml.backends.kafka.commit_metadata import encode_metadata
from eventml.backends.kafka.publishing import Publisher
from eventml.backends.kafka.transactions import PartitionTransactions, TransactionalClient
from eventml.errors import PublishError

if TYPE_CHECKING:
    from aiokafka import TopicPartition

_DELIVERY = attrgetter("delivery")
_MAX_AT_ONCE: Final = 16  # producers that connect, or commit, at the same time


class AtLeastOnce:
    """Publishes outputs, then completes. After a crash outputs may be repeated, with the same ids."""

    transactional = False

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    @asynccontextmanager
    async def open(self, partitions: Collection[TopicPartition]) -> AsyncIterator[None]:  # noqa: ARG002
        """As `ExactlyOnce.open`: there is nothing to prepare."""
        yield

    async def complete(
        self, assignment: Assignment, done: Sequence[Completion], positions: Sequence[int]
    ) -> None:
        """Publish the outputs of those of `done` at these positions, and record them as completed.

        Raises:
            PublishError, BackendError, UnavailableError: as `Subscription.complete`.
        """
        chosen = done if len(positions) == len(done) else [done[position] for position in positions]
        outputs = [record for completion in chosen for record in completion.outputs]
        failed: dict[int, str] = {}
        if outputs:
            try:
                await self._publisher.publish(outputs, all_topics=True)
            except PublishError as exc:
                if not exc.failed:
                    raise
                owners = [position for position in positions for _ in done[position].outputs]
                failed = {owners[position]: why for position, why in exc.failed.items()}
                chosen = [done[position] for position in positions if position not in failed]
        assignment.complete(map(_DELIVERY, chosen))
        _raise_refused(failed)

    async def commit(self, consumer: Any, assignment: Assignment) -> None:
        """Commit what has changed since the last commit, as a member. May raise aiokafka's errors."""
        if offsets := assignment.to_commit():
            await consumer.commit({p: (o.offset, encode_metadata(o)[0]) for p, o in offsets.items()})
            assignment.record_commit(offsets)

    async def close(self) -> None:
        """As `ExactlyOnce.close`: the publisher is shared, and stays open."""


class ExactlyOnce:
    """Completes in transactions, those of different partitions at the same time."""

    transactional = True

    def __init__(self, client: TransactionalClient) -> None:
        self._client = client
        self._partitions: dict[TopicPartition, PartitionTransactions] = {}

    @asynccontextmanager
    async def open(self, partitions: Collection[TopicPartition]) -> AsyncIterator[None]:
        """Fence the members that had these partitions before. No transaction begins until this is left.

        So the caller finds what all earlier transactions committed, and none ends after that. The producers
        of partitions that this member had before are kept, if no transaction is under way or of unknown
        outcome. If another member has fenced one meanwhile, its next transaction fails and finds that out.

        Raises:
            UnavailableError: the brokers cannot be reached.
            BackendError: the user may not use the transactional id.
        """
        kept = {p: one for p, one in self._partitions.items() if p in partitions and one.idle}
        new = {p: PartitionTransactions(self._client, p) for p in partitions if p not in kept}
        gone = [one for p, one in self._partitions.items() if p not in kept]
        self._partitions = kept | new
        async with AsyncExitStack() as locked:
            for one in self._partitions.values():
                await locked.enter_async_context(one.lock)
            fencing = _some_at_once([one.fence for one in new.values()])
            await asyncio.gather(fencing, *(one.close() for one in gone))
            yield

    async def complete(
        self, assignment: Assignment, done: Sequence[Completion], positions: Sequence[int]
    ) -> None:
        """As `AtLeastOnce.complete`, in one transaction per partition."""
        by_partition: dict[tuple[str, int], dict[int, Completion]] = {}
        for position in positions:
            delivery = done[position].delivery
            partition = (delivery.record.topic, delivery.partition)  # equal to a TopicPartition
            by_partition.setdefault(partition, {})[position] = done[position]
        outcomes = await asyncio.gather(
            *(
                one.complete(assignment, some)
                for partition, some in by_partition.items()
                if (one := self._partitions.get(partition)) is not None
            ),
            return_exceptions=True,
        )
        failed: dict[int, str] = {}
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            failed |= outcome
        _raise_refused(failed)

    async def commit(self, _: Any, assignment: Assignment) -> None:
        """Commit what has changed since the last commit. A transaction under way commits it itself.

        Raises:
            UnavailableError: the outcome is unknown.
            BackendError: the user has no permission.
        """
        changed = [one for p in assignment.to_commit() if (one := self._partitions.get(p)) is not None]
        await _some_at_once([partial(one.commit, assignment) for one in changed if not one.lock.locked()])

    async def close(self) -> None:
        """Disconnect. The next owner of a partition aborts a transaction that is open. Never raises."""
        await asyncio.gather(*(one.close() for one in self._partitions.values()))


async def _some_at_once(actions: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Do all of these; raises the first error, once all have ended."""
    at_once = asyncio.Semaphore(_MAX_AT_ONCE)

    async def do(action: Callable[[], Awaitable[None]]) -> None:
        async with at_once:
            await action()

    for outcome in await asyncio.gather(*map(do, actions), return_exceptions=True):
        if outcome is not None:
            raise outcome


Completer = AtLeastOnce | ExactlyOnce


def _raise_refused(failed: dict[int, str]) -> None:
    if failed:
        raise PublishError(
            f"the outputs of {len(failed)} events were refused: {next(iter(failed.values()))}", failed
        )
