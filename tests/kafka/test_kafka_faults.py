"""What goes wrong with brokers and members, and what is left of it: counted."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import time
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import pytest

from eventml.backends.base import Completion
from eventml.errors import PublishError, TopicNotFoundError, UnavailableError
from eventml.records import Record
from tests.kafka.conftest import connected, everything, lag, new_topic, until_finished

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from backends.kafka.cluster import KafkaCluster
    from eventml.backends.base import Subscription
    from eventml.backends.kafka.backend import KafkaBackend
    from eventml.records import Delivery
    from tests.brokers import StartKafka
    from tests.kafka.conftest import StartWorker

pytestmark = [pytest.mark.anyio, pytest.mark.kafka]


def records(topic: str, ids: range, keys: int = 40) -> list[Record]:
    return [Record(topic, b"%d" % n, b"%d" % (n % keys), f"id-{n}") for n in ids]


async def receive(subscription: Subscription, count: int, limit: int = 100) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            found += await subscription.receive(min(limit, count - len(found)))
    return found


def outputs(deliveries: list[Delivery], to: str) -> list[Completion]:
    return [
        Completion(d, (Record(to, d.record.value, d.record.key, f"{d.record.id}/made"),)) for d in deliveries
    ]


async def complete(subscription: Subscription, done: list[Completion]) -> None:
    while True:
        try:
            await subscription.complete(done)
        except UnavailableError:
            await asyncio.sleep(0.1)
        else:
            return


async def work(
    subscription: Subscription, to: str, seen: Callable[[Delivery], None] = lambda _: None
) -> None:
    while True:
        try:
            taken = list(await subscription.receive(50))
        except UnavailableError:
            await asyncio.sleep(0.1)
            continue
        for delivery in taken:
            seen(delivery)
        await asyncio.sleep(0.01)
        await complete(subscription, outputs(taken, to))


@asynccontextmanager
async def working(
    backend: KafkaBackend, topic: str, to: str, group: str, seen: Callable[[Delivery], None] = lambda _: None
) -> AsyncIterator[asyncio.Task[None]]:
    """A member at work while this is entered."""
    async with backend.subscribe([topic], group=group, start="earliest") as subscription:
        task = asyncio.create_task(work(subscription, to, seen))
        yield task
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
async def test_members_join_and_leave_for_a_minute(kafka_broker: KafkaCluster, delivery: str) -> None:
    topic, to, group = await new_topic(kafka_broker, 8), await new_topic(kafka_broker, 8), token_hex(4)
    published, rebalances, over = 0, 0, time.monotonic() + 60
    handled: defaultdict[bytes | None, list[int]] = defaultdict(list)

    def seen(delivery: Delivery) -> None:
        handled[delivery.record.key].append(int(delivery.record.value))

    async def join_and_leave(stay: random.Random) -> None:
        nonlocal rebalances
        while time.monotonic() < over:
            async with (
                connected(kafka_broker, delivery=delivery) as backend,
                working(backend, topic, to, group, seen),
            ):
                rebalances += 2
                await asyncio.sleep(stay.uniform(2, 6))

    async with connected(kafka_broker) as backend:

        async def publish() -> None:
            nonlocal published
            while time.monotonic() < over:
                await backend.publish(records(topic, range(published, published + 100)))
                published += 100
                await asyncio.sleep(0.05)

        await asyncio.gather(publish(), *(join_and_leave(random.Random(seed)) for seed in range(3)))
        async with connected(kafka_broker, delivery=delivery) as last, working(last, topic, to, group, seen):
            await until_finished(backend, topic, group)
        made = Counter(d.record.id for d in await everything(backend, to))
    assert rebalances >= 20
    assert set(made) == {f"id-{n}/made" for n in range(published)}
    if delivery == "exactly_once":
        assert set(made.values()) == {1}
    for key, numbers in handled.items():
        first = list(dict.fromkeys(numbers))
        assert first == sorted(first), f"key {key!r} was handled out of order"


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
        made = Counter(d.record.id for d in await everything(backend, to))
    assert 0 < left < 2_000
    assert set(made) == {f"id-{n}/made" for n in range(2_000)}
    # At most what it had in hand and had not committed: a batch or two.
    assert sum(made.values()) - len(made) <= 100


async def test_a_handler_slower_than_the_poll_interval_stays_a_member(kafka_broker: KafkaCluster) -> None:
    topic, group = await new_topic(kafka_broker), token_hex(4)
    async with connected(kafka_broker, max_poll_interval=1.5, stall_timeout=1.0) as backend:
        await backend.publish(records(topic, range(30)))
        async with backend.subscribe([topic], group=group, start="earliest") as subscription:
            taken = await receive(subscription, 10, limit=10)
            await asyncio.sleep(6)  # four times what is allowed between two polls
            await subscription.complete([Completion(d) for d in taken])
            taken += await receive(subscription, 20)
            assert sorted(int(d.record.value) for d in taken) == list(range(30))
            await subscription.complete([Completion(d) for d in taken[10:]])
            assert await subscription.lag() == 0


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_rolling_restart_loses_nothing(kafka_cluster: KafkaCluster) -> None:
    topic = await new_topic(kafka_cluster, 6, replication=3)
    to = await new_topic(kafka_cluster, 6, replication=3)
    group, stop = token_hex(4), asyncio.Event()
    acknowledged: list[str] = []
    handled: list[float] = []

    async with connected(kafka_cluster) as backend, connected(kafka_cluster) as producer:

        async def publish() -> None:
            start = 0
            while not stop.is_set():
                some = records(topic, range(start, start + 20))
                start += 20
                try:
                    await producer.publish(some)
                except UnavailableError:
                    continue
                acknowledged.extend(record.id for record in some)
                await asyncio.sleep(0.02)

        async with working(backend, topic, to, group, lambda _: handled.append(time.monotonic())):
            publishing = asyncio.create_task(publish())
            await asyncio.sleep(3)
            for node in kafka_cluster.nodes:
                await asyncio.to_thread(node.stop)
                await asyncio.sleep(1)
                await asyncio.to_thread(kafka_cluster.start)
                await asyncio.to_thread(kafka_cluster.wait_until_in_sync)
                await asyncio.sleep(1)
            stop.set()
            await publishing
            await until_finished(backend, topic, group)
        made = {d.record.id for d in await everything(backend, to)}
    gaps = [later - earlier for earlier, later in itertools.pairwise(handled)]
    assert len(acknowledged) > 500
    assert {f"{id_}/made" for id_ in acknowledged} <= made
    assert max(gaps) < 30, "consumption was not back within 30 s"


@pytest.mark.slow
@pytest.mark.timeout(200)
async def test_with_all_brokers_gone_publishing_fails_in_time_and_works_again(
    start_kafka: StartKafka,
) -> None:
    cluster = start_kafka()
    topic, to, group = await new_topic(cluster), await new_topic(cluster), token_hex(4)
    async with (
        connected(cluster, publish_timeout=4.0, request_timeout=2.0) as backend,
        working(backend, topic, to, group),
    ):
        await backend.publish(records(topic, range(50)))
        await until_finished(backend, topic, group)
        await asyncio.to_thread(cluster.kill)
        for attempt in range(3):
            begun = time.monotonic()
            with pytest.raises(UnavailableError, match="publish_timeout"):
                await backend.publish(records(topic, range(1_000 + attempt, 1_001 + attempt)))
            assert time.monotonic() - begun < 4 + 3
        await asyncio.to_thread(cluster.start)
        async with asyncio.timeout(60):
            while True:
                try:
                    await backend.publish(records(topic, range(50, 100)))
                    break
                except UnavailableError:
                    await asyncio.sleep(0.2)
        await until_finished(backend, topic, group)
        made = {d.record.id for d in await everything(backend, to)}
    assert {f"id-{n}/made" for n in range(100)} <= made


@pytest.mark.slow
@pytest.mark.timeout(200)
async def test_a_stuck_client_is_noticed_and_replaced(start_kafka: StartKafka) -> None:
    cluster = start_kafka()
    topic, group = await new_topic(cluster), token_hex(4)
    [node] = cluster.nodes
    async with connected(cluster, stall_timeout=2.0, publish_timeout=3.0, request_timeout=2.0) as backend:
        await backend.publish(records(topic, range(10)))
        async with backend.subscribe([topic], group=group, start="earliest") as subscription:
            taken = await receive(subscription, 10)
            await subscription.complete([Completion(d) for d in taken])
            node.process.send(signal.SIGSTOP)
            async with asyncio.timeout(30):
                with pytest.raises(UnavailableError, match="nothing received for"):
                    await subscription.receive(10)
            node.process.send(signal.SIGCONT)
            await until(lambda: backend.publish(records(topic, range(10, 20))))
            found: set[int] = set()
            async with asyncio.timeout(60):
                while not set(range(10, 20)) <= found:
                    try:
                        found |= {int(d.record.value) for d in await subscription.receive(10)}
                    except UnavailableError:
                        await asyncio.sleep(0.2)


async def until(act: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await act()
            except UnavailableError:
                await asyncio.sleep(0.2)
            else:
                return


async def test_nothing_is_created_by_accident(start_kafka: StartKafka) -> None:
    cluster = start_kafka(settings={"auto.create.topics.enable": "true"})
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
        assert [d.record.id for d in await everything(backend, topic)] == [r.id for r in small]


async def test_a_topics_own_limit_is_learnt_and_named(start_kafka: StartKafka) -> None:
    """The broker refuses what the client would let pass; the batch around it goes out all the same."""
    cluster = start_kafka(settings={"message.max.bytes": "20000"})
    topic = await new_topic(cluster, 1)
    async with connected(cluster) as backend:
        small = [Record(topic, b"x" * 1_000, b"key", f"small-{n}") for n in range(60)]
        big = Record(topic, b"x" * 30_000, b"key", "big")
        for _ in range(2):
            with pytest.raises(PublishError, match=r"max\.message\.bytes") as error:
                await backend.publish([*small[:30], big, *small[30:]])
            assert list(error.value.failed) == [30]
            assert "20000" in error.value.failed[30]
        found = [d.record.id for d in await everything(backend, topic)]
    assert found == 2 * [record.id for record in small]


async def test_bytes_and_headers_of_any_kind_arrive_as_they_are(kafka_broker: KafkaCluster) -> None:
    topic = await new_topic(kafka_broker, 1)
    broken = Record(topic, b"\xff{not json", b"\x00\xff", "broken", {"note": "caf\udce9"})
    async with connected(kafka_broker) as backend:
        await backend.publish([broken])
        [delivery] = await everything(backend, topic)
    assert delivery.record == broken


async def test_a_late_completion_of_a_former_assignment_is_passed_over(kafka_broker: KafkaCluster) -> None:
    """A member that held on for too long must not move the group's place: it is another's by then."""
    topic, to, group = await new_topic(kafka_broker, 2), await new_topic(kafka_broker, 1), token_hex(4)
    async with connected(kafka_broker, drain=0.5) as backend:
        await backend.publish(records(topic, range(40)))
        async with backend.subscribe([topic], group=group, start="earliest") as slow:
            taken = await receive(slow, 40)
            async with backend.subscribe([topic], group=group, start="earliest") as heir:
                again = await receive(heir, 1)
                moved = [d for d in taken if d.partition == again[0].partition]
                again += await receive(heir, len(moved) - 1)
                await slow.complete(outputs(moved, to))
                assert await lag(backend, topic, group) == 40
                assert await everything(backend, to) == []
                await heir.complete(outputs(again, to))
                assert await lag(backend, topic, group) == 40 - len(moved)
            stayed = [d for d in taken if d.partition != again[0].partition]
            await slow.complete(outputs(stayed, to))
            made = Counter(d.record.id for d in await everything(backend, to))
    assert set(made.values()) == {1}
    assert len(made) == 40


async def test_a_static_member_that_restarts_disturbs_nobody(kafka_broker: KafkaCluster) -> None:
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
    assert all(found), "each has its partitions"


async def settled(subscription: Any, partitions: int) -> None:
    async with asyncio.timeout(20):
        while len(subscription._member.assignment.partitions) != partitions:
            await asyncio.sleep(0.05)


async def some(subscription: Subscription) -> list[Delivery]:
    return await receive(subscription, 1)
