"""Exactly once: transactions that do not end before a rebalance, or of which the end was not heard."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from contextlib import AsyncExitStack
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaConnectionError

from eventml.backends.kafka.connection import abort
from eventml.backends.kafka.partitions import CommittedOffset
from tests.kafka.conftest import (
    complete,
    connected,
    everything,
    new_topic,
    outputs,
    receive,
    records,
    until_finished,
    work,
)

if TYPE_CHECKING:
    from backends.kafka.cluster import KafkaCluster

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]


async def test_an_offset_is_stable_once_its_transaction_has_ended(kafka_broker: KafkaCluster) -> None:
    topic, group = await new_topic(kafka_broker, 2), token_hex(4)
    one, two = TopicPartition(topic, 0), TopicPartition(topic, 1)
    producer: Any = AIOKafkaProducer(bootstrap_servers=kafka_broker.bootstrap, transactional_id=token_hex(4))
    async with connected(kafka_broker) as backend, producer:
        admin = backend._admin
        assert await admin.committed(group, [one, two], stable=True) == {}
        for offset in (3, 7):
            before = {} if offset == 3 else {one: CommittedOffset(3)}
            await producer.begin_transaction()
            await producer.send_offsets_to_transaction({one: (offset, "")}, group)
            assert await admin.committed(group, [one, two], stable=False) == before
            assert await admin.committed(group, [two], stable=True) == {}
            asking = asyncio.create_task(admin.committed(group, [one, two], stable=True))
            await asyncio.sleep(0.5)
            assert not asking.done()
            await producer.commit_transaction()
            async with asyncio.timeout(10):
                assert await asking == {one: CommittedOffset(offset)}


@pytest.mark.parametrize("step", ["send_offsets_to_transaction", "commit_transaction"])
async def test_a_transaction_fails_at_once_when_its_producer_is_aborted(
    kafka_broker: KafkaCluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    topic, group = await new_topic(kafka_broker, 1), token_hex(4)
    producer: Any = AIOKafkaProducer(bootstrap_servers=kafka_broker.bootstrap, transactional_id=token_hex(4))
    await producer.start()
    await producer.begin_transaction()
    offsets = {TopicPartition(topic, 0): (1, "")}
    await producer.send_offsets_to_transaction(offsets, group)

    async def hang(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(producer.client, "send", hang)
    arguments = () if step == "commit_transaction" else (offsets, group)
    waiting = asyncio.create_task(getattr(producer, step)(*arguments))
    await asyncio.sleep(0.1)
    await abort(producer)
    async with asyncio.timeout(5):
        with pytest.raises(KafkaConnectionError, match="aborted"):
            await waiting
    del producer, waiting
    gc.collect()
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize("ends", ["before the answer is lost", "after the rebalance", "never"])
async def test_what_a_transaction_completes_over_a_rebalance_is_completed_once(
    kafka_broker: KafkaCluster, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    topic, to, group = await new_topic(kafka_broker, 2), await new_topic(kafka_broker, 2), token_hex(4)
    moved, held = asyncio.Event(), 0
    commit_transaction = AIOKafkaProducer.commit_transaction

    async def commit_late(producer: AIOKafkaProducer) -> None:
        nonlocal held
        if held >= 2:
            await commit_transaction(producer)
            return
        held += 1
        if ends == "before the answer is lost":
            await commit_transaction(producer)
        await moved.wait()
        if ends == "after the rebalance":
            await commit_transaction(producer)
        raise ConnectionError("no answer")

    async def commit(*_: Any) -> None:
        pytest.fail("a commit outside of a transaction may arrive late, and take the group back")

    monkeypatch.setattr(AIOKafkaConsumer, "commit", commit)
    async with (
        connected(kafka_broker, delivery="exactly_once", drain=0.5) as backend,
        AsyncExitStack() as members,
    ):
        await backend.publish(records(topic, range(40)))
        slow: Any = await members.enter_async_context(
            backend.subscribe([topic], group=group, start="earliest")
        )
        taken = await receive(slow, 40)
        assignment = slow._member.assignment
        # As if the answer to a commit before had been lost: the member begins anew with its partitions.
        assignment.record_commit({p: CommittedOffset(0) for p in assignment.states})
        monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", commit_late)
        completing = asyncio.create_task(complete(slow, outputs(taken, to)))
        other: Any = await members.enter_async_context(
            backend.subscribe([topic], group=group, start="earliest")
        )
        async with asyncio.timeout(20):
            while not (len(assignment.states) == len(other._member.assignment.states) == 1):
                await asyncio.sleep(0.05)
        moved.set()
        working = [asyncio.create_task(work(member, to)) for member in (slow, other)]
        await until_finished(backend, topic, group)
        async with asyncio.timeout(20):
            await completing
        made = Counter(d.record.id for d in await everything(backend, to, 40))
        for task in working:
            task.cancel()
        await asyncio.wait(working)
    assert held == 2
    assert made == {f"id-{n}/made": 1 for n in range(40)}
