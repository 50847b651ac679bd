"""Lag counts records, not offsets: the markers of transactions are not counted."""

from __future__ import annotations

from secrets import token_hex
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaProducer
from hypothesis import given
from hypothesis import strategies as st

from eventml.backends.base import Completion
from eventml.backends.kafka import lag
from eventml.backends.kafka.lag import LogRange
from eventml.backends.kafka.partitions import CommittedOffset, PartitionState
from eventml.records import Record
from tests.kafka.conftest import connected, new_topic

if TYPE_CHECKING:
    from backends.kafka.cluster import KafkaCluster

logs = st.lists(st.integers(0, 60), unique=True).map(sorted)


@given(logs, st.sets(st.integers(0, 60)), st.integers(0, 61), st.data())
def test_unfinished_records_are_counted_without_the_gaps(
    log: list[int], done: set[int], upto: int, data: st.DataObject
) -> None:
    state = PartitionState(CommittedOffset(0))
    state.deliver([offset for offset in log if offset < upto], upto)
    state.complete(done)
    successor, end = PartitionState(state.to_commit()), 61
    for one in (state, successor):
        range_ = LogRange(one.position, end)
        while not range_.known:
            stop = data.draw(st.integers(range_.known_until + 1, end))
            range_.add([offset for offset in log if range_.known_until <= offset < stop], stop)
        left = set(log) - {offset for offset in done if offset < upto}
        assert one.unfinished(end, range_.gaps) == len(left)


@pytest.mark.anyio
@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
async def test_a_topic_of_transactions_is_counted(kafka_broker: KafkaCluster, delivery: str) -> None:
    topic, to, group = await new_topic(kafka_broker, 1), await new_topic(kafka_broker, 1), token_hex(4)
    async with connected(kafka_broker, delivery=delivery) as backend:
        await transactions(kafka_broker, topic, "5+ 3- 7+ 1- 4+")
        assert await backend.lag(topic, group=group) is None
        async with backend.subscribe([topic], group=group, start="earliest") as subscription:
            assert await subscription.lag() == 16
            taken = list(await subscription.receive(9))
            while len(taken) < 9:
                taken += await subscription.receive(9 - len(taken))
            assert await subscription.lag() == 16
            await subscription.complete([Completion(d, (Record(to, b"made"),)) for d in taken[2:7]])
            assert await subscription.lag() == 11
            await subscription.complete([Completion(d, (Record(to, b"made"),)) for d in taken])
            assert await subscription.lag() == 7
        assert await backend.lag(topic, group=group) == {0: 7}
        async with backend.subscribe([topic], group=group, start="earliest") as subscription:
            for left in reversed(range(7)):
                [delivery_] = await subscription.receive(1)
                await subscription.complete([Completion(delivery_)])
                assert await subscription.lag() == left
        assert await backend.lag(topic, group=group) == {0: 0}
    async with (
        connected(kafka_broker) as backend,
        backend.subscribe([to], group=group, start="earliest") as one,
    ):
        assert await one.lag() == 9


@pytest.mark.anyio
async def test_the_lag_is_unknown_where_too_many_records_wait_behind_transactions(
    kafka_broker: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, group = await new_topic(kafka_broker, 1), token_hex(4)
    monkeypatch.setattr(lag, "_FIRST_READ", 100)
    monkeypatch.setattr(lag, "_READ", 100)
    monkeypatch.setattr(lag, "_ALWAYS_READ", 0)
    async with connected(kafka_broker) as backend:
        async with backend.subscribe([topic], group=group, start="earliest") as subscription:
            await backend.publish([Record(topic, bytes(100)) for _ in range(50)])
            await backend.publish([Record(topic, bytes(100)) for _ in range(50)])
            assert await subscription.lag() == 100, "a log without transactions is as long as its offsets say"
        async with connected(kafka_broker) as another:
            await transactions(kafka_broker, topic, "2+ " * 10)
            assert await another.lag(topic, group=group) is None


async def transactions(cluster: KafkaCluster, topic: str, pattern: str) -> None:
    """Write transactions of so many records each, committed (+) or aborted (-)."""
    producer: Any = AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, transactional_id=token_hex(4))
    async with producer:
        for one in pattern.split():
            await producer.begin_transaction()
            for _ in range(int(one[:-1])):
                await producer.send_and_wait(topic, bytes(10), partition=0)
            await (producer.commit_transaction() if one.endswith("+") else producer.abort_transaction())
