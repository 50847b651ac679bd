"""How much is read at once: bounded in bytes, and less where replies are lost. A lost reply is no attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventml
from eventml.backends import redis
from eventml.backends.redis.reader import ReadSize
from eventml.records import Record, count_bytes
from tests.redis import scene
from tests.redis.proxy import proxied

if TYPE_CHECKING:
    from backends.redis.server import RedisServer
    from eventml.backends.base import Subscription
    from eventml.records import Delivery
    from tests.brokers import StartRedis

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

LARGE = 64_000  # bytes of an entry
MOST = 500_000
SETTINGS = redis.Settings(lease=1.0, timeout=0.3, max_bytes=MOST)


def large_records(topic: str, count: int, size: int = LARGE) -> list[Record]:
    return [Record(topic, bytes(size), None, f"r{n}") for n in range(count)]


async def complete_all(member: Subscription, wanted: int) -> list[Delivery]:
    """All deliveries until so many came, each completed, in receives of bounded size."""
    taken: list[Delivery] = []
    with anyio.fail_after(2 * scene.PATIENCE):
        while len(taken) < wanted:
            deliveries = await scene.receive(member, 1_000)
            assert count_bytes(deliveries) <= MOST
            taken += deliveries
            await scene.complete(member, [eventml.backends.base.Completion(d) for d in deliveries])
    return taken


def outcome(deliveries: list[Delivery]) -> list[tuple[str, int]]:
    return sorted((d.record.id, d.attempt) for d in deliveries)


def each(records: list[Record], attempt: int = 1) -> list[tuple[str, int]]:
    return sorted((record.id, attempt) for record in records)


@given(
    sizes=st.lists(st.integers(1, 10**7), min_size=1, max_size=60),
    lost=st.lists(st.booleans(), min_size=1),
    limit=st.integers(1, 2_000),
)
def test_a_read_is_bounded_by_the_sizes_of_the_last_one(
    sizes: list[int], lost: list[bool], limit: int
) -> None:
    """Entries of one read have one size, which may be another one at each read."""
    size = ReadSize(MOST)
    last: int | None = None
    before = 0
    for turn, each_size in enumerate(sizes):
        asked = size.count(limit)
        assert 1 <= asked <= limit
        assert before == 0 or asked <= 2 * before
        if last is not None:
            assert asked == 1 or asked * last <= MOST
        before = asked
        if lost[turn % len(lost)]:
            size.failed(asked)
            assert size.count(limit) <= max(asked // 4, 1)
        else:
            size.succeeded(asked, asked, asked * each_size)
            last = each_size


def test_small_entries_are_read_in_full_after_a_few_reads() -> None:
    size = ReadSize(redis.Settings().max_bytes)
    reads = 0
    while (asked := size.count(1_024)) < 1_024:
        size.succeeded(asked, asked, asked * 300)
        reads += 1
    assert reads <= 7


async def test_large_entries_are_read_a_few_at_a_time(redis_server: RedisServer) -> None:
    topic = scene.new_topic()
    records = large_records(topic, 100)
    async with (
        redis.open(redis_server.url, SETTINGS) as backend,
        scene.asking(redis_server.url) as client,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        await backend.publish(records)
        taken: list[Delivery] = []
        while len(taken) < len(records):
            deliveries = await scene.receive(member, 1_000)
            assert count_bytes(deliveries) <= MOST
            taken += deliveries
            pending = (await client.xpending(topic, "group"))["pending"]
            assert (pending - len(taken)) * LARGE <= 2 * MOST, "it reads too far ahead"
    assert outcome(taken) == each(records)


async def test_several_topics_share_the_bound(redis_server: RedisServer) -> None:
    """COUNT is for each topic of a read, so what comes is a multiple of it."""
    topics = [scene.new_topic() for _ in range(12)]
    records = [record for topic in topics for record in large_records(topic, 40)]
    async with (
        redis.open(redis_server.url, SETTINGS) as backend,
        scene.asking(redis_server.url) as client,
        backend.subscribe(topics, group="group", start="earliest") as member,
    ):
        await backend.publish(records)
        taken: list[Delivery] = []
        while len(taken) < len(records):
            taken += await scene.receive(member, 1_000)
            pending = [(await client.xpending(topic, "group"))["pending"] for topic in topics]
            if len(taken) > len(records) // 2:  # it has seen by then how large they are
                assert (sum(pending) - len(taken)) * LARGE <= 2 * MOST, "it reads too far ahead"
    assert len(taken) == len(records)


async def test_entries_that_are_suddenly_large(redis_server: RedisServer) -> None:
    """A reply that is far too long is not read to its end: its entries come in parts, and lose no attempt."""
    topic = scene.new_topic()
    async with (
        redis.open(redis_server.url, SETTINGS) as backend,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        small = [Record(topic, b"small", None, f"s{n}") for n in range(2_000)]
        await backend.publish(small)
        assert outcome(await complete_all(member, len(small))) == each(small)
        records = large_records(topic, 100)
        await backend.publish(records)
        assert outcome(await complete_all(member, len(records))) == each(records)


async def test_a_slow_link(redis_server: RedisServer) -> None:
    """A reply may take longer than `timeout` if it is arriving."""
    topic = scene.new_topic()
    records = large_records(topic, 6, 450_000)
    settings = redis.Settings(timeout=0.2, max_bytes=MOST)
    async with (
        proxied(redis_server.url) as proxy,
        redis.open(redis_server.url, settings) as direct,
        redis.open(proxy.url, settings) as backend,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        proxy.bytes_per_second = 1_500_000
        await direct.publish(records)
        assert outcome(await complete_all(member, len(records))) == each(records)


async def test_a_reply_that_takes_longer_than_a_lease(redis_server: RedisServer) -> None:
    """Its entries are this member's own: it does not claim them from itself."""
    topic = scene.new_topic()
    records = large_records(topic, 3, 450_000)
    settings = redis.Settings(lease=0.5, max_bytes=MOST)
    async with (
        proxied(redis_server.url) as proxy,
        redis.open(redis_server.url, settings) as direct,
        redis.open(proxy.url, settings) as backend,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        proxy.bytes_per_second = 450_000
        await direct.publish(records)
        assert outcome(await complete_all(member, len(records))) == each(records)


async def test_a_servers_output_buffer_limit(start_redis: StartRedis) -> None:
    """The server closes connections that have much to receive. Everything comes in smaller parts, once."""
    server = start_redis()
    topic = scene.new_topic()
    records = large_records(topic, 100)
    settings = redis.Settings(lease=1.0)
    async with redis.open(server.url, settings) as backend, scene.asking(server.url) as client:
        await backend.publish(records)
        await client.config_set("client-output-buffer-limit", "normal 700000 0 0")
        async with backend.subscribe([topic], group="group", start="earliest") as member:
            taken: list[Delivery] = []
            with anyio.fail_after(scene.PATIENCE):
                while len(taken) < len(records):
                    taken += await scene.receive(member, 1_000)
            assert outcome(taken) == each(records)
        async with backend.subscribe([topic], group="group", start="earliest") as member:
            again: list[Delivery] = []
            with anyio.fail_after(scene.PATIENCE):
                while len(again) < len(records):
                    again += await scene.receive(member, 1_000)
        assert outcome(again) == each(records, attempt=2), "the first member left with all in flight"


async def test_claims_are_bounded_in_bytes(redis_server: RedisServer) -> None:
    topic = scene.new_topic()
    records = large_records(topic, 30)
    async with redis.open(redis_server.url, SETTINGS) as backend, scene.asking(redis_server.url) as client:
        await backend.publish([*records, Record(topic, bytes(3 * MOST), None, "larger")])
        async with (
            proxied(redis_server.url) as proxy,
            redis.open(proxy.url, SETTINGS) as dying,
            dying.subscribe([topic], group="group", start="earliest") as member,
        ):
            await scene.take(member, len(records) + 1)
            await proxy.kill()
        async with backend.subscribe([topic], group="group", start="earliest") as member:
            claimed: list[Delivery] = []
            with anyio.fail_after(scene.PATIENCE):
                while len(claimed) < len(records) + 1:
                    deliveries = await scene.receive(member, 1_000)
                    assert count_bytes(deliveries) <= MOST or len(deliveries) == 1
                    claimed += deliveries
            owners = {
                entry["consumer"] for entry in await client.xpending_range(topic, "group", "-", "+", 99)
            }
            assert len(owners) == 1
    assert outcome(claimed) == sorted([*each(records, attempt=2), ("larger", 2)])


async def test_a_member_that_leaves_after_a_lost_reply(redis_server: RedisServer) -> None:
    """No handler has had the entries of that reply."""
    topic = scene.new_topic()
    records = scene.new_records(topic, 5)
    async with (
        proxied(redis_server.url) as proxy,
        redis.open(redis_server.url, SETTINGS) as direct,
        redis.open(proxy.url, SETTINGS) as backend,
        scene.asking(redis_server.url) as client,
    ):
        async with backend.subscribe([topic], group="group", start="earliest") as member:
            proxy.swallow = lambda data: b"XREADGROUP" in data
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(scene.receive, member, 1)
                await direct.publish(records)
                await scene.until(lambda: proxy.swallowed, "no reply was lost")
                proxy.swallow = lambda data: b"release" in data or b"XREADGROUP" in data
                tasks.cancel_scope.cancel()
            assert (await client.xpending(topic, "group"))["pending"] == 1
        async with direct.subscribe([topic], group="group", start="earliest") as successor:
            assert outcome(await scene.take(successor, len(records))) == each(records)


async def test_a_slow_handler_bounds_what_its_worker_holds(redis_server: RedisServer) -> None:
    """Prefetched, waiting, in the call and being completed: together a few times `max_bytes`."""
    topic = scene.new_topic()
    called, go_on = anyio.Event(), anyio.Event()
    handled: list[int] = []
    bus = eventml.Bus("bytes")

    async def handle(batch: list[str]) -> None:
        called.set()
        await go_on.wait()
        handled.extend(map(len, batch))

    bus.consumer(topic, group="group", name="handle")(handle)
    records = [Record(topic, b'"%s"' % (b"x" * LARGE), None, f"r{n}") for n in range(100)]

    async def pending() -> Any:
        return (await client.xpending(topic, "group"))["pending"]

    async with redis.open(redis_server.url, SETTINGS) as backend, scene.asking(redis_server.url) as client:
        await backend.publish(records)
        async with scene.working(bus, redis_server.url, SETTINGS):
            await called.wait()
            held = -1
            while held != (held := await pending()):
                await anyio.sleep(0.2)
            assert held * LARGE <= 5 * MOST
            go_on.set()
            await scene.until(lambda: len(handled) == len(records), "not all were handled")
