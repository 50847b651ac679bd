"""Completing at least once: outputs are published, then their inputs are finished."""

from __future__ import annotations

from contextlib import asynccontextmanager
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

from eventml.errors import PublishError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence
    from contextlib import AbstractAsyncContextManager

    from aiokafka import TopicPartition

    from eventml.backends.base import Completion
    from eventml.backends.kafka.assignment import Assignment
    from eventml.backends.kafka.publisher import Publisher
    from eventml.backends.kafka.remembering import Remembering
    from eventml.records import Record

_DELIVERY = attrgetter("delivery")


class Completing(Protocol):
    """How a member completes.

    Attributes:
        commits: It commits what it finishes itself; nobody else may.
    """

    @property
    def commits(self) -> bool: ...

    async def begin(self, partitions: Collection[TopicPartition]) -> None:
        """These partitions are ours now; nothing of them has been fetched yet."""
        ...

    async def complete(self, assignment: Assignment, done: Sequence[Completion], held: Sequence[int]) -> None:
        """Publish the outputs of those of `done` at the positions `held`, and finish them.

        Raises:
            PublishError, UnavailableError: as `Subscription.complete`.
        """
        ...

    async def before_commit(self) -> None:
        """To be done before what was finished is committed for it.

        Raises:
            PublishError, UnavailableError: do not commit; try again.
        """
        ...

    def at_rest(
        self, partitions: Collection[TopicPartition]
    ) -> AbstractAsyncContextManager[list[TopicPartition]]:
        """Those of which nothing is being committed; nothing will be until this is left."""
        ...

    async def close(self) -> None:
        """Disconnect. Never raises."""
        ...


class AtLeastOnce:
    """Publishes first. What is repeated after a crash repeats its outputs, with the same ids."""

    commits = False

    def __init__(self, publisher: Publisher, remembering: Remembering | None = None) -> None:
        self._publisher = publisher
        self._remembering = remembering

    async def begin(self, partitions: Collection[TopicPartition]) -> None:
        """Nothing to prepare."""

    async def complete(self, assignment: Assignment, done: Sequence[Completion], held: Sequence[int]) -> None:
        """Publish, then finish."""
        failed: dict[int, str] = {}
        if self._remembering is not None:
            done = await self._remembering.without_repeats(done)
        mine = done if len(held) == len(done) else [done[position] for position in held]
        outputs = [record for completion in mine for record in completion.outputs]
        if outputs:
            try:
                await self._publisher.publish(outputs, whole=True)
            except PublishError as exc:
                if not exc.failed:
                    raise
                failed = by_completion(exc, done, held)
        if failed:
            mine = [done[position] for position in held if position not in failed]
        if self._remembering is not None:
            self._remembering.finish(mine)
        assignment.finish(map(_DELIVERY, mine))
        if failed:
            raise refused(failed)

    async def before_commit(self) -> None:
        """Write down what is to be remembered of what was finished since the last commit."""
        if self._remembering is None:
            return
        entries = [(place, seen, e) for place, seen in self._remembering.all.items() if (e := seen.entry())]
        records: list[Record] = []
        pinned: dict[int, int] = {}
        for place, _, entry in entries:
            some = self._remembering.written(place, entry)
            pinned |= dict.fromkeys(range(len(records), len(records) + len(some)), place[1])
            records += some
        if records:
            await self._publisher.publish(records, whole=True, pinned=pinned)
        for _, seen, entry in entries:
            seen.written(entry)

    @asynccontextmanager
    async def at_rest(self, partitions: Collection[TopicPartition]) -> AsyncIterator[list[TopicPartition]]:
        """All: it commits nothing itself."""
        yield list(partitions)

    async def close(self) -> None:
        """Nothing of its own to close."""


def by_completion(error: PublishError, done: Sequence[Completion], held: Sequence[int]) -> dict[int, str]:
    """Which completions the refused outputs belong to, and why they were refused."""
    owners = [position for position in held for _ in done[position].outputs]
    return {owners[position]: why for position, why in error.failed.items()}


def refused(failed: dict[int, str]) -> PublishError:
    return PublishError(
        f"the outputs of {len(failed)} events were refused: {next(iter(failed.values()))}", failed
    )
