"""Completions of every shape, executed by the script in the server."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from eventml.backends import redis
from eventml.backends.base import Completion
from eventml.backends.redis.completion import MAX_COMPLETIONS
from eventml.errors import PublishError
from eventml.records import Record
from tests.redis import scene

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backends.redis.server import RedisServer

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

HEADERS = [{}, {"ce_type": "a"}, {"ce_type": "b", "content-type": "application/json", "x": "ü"}]


def some_outputs(random: Random, topics: Sequence[str], number: int) -> list[Record]:
    return [
        Record(
            random.choice(topics),
            b"%d/%d" % (number, place),
            random.choice([None, b"", b"key"]),
            random.choice(["", f"o{number}/{place}"]),
            random.choice(HEADERS),
        )
        for place in range(random.choice([0, 1, 1, 1, 2, 3]))
    ]


@pytest.mark.parametrize("seed", range(3))
async def test_outputs_arrive_as_they_were_whatever_their_shapes(
    redis_server: RedisServer, seed: int
) -> None:
    random = Random(seed)
    topic, topics = scene.new_topic(), [scene.new_topic() for _ in range(3)]
    size = 2 * MAX_COMPLETIONS + 100
    async with (
        redis.open(redis_server.url, redis.Settings()) as backend,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        await backend.publish(scene.new_records(topic, size))
        taken = await scene.take(member, size)
        done = [Completion(d, some_outputs(random, topics, number)) for number, d in enumerate(taken)]
        await member.complete(done)
        assert await member.lag() == 0
        for name in topics:
            wanted = [output for completion in done for output in completion.outputs if output.topic == name]
            async with backend.subscribe([name], group=None, start="earliest") as reader:
                got = [d.record for d in await scene.take(reader, len(wanted))]
            assert [(r.value, r.key, dict(r.headers)) for r in got] == [
                (r.value, r.key, r.headers) for r in wanted
            ]
            assert [mine.id for mine, r in zip(got, wanted, strict=True) if r.id] == [
                r.id for r in wanted if r.id
            ]


async def test_refused_completions_are_named_by_their_positions(redis_server: RedisServer) -> None:
    """In any call of the script; their inputs stay pending."""
    topic, to, wrong = scene.new_topic(), scene.new_topic(), scene.new_topic()
    size = 2 * MAX_COMPLETIONS + 100
    bad = {3, MAX_COMPLETIONS - 1, MAX_COMPLETIONS, size - 1}
    async with (
        redis.open(redis_server.url, redis.Settings()) as backend,
        scene.asking(redis_server.url) as client,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        await client.set(wrong, "a string")
        records = scene.new_records(topic, size)
        await backend.publish(records)
        taken = await scene.take(member, size)
        done = [scene.answers([d], wrong if n in bad else to)[0] for n, d in enumerate(taken)]
        with pytest.raises(PublishError, match="4 of 2148 completions") as caught:
            await member.complete(done)
        assert set(caught.value.failed) == bad
        assert await scene.ids(client, to) == scene.answered(r for n, r in enumerate(records) if n not in bad)
        pending = await client.xpending_range(topic, "group", "-", "+", 100)
        assert {entry["message_id"].decode() for entry in pending} == {taken[n].offset for n in bad}
        await client.delete(wrong)


async def test_text_without_a_form_in_utf8_is_refused(redis_server: RedisServer) -> None:
    topic, to = scene.new_topic(), scene.new_topic()
    records = scene.new_records(topic, 3)
    async with (
        redis.open(redis_server.url, redis.Settings()) as backend,
        scene.asking(redis_server.url) as client,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        with pytest.raises(PublishError, match="UTF-8") as caught:
            await backend.publish([*records[:2], Record(topic, b"", None, "\ud800"), records[2]])
        assert set(caught.value.failed) == {2}
        assert await scene.ids(client, topic) == scene.once(["r0", "r1", "r2"])
        done = scene.answers(await scene.take(member, 3), to)
        done[1] = Completion(done[1].delivery, [Record(to, b"", None, "x", {"name": "\ud800"})])
        with pytest.raises(PublishError, match="UTF-8") as caught:
            await member.complete(done)
        assert set(caught.value.failed) == {1}
        assert await scene.ids(client, to) == scene.once(["r0/answer", "r2/answer"])


async def test_large_outputs_are_spread_over_calls(redis_server: RedisServer) -> None:
    topic, to = scene.new_topic(), scene.new_topic()
    async with (
        redis.open(redis_server.url, redis.Settings()) as backend,
        scene.asking(redis_server.url) as client,
        backend.subscribe([topic], group="group", start="earliest") as member,
    ):
        await backend.publish(scene.new_records(topic, 12))
        taken = await scene.take(member, 12)
        await member.complete(
            [
                Completion(d, [Record(to, bytes(1_500_000), None, d.record.id)] * (1 + n % 2))
                for n, d in enumerate(taken)
            ]
        )
        assert await client.xlen(to) == 18
        assert await member.lag() == 0
