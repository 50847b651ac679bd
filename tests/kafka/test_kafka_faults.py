"""Failures of brokers and members, and the records that are left: counted."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from eventml.backends.base import Completion, LosesDeliveries
from eventml.errors import PublishError, TopicNotFoundError, UnavailableError
from eventml.records import Record
from tests.kafka.conftest import (
    connected,
    everything,
    lag,
    new_topic,
    outputs,
    receive,
    records,
    until_available,
    until_finished,
    working,
)

if TYPE_CHECKING:
    from backends.kafka.cluster import KafkaCluster
    from eventml.backends.base import Subscription
    from eventml.records import Delivery
    from tests.kafka.conftest import StartWorker

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]


async def test_a_killed_members_work_is_done_by_another(
    kafka_broker: KafkaCluster, start_worker: StartWorker
) -> None:
    topic, to, group = await new_topic(kafka_broker), await new_topic(kafka_broker), token_hex(4)
    async with connected(kafka_broker) as backend:
        worker = start_worker(kafka_broker, topic=topic, to=to, group=group, limit=20, pause=0.05)
        await backend.publish(records(topic, range(2_000)))
        async with asyncio.timeout(30):
            while await lag(backend, topic, group) > 1_800:
                await asyncio.sleep(0.05)
        worker.kill()
        left = await lag(backend, topic, group)
        async with working(backend, topic, to, group):
            await until_finished(backend, topic, group)
        made = Counter(d.record.id for d in await everything(backend, to, 2_000))
    assert 0 < left < 2_000
    assert set(made) == {f"id-{n}/made" for n in range(2_000)}
    # At most what was in flight and not committed: a batch or two.
    assert sum(made.values()) - len(made) <= 100


async def test_a_handler_slower_than_the_poll_interval_stays_a_member(kafka_broker: KafkaCluster) -> None:
    topic, group = await new_topic(kafka_broker), token_hex(4)
    async with connected(kafka_broker, max_poll_interval=1.5, stall_timeout=1.0) as backend:
        await backend.publish(records(topic, range(30)))
        async with backend.subscribe([topic], group=group, start="earliest") as subscription:
            taken = await receive(subscription, 10, limit=10)
            await asyncio.sleep(4)  # longer than two polls may be apart
            await subscription.complete([Completion(d) for d in taken])
            taken += await receive(subscription, 20)
            assert sorted(int(d.record.value) for d in taken) == list(range(30))
            await subscription.complete([Completion(d) for d in taken[10:]])
            assert await subscription.lag() == 0


async def test_with_all_brokers_gone_publishing_fails_in_time_and_works_again(
    own_broker: KafkaCluster,
) -> None:
    cluster = own_broker
    topic, to, group = await new_topic(cluster), await new_topic(cluster), token_hex(4)
    async with (
        connected(cluster, publish_timeout=3.0, request_timeout=1.0) as backend,
        working(backend, topic, to, group),
    ):
        await backend.publish(records(topic, range(50)))
        await until_finished(backend, topic, group)
        await asyncio.to_thread(cluster.kill)
        for attempt in range(2):
            begun = time.monotonic()
            with pytest.raises(UnavailableError, match="publish_timeout"):
                await backend.publish(records(topic, range(1_000 + attempt, 1_001 + attempt)))
            assert time.monotonic() - begun < 3 + 3
        await asyncio.to_thread(cluster.start)
        await until_available(lambda: backend.publish(records(topic, range(50, 100))))
        await until_finished(backend, topic, group)
        made = {d.record.id for d in await everything(backend, to, 100)}
    assert {f"id-{n}/made" for n in range(100)} <= made


async def test_a_stuck_client_is_noticed_and_replaced(own_broker: KafkaCluster) -> None:
    cluster = own_broker
    topic, group = await new_topic(cluster), token_hex(4)
    [node] = cluster.nodes
    async with connected(cluster, stall_timeout=1.0, publish_timeout=2.0, request_timeout=1.0) as backend:
        await backend.publish(records(topic, range(10)))
        async with backend.subscribe([topic], group=group, start="earliest") as subscription:
            taken = await receive(subscription, 10)
            await subscription.complete([Completion(d) for d in taken])
            node.process.send(signal.SIGSTOP)
            async with asyncio.timeout(30):
                with pytest.raises(UnavailableError, match="nothing received for"):
                    await subscription.receive(10)
            node.process.send(signal.SIGCONT)
            await until_available(lambda: backend.publish(records(topic, range(10, 20))))
            found: set[int] = set()
            async with asyncio.timeout(60):
                while not set(range(10, 20)) <= found:
                    try:
                        found |= {int(d.record.value) for d in await subscription.receive(10)}
                    except UnavailableError:
                        await asyncio.sleep(0.2)


async def test_publishing_and_subscribing_create_no_topic(own_broker: KafkaCluster) -> None:
    cluster = own_broker
    there, missing = await new_topic(cluster), f"missing-{token_hex(4)}"
    async with connected(cluster) as backend:
        with pytest.raises(TopicNotFoundError, match="eventml topics create"):
            await backend.publish([Record(missing, b"1")])
        with pytest.raises(TopicNotFoundError, match=missing):
            async with backend.subscribe([missing], group="g", start="earliest"):
                pass
        with pytest.raises(PublishError) as error:
            await backend.publish([Record(there, b"1", None, "one"), Record(missing, b"2")])
        assert list(error.value.failed) == [1]
        async with backend.subscribe([there], group=token_hex(4), start="earliest") as subscription:
            [delivery] = await receive(subscription, 1)
            with pytest.raises(TopicNotFoundError, match=missing):
                await subscription.complete([Completion(delivery, (Record(missing, b"3"),))])
        assert await backend.missing_topics([there, missing]) == [missing]


async def test_an_oversized_record_names_the_limit(kafka_broker: KafkaCluster) -> None:
    topic = await new_topic(kafka_broker, 1)
    async with connected(kafka_broker, max_request_size=50_000) as backend:
        small = [Record(topic, b"x" * 100, b"key", f"small-{n}") for n in range(20)]
        big = Record(topic, b"x" * 60_000, b"key", "big")
        with pytest.raises(PublishError, match=r"backend\.max_request_size") as error:
            await backend.publish([*small[:10], big, *small[10:]])
        assert list(error.value.failed) == [10]
        assert "60" in error.value.failed[10]
        assert [d.record.id for d in await everything(backend, topic, len(small))] == [r.id for r in small]


async def test_the_limit_of_a_topic_is_learnt_and_named(kafka_broker: KafkaCluster) -> None:
    """A topic refuses a batch that the client's own limit allows; the other records are written."""
    topic = f"topic-{token_hex(6)}"
    client = AdminClient({"bootstrap.servers": kafka_broker.bootstrap})
    created = client.create_topics([NewTopic(topic, 1, 1, config={"max.message.bytes": "20000"})])
    await asyncio.to_thread(created[topic].result, 20)
    async with connected(kafka_broker) as backend:
        small = [Record(topic, b"x" * 1_000, b"key", f"small-{n}") for n in range(60)]
        big = Record(topic, b"x" * 30_000, b"key", "big")
        for _ in range(2):
            with pytest.raises(PublishError, match=r"max\.message\.bytes") as error:
                await backend.publish([*small[:30], big, *small[30:]])
            assert list(error.value.failed) == [30]
            assert "20000" in error.value.failed[30]
        found = [d.record.id for d in await everything(backend, topic, len(small))]
    assert sorted(found) == sorted(2 * [record.id for record in small])


async def test_bytes_and_headers_of_any_kind_arrive_as_they_are(kafka_broker: KafkaCluster) -> None:
    topic = await new_topic(kafka_broker, 1)
    broken = Record(topic, b"\xff{not json", b"\x00\xff", "broken", {"note": "caf\udce9"})
    async with connected(kafka_broker) as backend:
        await backend.publish([broken])
        [delivery] = await everything(backend, topic, 1)
    assert delivery.record == broken


async def test_a_late_completion_of_a_former_assignment_is_ignored(kafka_broker: KafkaCluster) -> None:
    """A member that is slower than the drain must not commit for a partition that another member has."""
    topic, to, group = await new_topic(kafka_broker, 2), await new_topic(kafka_broker, 1), token_hex(4)
    async with connected(kafka_broker, drain=0.5) as backend:
        await backend.publish(records(topic, range(40)))
        async with backend.subscribe([topic], group=group, start="earliest") as slow:
            taken = await receive(slow, 40)
            async with backend.subscribe([topic], group=group, start="earliest") as other:
                again = await receive(other, 1)
                moved = [d for d in taken if d.partition == again[0].partition]
                again += await receive(other, len(moved) - 1)
                assert isinstance(slow, LosesDeliveries)
                await settled(slow, 1)  # until it has seen the rebalance it may publish what it has in flight
                assert [taken[p] for p in slow.lost_deliveries(taken)] == moved
                await slow.complete(outputs(moved, to))
                assert await lag(backend, topic, group) == 40
                assert await everything(backend, to, 0) == []
                await other.complete(outputs(again, to))
                assert await lag(backend, topic, group) == 40 - len(moved)
            stayed = [d for d in taken if d.partition != again[0].partition]
            await slow.complete(outputs(stayed, to))
            made = Counter(d.record.id for d in await everything(backend, to, 40))
    assert set(made.values()) == {1}
    assert len(made) == 40


async def test_the_restart_of_a_static_member_moves_no_partition(kafka_broker: KafkaCluster) -> None:
    topic, group = await new_topic(kafka_broker), token_hex(4)
    async with (
        connected(kafka_broker, group_instance_id="one") as backend,
        connected(kafka_broker, group_instance_id="two") as other,
        other.subscribe([topic], group=group, start="earliest") as stays,
    ):
        async with backend.subscribe([topic], group=group, start="earliest"):
            await settled(stays, 2)
            before = stays._member.assignment.version  # type: ignore[attr-defined] # ours
        async with backend.subscribe([topic], group=group, start="earliest") as again:
            await asyncio.sleep(1.0)
            assert stays._member.assignment.version == before  # type: ignore[attr-defined] # ours
            await backend.publish(records(topic, range(40)))
            found = await asyncio.gather(*(some(subscription) for subscription in (stays, again)))
    assert all(found), "both have partitions"


async def settled(subscription: Any, partitions: int) -> None:
    async with asyncio.timeout(20):
        while len(subscription._member.assignment.states) != partitions:
            await asyncio.sleep(0.05)


async def some(subscription: Subscription) -> list[Delivery]:
    return await receive(subscription, 1)
