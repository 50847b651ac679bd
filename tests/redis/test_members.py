"""Members that die, stall, are slow, are many, or join and leave: every input has one output."""

from __future__ import annotations

import gc
import logging
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import eventml
from eventml.backends import redis
from eventml.backends.base import LosesDeliveries
from eventml.backends.redis.leases import CONSUMER_PREFIX
from tests.redis import scene
from tests.redis.proxy import proxied

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backends.redis.server import RedisServer
    from eventml.backends.base import Subscription

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

LEASE = 0.6
SETTINGS = redis.Settings(lease=LEASE)


@contextmanager
def answering(url: str, topic: str, to: str, pause: float) -> Iterator[subprocess.Popen[str]]:
    """A worker process that has joined."""
    script = Path(__file__).with_name("answering.py")
    command = [sys.executable, str(script), url, topic, to, "group", str(LEASE), str(pause)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - ours
    try:
        assert said(process) == "joined"
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


async def answer_all(subscription: Subscription, client: Any, to: str, wanted: int) -> None:
    """Complete all deliveries until the output topic has so many records, from any member."""
    with anyio.move_on_after(scene.PATIENCE):
        while await client.xlen(to) < wanted:
            deliveries = []
            with anyio.move_on_after(0.05):
                deliveries = list(await scene.receive(subscription, 10))
            await scene.complete(subscription, scene.answers(deliveries, to))


async def test_a_killed_consumers_entries_are_answered_by_another(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    url, topic, to = redis_server.url, scene.new_topic(), scene.new_topic()
    records = scene.new_records(topic, 200)
    async with redis.open(url, SETTINGS) as backend, scene.asking(url) as client:
        with answering(url, topic, to, pause=0.05) as process:
            await backend.publish(records)
            for _ in range(4):
                said(process)  # three batches answered, one in flight
            process.send_signal(signal.SIGKILL)
            process.wait()
        before = await client.xlen(to)
        assert 0 < before < len(records)
        async with backend.subscribe([topic], group="group", start="earliest") as successor:
            await answer_all(successor, client, to, len(records))
            assert await successor.lag() == 0
        assert await scene.ids(client, to) == scene.answered(records)
        assert scene.logged(caplog, "claimed") > 0


async def test_a_stopped_consumer_that_continues_publishes_no_duplicates(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    url, topic, to = redis_server.url, scene.new_topic(), scene.new_topic()
    records = scene.new_records(topic, 200)
    async with redis.open(url, SETTINGS) as backend, scene.asking(url) as client:
        with answering(url, topic, to, pause=0.02) as process:
            await backend.publish(records)
            for _ in range(4):
                said(process)
            process.send_signal(signal.SIGSTOP)
            async with backend.subscribe([topic], group="group", start="earliest") as successor:
                await answer_all(successor, client, to, len(records))
                claimed = scene.logged(caplog, "claimed")
                process.send_signal(signal.SIGCONT)
                more = scene.new_records(topic, 100, start=len(records))
                await backend.publish(more)
                await answer_all(successor, client, to, len(records + more))
        assert claimed > 0, "nothing was pending for the stopped consumer, so the test shows nothing"
        assert await scene.ids(client, to) == scene.answered(records + more)
        assert await backend.lag(topic, group="group") == {0: 0}


async def test_a_renewal_does_not_claim_entries_back(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A member that was unresponsive past its lease leaves its entries to the member that claimed them."""
    caplog.set_level(logging.INFO)
    topic, to = scene.new_topic(), scene.new_topic()
    records = scene.new_records(topic, 10)

    async def owners() -> set[bytes]:
        return {entry["consumer"] for entry in await client.xpending_range(topic, "group", "-", "+", 100)}

    async with (
        proxied(redis_server.url) as proxy,
        redis.open(proxy.url, SETTINGS) as slow,
        redis.open(redis_server.url, SETTINGS) as backend,
        scene.asking(redis_server.url) as client,
        slow.subscribe([topic], group="group", start="earliest") as stalled,
        backend.subscribe([topic], group="group", start="earliest") as successor,
    ):
        await backend.publish(records)
        taken = await scene.take(stalled, 10)
        before = await owners()
        async with proxy.silence():
            claimed = await scene.take(successor, 10)
            after = await owners()
        assert before.isdisjoint(after)
        await anyio.sleep(2 * LEASE)  # renewals on both sides
        assert await owners() == after
        assert isinstance(stalled, LosesDeliveries)
        assert isinstance(successor, LosesDeliveries)
        assert stalled.lost_deliveries(taken) == list(range(10)), "none of them is to be called"
        assert successor.lost_deliveries(claimed) == ()
        await stalled.complete(scene.answers(taken[:5], to))
        await successor.complete(scene.answers(claimed, to))
        assert await scene.ids(client, to) == scene.answered(records)
        assert scene.logged(caplog, "others had completed them") == 5


async def test_a_handler_five_times_slower_than_its_lease_is_called_once(redis_server: RedisServer) -> None:
    topic, to = scene.new_topic(), scene.new_topic()
    calls: list[int] = []
    bus = eventml.Bus("slow")

    async def slow(batch: list[int]) -> list[dict[str, int]]:
        calls.extend(batch)
        await anyio.sleep(5 * LEASE)
        return [{"of": number} for number in batch]

    bus.predictor(topic, to=to, group="group", name="answer")(slow)
    records = scene.new_records(topic, 20)
    async with redis.open(redis_server.url, SETTINGS) as other, scene.asking(redis_server.url) as client:
        await other.publish(records)
        async with scene.working(bus, redis_server.url, SETTINGS) as worker:
            await scene.until(lambda: len(calls) == len(records), "not called")
            async with other.subscribe([topic], group="group", start="earliest") as rival:
                stolen: list[Any] = []
                with anyio.move_on_after(4 * LEASE):
                    stolen += await rival.receive(100)
                assert stolen == []
            await scene.until(lambda: worker.stats["answer"].completed == len(records), "not completed")
        assert sorted(calls) == list(range(len(records)))
        assert await scene.ids(client, to) == scene.once(f"{record.id}/answer" for record in records)
        assert await other.lag(topic, group="group") == {0: 0}


async def test_fifty_consumers_that_start_at_once_on_a_missing_topic(redis_server: RedisServer) -> None:
    topic, to = scene.new_topic(), scene.new_topic()
    records = scene.new_records(topic, 1_000)
    joined = 0
    all_joined = anyio.Event()

    async def consume() -> None:
        nonlocal joined
        async with (
            redis.open(redis_server.url, SETTINGS) as backend,
            backend.subscribe([topic], group="group", start="latest") as subscription,
        ):
            joined += 1
            if joined == 50:
                all_joined.set()
            while True:
                deliveries = await subscription.receive(10)
                await subscription.complete(scene.answers(deliveries, to))

    async with scene.asking(redis_server.url) as client, redis.open(redis_server.url, SETTINGS) as backend:
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(consume)
            with anyio.fail_after(scene.PATIENCE):
                await all_joined.wait()
            await backend.publish(records)
            await scene.until(lambda: _length_is(client, to, 1_000), "not all were answered")
            tasks.cancel_scope.cancel()
        assert await scene.ids(client, to) == scene.answered(records)
        assert len(await client.xinfo_groups(topic)) == 1
        names = [info["name"] for info in await client.xinfo_consumers(topic, "group")]
        assert set(names) <= {f"{CONSUMER_PREFIX}released".encode()}


async def _length_is(client: Any, topic: str, length: int) -> bool:
    return bool(await client.xlen(topic) == length)


async def test_pending_entries_that_were_trimmed_are_counted_and_acknowledged(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    topic, to = scene.new_topic(), scene.new_topic()
    records = scene.new_records(topic, 30)
    async with redis.open(redis_server.url, SETTINGS) as backend, scene.asking(redis_server.url) as client:
        await backend.publish(records)
        await client.xgroup_create(topic, "group", "0")
        await client.xreadgroup("group", "somebody who died", {topic: ">"}, count=20)
        await client.xtrim(topic, maxlen=18, approximate=False)  # r0 to r11, all pending
        async with backend.subscribe([topic], group="group", start="earliest") as successor:
            taken = await scene.take(successor, 18)
            await successor.complete(scene.answers(taken, to))
            await scene.until(lambda: _lag_is(successor, 0), "something is pending still")
        assert await scene.ids(client, to) == scene.answered(records[12:])
        assert scene.logged(caplog, "were removed from the topic") == 12


async def _lag_is(subscription: Subscription, lag: int) -> bool:
    return await subscription.lag() == lag


async def test_idle_consumers_with_nothing_pending_are_deleted(redis_server: RedisServer) -> None:
    topic = scene.new_topic()
    settings = redis.Settings(lease=0.05)
    async with redis.open(redis_server.url, settings) as backend, scene.asking(redis_server.url) as client:
        await backend.publish(scene.new_records(topic, 2))
        await client.xgroup_create(topic, "group", "0")
        await client.xgroup_createconsumer(topic, "group", f"{CONSUMER_PREFIX}dead")
        await client.xgroup_createconsumer(topic, "group", "foreign")
        async with backend.subscribe([topic], group="group", start="earliest") as member:
            taken = await scene.take(member, 2)

            async def names() -> set[bytes]:
                return {info["name"] for info in await client.xinfo_consumers(topic, "group")}

            async def deleted() -> bool:
                return f"{CONSUMER_PREFIX}dead".encode() not in await names()

            await scene.until(deleted, "the idle consumer was not deleted")
            assert b"foreign" in await names()
            assert len(taken) == await member.lag() == 2


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_hundreds_of_starts_and_stops_leave_nothing_behind(redis_server: RedisServer) -> None:
    topic, to = scene.new_topic(), scene.new_topic()
    sizes: dict[int, int] = {}
    async with redis.open(redis_server.url, SETTINGS) as backend, scene.asking(redis_server.url) as client:
        await backend.publish([])
        await backend.lag(topic, group="group")
        connections = (await client.info("clients"))["connected_clients"]
        for number in range(400):
            await backend.publish(scene.new_records(topic, 3, start=3 * number))
            async with (
                redis.open(redis_server.url, SETTINGS) as mine,
                mine.subscribe([topic], group="group", start="earliest") as member,
            ):
                taken = await scene.take(member, 3)
                await member.complete(scene.answers(taken, to))
            if number in (100, 399):
                gc.collect()
                sizes[number] = len(gc.get_objects())
        assert await scene.ids(client, to) == scene.answered(scene.new_records(topic, 1_200))
        assert (await client.info("clients"))["connected_clients"] == connections
        assert len(await client.xinfo_consumers(topic, "group")) <= 1
        assert sizes[399] < sizes[100] + 600
