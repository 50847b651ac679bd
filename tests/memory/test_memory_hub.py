"""What is particular to the in-memory backend: its bound, and its threads."""

from __future__ import annotations

import threading
import time
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint

from eventml.backends import memory
from eventml.backends.base import Completion
from eventml.backends.memory import Hub, Settings
from eventml.backends.memory.hub import Waiter
from eventml.errors import FullError
from eventml.records import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.backends.base import Subscription
    from eventml.records import Delivery

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])]


def records(topic: str, size: int, first: int = 0) -> list[Record]:
    return [Record(topic, b"%d" % n, b"key", f"{n}") for n in range(first, first + size)]


async def finish(subscription: Subscription, limit: int) -> list[str]:
    deliveries = await subscription.receive(limit)
    await subscription.complete([Completion(delivery) for delivery in deliveries])
    return [delivery.record.id for delivery in deliveries]


def small(publish_timeout: float = 30.0) -> Hub:
    return memory.Hub(memory.Settings(partitions=2, retention=10, publish_timeout=publish_timeout))


async def settled() -> None:
    for _ in range(20):
        await checkpoint()


async def test_a_partition_moves_once_what_is_in_flight_of_it_is_finished() -> None:
    """Its old owner gets no more of it meanwhile, however much there is: the new one need not wait long."""
    hub = memory.Hub(memory.Settings(partitions=2))
    await hub.publish([Record("t", b"", key, f"{key!r}-{n}") for n in range(20) for key in (b"a", b"d")])
    async with hub.subscribe(["t"], group="g", start="earliest") as old:
        first = [*await old.receive(1), *await old.receive(1)]
        assert {delivery.partition for delivery in first} == {0, 1}
        async with hub.subscribe(["t"], group="g", start="earliest") as new:
            stays = {delivery.partition for delivery in await old.receive(100)}
            assert len(stays) == 1
            with anyio.move_on_after(0.02) as scope:
                await new.receive(100)
            assert scope.cancelled_caught, "the old owner has one of it in hand"
            await old.complete([Completion(d) for d in first if d.partition not in stays])
            with anyio.fail_after(10):
                moved = await new.receive(100)
            assert {delivery.partition for delivery in moved} == {0, 1} - stays
            assert len(moved) == 19


async def test_a_publisher_waits_until_the_group_has_made_room() -> None:
    hub = small()
    written = anyio.Event()

    async def publish() -> None:
        await hub.publish(records("t", 5, first=10))
        written.set()

    async with hub.subscribe(["t"], group="g", start="earliest") as member:
        await hub.publish(records("t", 10))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publish)
            await settled()
            assert not written.is_set(), "the topic is at its bound"
            first = await finish(member, 5)
            with anyio.fail_after(10):
                await written.wait()
        rest = await finish(member, 20)
    assert [*first, *rest] == [f"{n}" for n in range(15)]


async def test_a_completion_waits_for_room_for_its_outputs() -> None:
    hub = small()
    await hub.publish(records("in", 1))
    async with (
        hub.subscribe(["out"], group="slow", start="earliest") as slow,
        hub.subscribe(["in"], group="g", start="earliest") as member,
    ):
        await hub.publish(records("out", 10))
        [delivery] = await member.receive(1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(member.complete, [Completion(delivery, [Record("out", b"", b"key", "late")])])
            await settled()
            assert await member.lag() == 1, "neither published nor acked"
            await finish(slow, 10)
        assert await member.lag() == 0
        assert await finish(slow, 10) == ["late"]


async def test_after_publish_timeout_the_slowest_group_is_named() -> None:
    hub = small(publish_timeout=0.05)
    async with (
        hub.subscribe(["t"], group="fast", start="earliest") as fast,
        hub.subscribe(["t"], group="stuck", start="earliest") as stuck,
    ):
        await hub.publish(records("t", 10))
        await finish(fast, 10)
        with pytest.raises(FullError, match=r"full: group 'stuck' .* for 0\.05 s.*retention") as full:
            await hub.publish(records("t", 1, first=10))
        assert full.value.failed == {}
        assert len(await finish(stuck, 20)) == 10, "nothing of the call was published"
        await hub.publish(records("t", 1, first=10))


async def test_where_nobody_reads_the_oldest_make_room() -> None:
    hub = small(publish_timeout=0.05)
    for first in range(0, 100, 5):
        await hub.publish(records("t", 5, first=first))
    async with hub.subscribe(["t"], group=None, start="earliest") as reader:
        kept = [delivery.record.id for delivery in await reader.receive(100)]
    assert kept == [f"{n}" for n in range(100 - len(kept), 100)]
    assert 5 <= len(kept) < 10 + 5, "the bound is exceeded by one write at most"


async def test_what_all_groups_have_finished_makes_room() -> None:
    hub = small(publish_timeout=0.05)
    async with hub.subscribe(["t"], group="g", start="earliest") as member:
        for first in range(0, 100, 5):
            await hub.publish(records("t", 5, first=first))
            assert await finish(member, 100) == [f"{n}" for n in range(first, first + 5)]


async def test_a_call_larger_than_the_bound_goes_in_whole() -> None:
    hub = small(publish_timeout=0.05)
    async with hub.subscribe(["t"], group="g", start="earliest") as member:
        await hub.publish(records("t", 50))
        assert len(await finish(member, 100)) == 50


async def test_what_is_dropped_is_the_oldest_of_every_partition() -> None:
    """A reader that is a little behind gets all, although nothing keeps the topic from dropping it."""
    hub = memory.Hub(memory.Settings(partitions=2, retention=20))
    keys = [b"a", b"d"]  # of different partitions
    async with hub.subscribe(["t"], group=None, start="latest") as reader:
        for first in range(0, 200, 4):
            await hub.publish([Record("t", b"", keys[n % 2], f"{n}") for n in range(first, first + 4)])
            if first % 8:
                received = [int(delivery.record.id) for delivery in await reader.receive(100)]
                assert sorted(received) == list(range(first - 4, first + 4))


async def test_a_busy_partition_does_not_keep_a_reader_from_the_others() -> None:
    hub = memory.Hub(memory.Settings(partitions=2))
    await hub.publish([Record("t", b"", key, f"{key!r}") for key in [b"a"] * 10 + [b"d"]])
    async with hub.subscribe(["t"], group=None, start="earliest") as reader:
        received = {delivery.partition for _ in range(2) for delivery in await reader.receive(2)}
    assert received == {0, 1}


async def test_a_busy_topic_does_not_keep_a_member_from_the_others() -> None:
    hub = memory.Hub(memory.Settings(partitions=1))
    await hub.publish([*records("busy", 10), *records("quiet", 1)])
    async with hub.subscribe(["busy", "quiet"], group="g", start="earliest") as member:
        received = {delivery.record.topic for _ in range(2) for delivery in await member.receive(2)}
    assert received == {"busy", "quiet"}


@pytest.mark.parametrize("group", ["g", None])
async def test_a_record_larger_than_a_read_is_not_kept_waiting_by_others(group: str | None) -> None:
    hub = memory.Hub(memory.Settings(partitions=2, max_bytes=100))
    await hub.publish([Record("t", bytes(1_000), b"d", "large"), Record("t", b"1", b"d", "behind")])
    received: list[str] = []
    async with hub.subscribe(["t"], group=group, start="earliest") as member:
        for turn in range(6):
            await hub.publish([Record("t", b"1", b"a", f"{turn}")])
            received += [delivery.record.id for delivery in await member.receive(10)]
    assert {"large", "behind"} <= {*received}


async def test_a_topic_of_large_records_does_not_keep_a_member_from_the_others() -> None:
    hub = memory.Hub(memory.Settings(partitions=1, max_bytes=100))
    await hub.publish([Record("busy", bytes(60), None, f"{n}") for n in range(10)] + records("quiet", 1))
    async with hub.subscribe(["busy", "quiet"], group="g", start="earliest") as member:
        received = {delivery.record.topic for _ in range(2) for delivery in await member.receive(5)}
    assert received == {"busy", "quiet"}


async def test_a_clock_that_is_set_back_changes_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = memory.Hub(memory.Settings(partitions=1))
    for number, now in enumerate([3.0, 1.0, 2.0]):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        await hub.publish(records("t", 1, number))
    async with hub.subscribe(["t"], group=None, start="earliest") as reader:
        assert [delivery.record.id for delivery in await reader.receive(10)] == ["0", "1", "2"]


async def test_a_member_that_joins_wakes_those_that_get_partitions() -> None:
    """The partitions that one member gives up are distributed again when another one joins."""
    hub = memory.Hub(memory.Settings(partitions=3))
    keys = {1: b"g", 2: b"b"}  # by partition
    async with hub.subscribe(["t"], group="g", start="earliest") as first, anyio.create_task_group() as tasks:
        await hub.publish([Record("t", b"", keys[2], "in flight")])
        [delivery] = await first.receive(1)
        assert delivery.partition == 2
        async with hub.subscribe(["t"], group="g", start="earliest") as second:
            received: list[str] = []

            async def receive() -> None:
                received.extend(delivery.record.id for delivery in await second.receive(10))

            tasks.start_soon(receive)
            await settled()
            await hub.publish([Record("t", b"", keys[1], "moves")])
            await settled()
            assert not received, "it is the first member's"
            async with hub.subscribe(["t"], group="g", start="earliest"):
                await settled()
                assert received == ["moves"]


async def test_a_reader_that_fell_behind_skips_what_was_dropped() -> None:
    hub = small()
    await hub.publish(records("t", 5))
    async with hub.subscribe(["t"], group=None, start="earliest") as reader:
        assert len(await reader.receive(2)) == 2
        for first in range(5, 50, 5):
            await hub.publish(records("t", 5, first=first))
        rest = [int(delivery.record.id) for delivery in await reader.receive(100)]
    assert rest == list(range(rest[0], 50))
    assert rest[0] > 2


async def test_cancelled_waits_leave_nothing_behind() -> None:
    """A receive that is cancelled again and again on a quiet topic does not fill the hub."""
    hub = small(publish_timeout=0.01)
    async with (
        hub.subscribe(["busy", "quiet"], group="g", start="earliest") as member,
        hub.subscribe(["busy", "quiet"], group=None, start="earliest") as reader,
    ):
        for n in range(50):
            for subscription in (member, reader):
                with anyio.move_on_after(0.0005):
                    await subscription.receive(1)
            await hub.publish(records("busy", 1, first=n))
            await finish(member, 10)
            await reader.receive(10)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(member.receive, 1)
            await settled()
            assert {topic: len(waiting) for topic, waiting in hub._receivers.items()} == {
                "busy": 1,
                "quiet": 1,
            }
            tasks.cancel_scope.cancel()
        assert not any(hub._receivers.values())
        await hub.publish(records("busy", 10, first=50))
        with pytest.raises(FullError):
            await hub.publish(records("busy", 1))
        assert not hub.publishers


async def test_many_threads_with_loops_of_their_own_share_a_hub() -> None:
    """Publishers and members in six threads, every other one under another event loop."""
    hub = memory.Hub(memory.Settings(partitions=4, retention=200))
    size, done, lock = 2_000, list[str](), threading.Lock()

    async def publish(thread: int) -> None:
        for first in range(0, size, 20):
            await hub.publish(
                [
                    Record("t", b"", b"%d" % (n % 16), f"{thread}-{n}")
                    for n in range(first, min(first + 20, size))
                ]
            )

    async def consume() -> None:
        async with hub.subscribe(["t"], group="g", start="earliest") as member:
            while len(done) < 3 * size:
                deliveries: Sequence[Delivery] = []
                with anyio.move_on_after(0.05):
                    deliveries = await member.receive(50)
                # Outside of the time limit: what is received and not completed waits until the member leaves.
                await member.complete([Completion(delivery) for delivery in deliveries])
                with lock:
                    done.extend(delivery.record.id for delivery in deliveries)

    loops = ("asyncio", "trio")
    async with hub.subscribe(["t"], group="g", start="earliest"):
        pass
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for thread in range(3):
                backend = loops[thread % 2]
                tasks.start_soon(to_thread.run_sync, partial(anyio.run, publish, thread, backend=backend))
                tasks.start_soon(to_thread.run_sync, partial(anyio.run, consume, backend=backend))
    assert sorted(done) == sorted(f"{thread}-{n}" for thread in range(3) for n in range(size))


async def test_a_waiter_is_woken_from_another_thread() -> None:
    waiter = Waiter()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(to_thread.run_sync, waiter.wake)
        with anyio.fail_after(10):
            await waiter.event.wait()


@pytest.mark.parametrize("ended", ["asyncio", "trio"])
async def test_waking_a_waiter_whose_loop_has_ended_is_harmless(ended: str) -> None:
    made: list[Waiter] = []

    async def make() -> None:
        made.append(Waiter())

    await to_thread.run_sync(partial(anyio.run, make, backend=ended))
    made[0].wake()


async def test_a_name_is_a_hub_for_as_long_as_the_process_lives() -> None:
    url, settings = f"memory://test-{token_hex(4)}", memory.Settings()
    async with memory.open(url, settings) as backend:
        await backend.publish(records("t", 3))
    async with memory.open(url, settings) as backend, memory.open(f"{url}-2", settings) as other:
        async with backend.subscribe(["t"], group="g", start="earliest") as member:
            assert len(await member.receive(10)) == 3
        assert await other.lag("t", group="g") is None


async def test_a_temporary_hub_is_forgotten() -> None:
    url, settings = "memory://test-temporary", memory.Settings()
    async with memory.temporary(url, settings) as hub, memory.open(url, settings) as same:
        assert same is hub
    async with memory.open(url, settings) as other:
        assert other is not hub


async def test_a_topic_is_bounded_in_bytes() -> None:
    """A group that falls behind holds publishers back; without one the oldest records are dropped."""
    hub = Hub(Settings(partitions=2, retention_bytes=10_000, publish_timeout=0.05))
    for number in range(50):
        await hub.publish([Record("free", bytes(1_000), None, f"{number}")])
    kept = [d.record.id for p in hub.topic("free").partitions for d in p.log]
    assert 5 <= len(kept) <= 10
    assert "49" in kept
    async with hub.subscribe(["read"], group="g", start="earliest") as member:
        await hub.publish([Record("read", bytes(9_000), b"key", "1")])
        await hub.publish([Record("read", bytes(9_000), b"key", "2")])
        with pytest.raises(FullError, match=r"'g'.*retention_bytes"):
            await hub.publish([Record("read", b"", None, "3")])
        await member.complete([Completion(delivery) for delivery in await member.receive(10)])
        await hub.publish([Record("read", b"", None, "3")])
