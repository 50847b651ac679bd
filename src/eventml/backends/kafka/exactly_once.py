"""Completing exactly once: the transactions of a member's partitions, side by side."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from eventml.backends.kafka.completing import refused
from eventml.backends.kafka.transactions import Line, Means

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

    from aiokafka import TopicPartition

    from eventml.backends.base import Completion
    from eventml.backends.kafka.assignment import Assignment

_AT_ONCE = 16  # producers that connect at a time


class ExactlyOnce:
    """Completes in transactions, those of different partitions at the same time."""

    commits = True

    def __init__(self, means: Means) -> None:
        self._means = means
        self._lines: dict[TopicPartition, Line] = {}

    async def begin(self, partitions: Collection[TopicPartition]) -> None:
        """Fence whoever had these partitions before. The producers of those that were ours stay.

        If another has fenced one of them meanwhile, its next transaction fails, and finds that out.
        """
        gone = [line for p, line in self._lines.items() if p not in partitions]
        new = {p: Line(self._means, p) for p in partitions if p not in self._lines}
        self._lines = {p: line for p, line in self._lines.items() if p in partitions} | new
        await asyncio.gather(*(line.close() for line in gone))
        turns = asyncio.Semaphore(_AT_ONCE)

        async def fence(line: Line) -> None:
            async with turns:
                await line.fence()

        await asyncio.gather(*map(fence, new.values()))

    async def complete(self, assignment: Assignment, done: Sequence[Completion], held: Sequence[int]) -> None:
        """One transaction for each partition."""
        if self._means.remembering is not None:
            await self._means.remembering.load(done[position].delivery for position in held)
        by_partition: dict[tuple[str, int], dict[int, Completion]] = {}
        for position in held:
            delivery = done[position].delivery
            place = (delivery.record.topic, delivery.partition)
            by_partition.setdefault(place, {})[position] = done[position]
        outcomes = await asyncio.gather(
            *(
                line.complete(assignment, some)
                for place, some in by_partition.items()
                if (line := self._lines.get(place)) is not None  # a TopicPartition is a tuple
            ),
            return_exceptions=True,
        )
        failed: dict[int, str] = {}
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            failed |= outcome
        if failed:
            raise refused(failed)

    async def before_commit(self) -> None:
        """Nothing: what is to be remembered is in the transactions."""

    @asynccontextmanager
    async def at_rest(self, partitions: Collection[TopicPartition]) -> AsyncIterator[list[TopicPartition]]:
        """Those without a transaction under way, or of unknown outcome. None begins meanwhile."""
        async with AsyncExitStack() as stack:
            resting = []
            for partition in partitions:
                line = self._lines.get(partition)
                if line is not None and line.at_rest:
                    await stack.enter_async_context(line.one)
                    resting.append(partition)
            yield resting

    async def close(self) -> None:
        """Disconnect. A transaction that is open is left for the next owner to abort."""
        await asyncio.gather(*(line.close() for line in self._lines.values()))
