"""Members that die, come and go, or are slow, and records that cannot be: every input has its answer."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from eventml import PublishError, Record, UnavailableError
from eventml.errors import TopicNotFoundError
from tests.kafka.scene import Scene

if TYPE_CHECKING:
    from backends.kafka.cluster import KafkaCluster

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


async def publish_steadily(scene: Scene, numbers: range, pause: float) -> None:
    async with scene.connect() as backend:
        for start in range(numbers.start, numbers.stop, 50):
            await backend.publish(scene.records(range(start, min(start + 50, numbers.stop))))
            await anyio.sleep(pause)


async def test_members_that_come_and_go_lose_nothing_and_keep_the_order(kafka_broker: KafkaCluster) -> None:
    scene, count = Scene(kafka_broker.url), 8_000
    await scene.create()
    chance = random.Random(5)

    async def come_and_go(seconds: float) -> None:
        await anyio.sleep(chance.random())
        for _ in range(4):
            async with scene.working(pause=0.01):
                await anyio.sleep(seconds * (0.5 + chance.random()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish_steadily, scene, range(count), 0.1)
        for seconds in (2.0, 2.5, 3.0):
            tasks.start_soon(come_and_go, seconds)
    async with scene.working():
        await scene.collect(set(range(count)))
    assert len(scene.answers) == count
    assert scene.in_order()
    repeated = sum(scene.answers.values()) - count
    assert repeated <= 8 * 100 * 12  # what was in hand at a rebalance, at most: all ids repeat


async def test_killed_worker_loses_nothing_and_repeats_what_was_in_hand_at_most(
    kafka_broker: KafkaCluster,
) -> None:
    scene, count = Scene(f"{kafka_broker.url}?session_timeout=6&heartbeat_interval=1"), 3_000
    await scene.create()
    async with scene.connect() as backend:
        await backend.publish(scene.records(range(count)))
    for _ in range(3):
        with scene.process(pause=0.05) as worker:
            await anyio.sleep(1.0)
            worker.kill()
    async with scene.working():
        await scene.collect(set(range(count)))
    assert len(scene.answers) == count
    assert sum(scene.answers.values()) - count <= 3 * 8 * 100


async def test_handler_slower_than_the_poll_interval_keeps_its_membership(kafka_broker: KafkaCluster) -> None:
    scene = Scene(f"{kafka_broker.url}?max_poll_interval=2", partitions=2)
    await scene.create()
    async with scene.connect() as backend:
        await backend.publish(scene.records(range(20)))
    async with scene.working(pause=5.0), scene.working(pause=5.0):
        await scene.collect(set(range(20)))
    assert set(scene.answers.values()) == {1}


async def test_unknown_topic_is_refused_with_the_command_that_creates_it(kafka_broker: KafkaCluster) -> None:
    scene = Scene(kafka_broker.url)
    async with scene.connect() as backend:
        with pytest.raises(TopicNotFoundError, match="eventml topics create"):
            await backend.publish(scene.records([1]))
        with pytest.raises(TopicNotFoundError, match=scene.topic):
            async with backend.subscribe([scene.topic], group="nobody", start="earliest"):
                pytest.fail("it must not be joined")


async def test_oversized_record_is_refused_by_name_and_costs_itself_only(kafka_broker: KafkaCluster) -> None:
    scene = Scene(kafka_broker.url)
    await scene.create()
    good, big = scene.records([1, 2]), Record(scene.topic, b"x" * 3_000_000, id="big")
    async with scene.connect() as backend:
        with pytest.raises(
            PublishError, match=r"max_request_size|message\.max\.bytes|max\.message\.bytes"
        ) as caught:
            await backend.publish([good[0], big, good[1]])
        assert set(caught.value.failed) == {1}
    async with scene.working():
        await scene.collect({1, 2})


async def test_lag_counts_down_by_partition(kafka_broker: KafkaCluster) -> None:
    scene = Scene(kafka_broker.url, partitions=2)
    await scene.create()
    async with scene.connect() as backend:
        await backend.publish(scene.records(range(100)))
        async with scene.working():
            await scene.collect(set(range(100)))
        lag = await backend.lag(scene.topic, group=f"{scene.name}.echo")
    assert lag == {0: 0, 1: 0}


@pytest.mark.slow
async def test_rolling_restart_under_load_loses_nothing_acknowledged(kafka_cluster: KafkaCluster) -> None:
    scene = Scene(kafka_cluster.url)
    await scene.create()
    published: set[int] = set()
    done = False

    async def load() -> None:
        number = 0
        async with scene.connect() as backend:
            while not done:
                batch = range(number, number + 20)
                await backend.publish(scene.records(batch))
                published.update(batch)
                number += 20
                await anyio.sleep(0.05)

    async with scene.working(), anyio.create_task_group() as tasks:
        tasks.start_soon(load)
        for node in kafka_cluster.nodes:
            await anyio.sleep(2)
            await anyio.to_thread.run_sync(node.restart)
            await anyio.to_thread.run_sync(kafka_cluster.wait_until_in_sync)
        done = True
    async with scene.working():
        await scene.collect(published, seconds=30)  # consumption is back within 30 s
    assert len(published) > 200
    assert published <= {int(number) for number in scene.answers}


@pytest.mark.slow
async def test_all_brokers_gone_fails_by_the_deadline_and_then_works_again(start_kafka: Any) -> None:
    kafka = start_kafka()
    scene = Scene(f"{kafka.url}?publish_timeout=4")
    await scene.create()
    async with scene.working(), scene.connect() as backend:
        await backend.publish(scene.records([1]))
        await anyio.to_thread.run_sync(kafka.stop)
        with anyio.fail_after(15), pytest.raises(UnavailableError):
            await backend.publish(scene.records([2]))
        await anyio.to_thread.run_sync(kafka.start)
        with anyio.fail_after(60):
            while True:
                with contextlib.suppress(UnavailableError):  # it may take some attempts to find the brokers
                    await backend.publish(scene.records([3]))
                    break
        await scene.collect({1, 3})


@pytest.mark.slow
async def test_exactly_once_through_kills_between_produce_and_commit(kafka_broker: KafkaCluster) -> None:
    settings = "session_timeout=6&heartbeat_interval=0.5&transaction_timeout=10"
    scene, count = Scene(f"{kafka_broker.url}?delivery=exactly_once&{settings}", partitions=2), 4_000
    await scene.create()
    async with scene.connect() as backend:
        await backend.publish(scene.records(range(count)))
    chance = random.Random(3)
    for _ in range(8):
        with scene.process(pause=0.02) as worker:
            await anyio.sleep(0.5 + chance.random())
            worker.kill()
    async with scene.working():
        await scene.collect(set(range(count)), seconds=120)
    assert len(scene.answers) == count
    assert set(scene.answers.values()) == {1}
