"""Starting at a time, and readers that end, where the server's ids and removed entries make a difference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.backends import redis
from eventml.backends.redis.reader import BLOCK
from eventml.backends.redis.wire import id_before, ordered
from tests.redis import scene
from tests.redis.proxy import proxied

if TYPE_CHECKING:
    from backends.redis.server import RedisServer


@given(st.integers(1, 4_000_000_000_000), st.integers(0, 3))
def test_the_timestamp_of_an_entry_is_a_start_that_includes_it(milliseconds: int, sequence: int) -> None:
    before = ordered(id_before(milliseconds / 1000))
    assert before < (milliseconds, sequence)
    assert before >= (milliseconds - 1, 1 << 60)


@pytest.mark.parametrize("start", ["earliest", 0.0, -1.5])
def test_everything_is_after_the_epoch(start: Any) -> None:
    assert id_before(start) == "0-0"


@pytest.mark.anyio
@pytest.mark.redis
@pytest.mark.parametrize("left", [0, 3])
async def test_a_reader_ends_where_the_last_entries_were_removed(
    redis_server: RedisServer, left: int
) -> None:
    topic = scene.new_topic()
    async with (
        redis.open(redis_server.url, redis.Settings()) as backend,
        scene.asking(redis_server.url) as client,
        backend.subscribe([topic], group=None, start="earliest") as reader,
    ):
        await backend.publish(scene.new_records(topic, 10))
        bounded: Any = reader
        await bounded.stop_at("latest")
        entries = [entry for entry, _ in await client.xrange(topic)]
        await client.xdel(topic, *entries[left:])
        with anyio.fail_after(5):
            found = [d.record.id for d in await reader.receive(100)] if left else []
            assert found == [f"r{number}" for number in range(left)]
            assert not await reader.receive(100)


@pytest.mark.anyio
@pytest.mark.redis
async def test_a_reader_with_an_end_may_take_long_to_connect(redis_server: RedisServer) -> None:
    """Longer than a read waits for new records, and less than `timeout`."""
    topic = scene.new_topic()
    async with (
        proxied(redis_server.url) as proxy,
        redis.open(proxy.url, redis.Settings()) as backend,
        backend.subscribe([topic], group=None, start="earliest") as reader,
    ):
        await backend.publish(scene.new_records(topic, 3))
        bounded: Any = reader
        await bounded.stop_at("latest")
        proxy.connecting = 1.3 * BLOCK / 1_000
        with anyio.fail_after(10):
            assert [d.record.id for d in await reader.receive(100)] == ["r0", "r1", "r2"]
            assert not await reader.receive(100)


@pytest.mark.anyio
@pytest.mark.redis
async def test_lag_of_a_group_that_starts_at_a_time_is_known(redis_server: RedisServer) -> None:
    """The server does not know how many entries are before the start, and none of them counts as lost."""
    topic = scene.new_topic()
    async with (
        redis.open(redis_server.url, redis.Settings()) as backend,
        scene.asking(redis_server.url) as client,
    ):
        for entry in ("1000-0", "2000-0", "2000-1", "3000-0"):
            await client.xadd(topic, {"data": "1"}, id=entry)
        async with backend.subscribe([topic], group="group", start=2.0) as member:
            assert await backend.lag(topic, group="group") == {0: 3}
            taken = await scene.take(member, 3)
            assert [d.timestamp for d in taken] == [2.0, 2.0, 3.0]
            await anyio.sleep(1.2)  # the upkeep looks for removed entries
            lost: Any = member
            assert lost.lost == 0
