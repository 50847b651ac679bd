"""Lag counts the offsets that a group has not completed; zero is exact."""

from __future__ import annotations

import asyncio
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaProducer

from eventml.backends.base import Completion
from eventml.records import Record
from tests.kafka.conftest import connected, new_topic

if TYPE_CHECKING:
    from backends.kafka.cluster import KafkaCluster


@pytest.mark.anyio
@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
async def test_the_markers_of_transactions_count_until_they_are_passed(
    kafka_broker: KafkaCluster, delivery: str
) -> None:
    topic, to, group = await new_topic(kafka_broker, 1), await new_topic(kafka_broker, 1), token_hex(4)
    async with connected(kafka_broker, delivery=delivery) as backend:
        await transactions(kafka_broker, topic, "5+ 3- 7+ 1- 4+")
        assert await backend.lag(topic, group=group) is None
        async with backend.subscribe([topic], group=group, start="earliest") as subscription:
            assert await subscription.lag() == 25, "16 records, 5 markers, and 4 records that were aborted"
            taken = list(await subscription.receive(9))
            while len(taken) < 9:
                taken += await subscription.receive(9 - len(taken))
            assert await subscription.lag() == 9 + 11, "9 in flight, and 11 offsets from the next record on"
            await subscription.complete([Completion(d, (Record(to, b"made"),)) for d in taken[2:7]])
            assert await subscription.lag() == 15
            await subscription.complete([Completion(d, (Record(to, b"made"),)) for d in taken])
            assert await subscription.lag() == 11
        assert await backend.lag(topic, group=group) == {0: 11}
        async with backend.subscribe([topic], group=group, start="earliest") as subscription:
            for left in reversed(range(7)):
                [delivery_] = await subscription.receive(1)
                await subscription.complete([Completion(delivery_)])
                lag = await subscription.lag()
                assert lag is not None
                assert lag >= left
            async with asyncio.timeout(10):
                while await subscription.lag():
                    await asyncio.sleep(0.05)
        assert await backend.lag(topic, group=group) == {0: 0}
    async with (
        connected(kafka_broker) as backend,
        backend.subscribe([to], group=group, start="earliest") as one,
    ):
        assert await one.lag() == (11 if delivery == "exactly_once" else 9)


async def transactions(cluster: KafkaCluster, topic: str, pattern: str) -> None:
    """Write transactions of so many records each, committed (+) or aborted (-)."""
    producer: Any = AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, transactional_id=token_hex(4))
    async with producer:
        for one in pattern.split():
            await producer.begin_transaction()
            for _ in range(int(one[:-1])):
                await producer.send_and_wait(topic, bytes(10), partition=0)
            await (producer.commit_transaction() if one.endswith("+") else producer.abort_transaction())
