"""The ids that a group has recorded, in a sorted set in the topic's slot: bounded and exact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from eventml.backends import redis
from eventml.backends.base import Completion
from eventml.backends.redis.completion import COMPLETE, MAX_COMPLETIONS
from eventml.errors import BackendError, UnsupportedError
from tests.redis import scene
from tests.redis.proxy import proxied
from tests.redis.test_access import PASSWORDS
from tests.redis.test_cluster import SETTINGS, cluster
from tests.redis.test_lost_replies import TIMES, sometimes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from backends.redis.server import RedisServer
    from eventml.records import Delivery
    from tests.brokers import StartRedis

__all__ = ["cluster"]  # a fixture

pytestmark = [pytest.mark.anyio, pytest.mark.redis]


def deduplicated(deliveries: Iterable[Delivery], to: str) -> list[Completion]:
    """As `scene.answers`, with deduplication."""
    return [Completion(c.delivery, c.outputs, "drop") for c in scene.answers(deliveries, to)]


async def test_the_set_holds_no_more_than_the_window(redis_server: RedisServer) -> None:
    """However many completions one call of the script has."""
    topic, to, size = scene.new_topic(), scene.new_topic(), 3 * MAX_COMPLETIONS
    records = scene.new_records(topic, size)
    async with (
        redis.open(redis_server.url, redis.Settings()) as backend,
        scene.asking(redis_server.url) as client,
        backend.subscribe_deduplicated([topic], group="group", start="earliest", window=100) as member,
    ):
        await backend.publish(records)
        taken = await scene.take(member, size)
        await member.complete(deduplicated(taken[:10], to))
        assert await client.zcard(f"{topic}.group.seen") == 10
        await member.complete(deduplicated(taken[10:], to))
        held = await client.zrange(f"{topic}.group.seen", 0, -1)
        assert [id_.decode() for id_ in held] == [record.id for record in records[-100:]]
        assert await scene.ids(client, to) == scene.answered(records)


async def pending(client: Any, topic: str, count: int) -> bool:
    return bool((await client.xpending(topic, "group"))["pending"] == count)


async def test_the_second_of_two_deliveries_with_one_id_publishes_nothing(
    redis_server: RedisServer,
) -> None:
    topic, to = scene.new_topic(), scene.new_topic()
    records = scene.new_records(topic, 50)
    async with (
        redis.open(redis_server.url, redis.Settings()) as one,
        redis.open(redis_server.url, redis.Settings()) as other,
        scene.asking(redis_server.url) as client,
        one.subscribe_deduplicated([topic], group="group", start="earliest", window=100) as first,
        other.subscribe_deduplicated([topic], group="group", start="earliest", window=100) as second,
    ):
        await one.publish(records)
        mine = await scene.take(first, 50)
        await one.publish(scene.new_records(topic, 1, start=50))
        # The first member reads it ahead, and then no more.
        await scene.until(lambda: pending(client, topic, 51), "nothing was read ahead")
        await one.publish(records)
        twins = await scene.take(second, 50)
        assert {d.record.id for d in twins} == {record.id for record in records}
        assert not await second.completed_before(twins)
        await first.complete(deduplicated(mine, to))
        await second.complete(deduplicated(twins, to))
        assert sorted(await second.completed_before(twins)) == list(range(50))
        assert await scene.ids(client, to) == scene.answered(records)
        assert await second.lag() == 1


async def test_repeating_after_a_lost_reply_duplicates_and_loses_nothing(redis_server: RedisServer) -> None:
    """Repeating a completion that was executed adds nothing."""
    topic, to = scene.new_topic(), scene.new_topic()
    records = scene.new_records(topic, 500)
    async with (
        proxied(redis_server.url) as proxy,
        redis.open(proxy.url, redis.Settings(timeout=0.5)) as backend,
        scene.asking(redis_server.url) as client,
    ):
        await backend.publish(records)
        proxy.swallow = sometimes(COMPLETE.digest.encode())
        async with backend.subscribe_deduplicated(
            [topic], group="group", start="earliest", window=1_000
        ) as member:
            for _ in range(0, len(records), 5):
                await scene.complete(member, deduplicated(await scene.take(member, 5), to))
            assert await member.lag() == 0
        assert proxy.swallowed >= TIMES
        assert await scene.ids(client, to) == scene.answered(records)
        assert await client.zcard(f"{topic}.group.seen") == len(records)


async def test_a_key_that_is_no_sorted_set_fails_before_any_ack(redis_server: RedisServer) -> None:
    topic, to = scene.new_topic(), scene.new_topic()
    async with (
        redis.open(redis_server.url, redis.Settings()) as backend,
        scene.asking(redis_server.url) as client,
        backend.subscribe_deduplicated([topic], group="group", start="earliest", window=100) as member,
    ):
        await client.set(f"{topic}.group.seen", "a string")
        await backend.publish(scene.new_records(topic, 3))
        taken = await scene.take(member, 3)
        with pytest.raises(BackendError):
            await member.complete(deduplicated(taken, to))
        assert await member.lag() == 3
        await client.delete(f"{topic}.group.seen")
        await member.complete(deduplicated(taken, to))
        assert await member.lag() == 0


async def test_a_consumers_rights_are_enough(start_redis: StartRedis) -> None:
    server = start_redis(passwords=PASSWORDS)
    topic, to = scene.new_topic(), scene.new_topic()
    async with (
        redis.open(server.url_for("producer"), redis.Settings()) as producer,
        redis.open(server.url_for("consumer"), redis.Settings()) as consumer,
        consumer.subscribe_deduplicated([topic], group="group", start="earliest", window=2) as member,
    ):
        await producer.publish(scene.new_records(topic, 3) * 2)
        taken = await scene.take(member, 6)
        await member.complete(deduplicated(taken, to))
        assert list(await member.completed_before(taken[:3])) == [1, 2]


async def test_on_a_cluster_the_topic_needs_a_hash_tag(cluster: Sequence[RedisServer]) -> None:
    topic = f"{{{scene.new_topic()}}}.started"
    async with (
        redis.open(cluster[1].url, SETTINGS) as backend,
        backend.subscribe_deduplicated([topic], group="group", start="earliest", window=10) as member,
    ):
        await backend.publish(scene.new_records(topic, 5))
        taken = await scene.take(member, 5)
        await member.complete(deduplicated(taken, f"{topic}.answers"))
        assert sorted(await member.completed_before(taken)) == list(range(5))
    async with redis.open(cluster[1].url, SETTINGS) as backend:
        with pytest.raises(UnsupportedError, match=r"dedupe_window: .* hash tag, as in '{rides}.started'"):
            async with backend.subscribe_deduplicated(
                ["rides.started"], group="g", start="earliest", window=1
            ):
                pass
