"""Exactly once, where commit metadata has no room for what was completed out of order; without brokers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition

from eventml.backends.base import Completion
from eventml.backends.kafka.assignment import Assignment, Chunk
from eventml.backends.kafka.partitions import CommittedOffset
from eventml.backends.kafka.transactions import PartitionTransactions, TransactionalClient
from eventml.errors import UnavailableError
from eventml.records import Delivery, Record

pytestmark = pytest.mark.anyio

ZERO = TopicPartition("t", 0)
COUNT = 4_000


class Cluster:
    """The clients of a group, and what they ask for."""

    def __init__(self) -> None:
        self.producers = self.asked = 0
        self.committed_offsets: list[int] = []

    def producer(self, **_: Any) -> Cluster:
        self.producers += 1
        return self

    async def start(self, _: Cluster) -> None:
        pass

    async def committed(self, *_: Any, **__: Any) -> dict[TopicPartition, CommittedOffset]:
        self.asked += 1
        return {ZERO: CommittedOffset(0)}

    async def pack(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(refused={})

    async def send(self, *_: Any) -> dict[int, str]:
        return {}

    async def begin_transaction(self) -> None:
        pass

    async def send_offsets_to_transaction(self, offsets: Any, _: str) -> None:
        self.committed_offsets.append(offsets[ZERO][0])

    async def commit_transaction(self) -> None:
        pass


async def test_completions_that_do_not_fit_are_refused_before_a_transaction_begins() -> None:
    """Repeating them fences no producer and asks for no offset, until those before them are completed."""
    cluster = Cluster()
    client: Any = cluster
    partition = PartitionTransactions(TransactionalClient(client, client, client, "g", 5), ZERO)
    assignment = Assignment()
    assignment.resume({ZERO: CommittedOffset(0)}, {})
    assignment.put(Chunk(ZERO, [Delivery(Record("t", b""), 0, n, 0.0) for n in range(COUNT)], COUNT))
    taken = assignment.take(COUNT)
    gaps = dict(enumerate(map(Completion, taken[1::2])))
    for _ in range(3):
        with pytest.raises(UnavailableError, match="completed out of order"):
            await partition.complete(assignment, gaps)
    assert (cluster.producers, cluster.asked) == (1, 1)
    assert partition.idle
    assert await partition.complete(assignment, dict(enumerate(map(Completion, taken)))) == {}
    assert cluster.committed_offsets == [COUNT]
