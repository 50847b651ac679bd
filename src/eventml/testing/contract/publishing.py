"""Checks of `Backend.publish` and `create_topics`, and that declared capabilities hold."""

from __future__ import annotations

import time
from unittest import SkipTest

import anyio

from eventml.backends.base import CreatesTopics, NewTopic
from eventml.errors import TopicNotFoundError
from eventml.records import TOMBSTONE, Record, foreign_id
from eventml.testing.contract.case import (
    case,
    expect,
    expect_each_once,
    expect_equal,
    expect_in_order,
    expect_refused,
    expect_same,
)
from eventml.testing.contract.trial import Trial

_CLOCKS = 120.0  # seconds that two machines' clocks may differ


@case()
async def a_record_arrives_as_it_was_published(trial: Trial) -> None:
    """Value, key, id and headers arrive as they were, to the byte, whatever they hold: up to 500 kB.

    `Delivery.timestamp` is when the broker accepted the record, in seconds since the epoch.
    """
    topic = trial.topic
    headers = {"ce_specversion": "1.0", "ce_type": topic, "ce_source": "contract", "content-type": "text/x"}
    shapes = [
        Record(topic, b'{"plain": 1}', b"key", "plain", headers),
        Record(topic, b"", None, "nothing but an id"),
        Record(topic, b"", b"", "empty key and value", headers),
        Record(topic, bytes(range(256)), bytes(range(256)), "every byte", headers),
        Record(topic, "žluťoučký kůň ✓".encode(), "klíč".encode(), "идентификатор/7 ✓", headers),
        Record(topic, b"\r\n$5\r\n\x00null", b"\r\n", "line\nbreaks", headers),
        Record(topic, b"not json", None, "own headers", {**headers, "x-note": "ünï: ✓\n=", "empty": ""}),
        Record(topic, bytes(range(256)) * 2_000, b"key", "large", {"content-type": "image/x"}),
    ]
    if trial.backend.capabilities.tombstones:
        shapes.append(Record(topic, TOMBSTONE, b"key", "tombstone"))
    before = time.time()
    await trial.publish(shapes)
    after = time.time()
    member = await trial.join()
    came = {d.record.id: d for d in await member.take(len(shapes))}
    for wanted in shapes:
        expect(wanted.id in came, f"the record with the id {wanted.id!r} did not arrive: {sorted(came)}")
        expect_same(came[wanted.id].record, wanted)
        expect_equal("a tombstone", came[wanted.id].record.value is TOMBSTONE, wanted.value is TOMBSTONE)
        timestamp = came[wanted.id].timestamp
        in_time = before - _CLOCKS <= timestamp <= after + _CLOCKS
        expect(in_time, f"published at {before:.3f}, but its timestamp is {timestamp!r}")


@case()
async def a_foreign_record_is_given_an_id(trial: Trial) -> None:
    """A record without an id gets its offset as its id, the same at every delivery to any group."""
    topic = trial.topic
    await trial.publish([Record(topic, b"7"), Record(topic, b"7"), Record(topic, b"8", b"key")])
    for _ in range(2):
        member = await trial.join(group=trial.name("group"))
        deliveries = await member.take(3)
        for d in deliveries:
            wanted = foreign_id(topic, d.partition, d.offset)
            expect_equal("the id of a record that had none", d.record.id, wanted)
        expect_equal("different ids", len({d.record.id for d in deliveries}), 3)


@case()
async def one_call_writes_many_records(trial: Trial) -> None:
    """5,000 records in one call, interleaved for several topics, arrive, each once."""
    by_topic = [trial.records(2_500, topic=topic, keys=50) for topic in (trial.topic, *await trial.topics(1))]
    await trial.publish([record for pair in zip(*by_topic, strict=True) for record in pair])
    for records in by_topic:
        await trial.expect_topic(records[0].topic, records)


@case()
async def many_tasks_publish_at_once(trial: Trial) -> None:
    """Calls of `publish` on one connection may overlap: each task's records arrive, each once."""
    records = [trial.records(100, keys=1) for _ in range(20)]

    async def publish(mine: list[Record]) -> None:
        for start in range(0, len(mine), 5):
            await trial.publish(mine[start : start + 5])

    async with anyio.create_task_group() as tasks:
        for mine in records:
            tasks.start_soon(publish, mine)
    await trial.expect_topic(trial.topic, [record for mine in records for record in mine])


@case(ordering=("per_key", "single_member"))
async def the_records_of_a_key_keep_their_order(trial: Trial) -> None:
    """The records of one key reach a group's one member in the order of their publishing."""
    member = await trial.join()
    records = trial.records(600, keys=7)
    start = 0
    for size in (1, 2, 200, 1, 50, 346):
        await trial.publish(records[start : start + size])
        start += size
    deliveries = [d for limit in (1, 7, 92, 500) for d in await member.take(limit, limit)]
    expect_each_once(deliveries, records)
    expect_in_order(deliveries, records)


@case()
async def a_refused_record_is_named(trial: Trial) -> None:
    """PublishError.failed says which records were refused for good; the others are published."""
    refused, good = trial.given("refused"), trial.records(4)
    await expect_refused(trial.publish([*good[:2], refused(trial.topic), *good[2:]]), 2)
    await trial.expect_topic(trial.topic, good)


@case()
async def declared_capabilities_hold(trial: Trial) -> None:
    """The module's `capabilities(settings)` equals the `capabilities` of the connected backend."""
    expect_equal("the capabilities once connected", trial.backend.capabilities, trial.given("declared"))


@case()
async def topics_are_created_once(trial: Trial) -> None:
    """`create_topics` creates the missing topics, returns their names, and does not change the others.

    Subscribing to a missing topic raises TopicNotFoundError.
    """
    backend, old = trial.backend, await trial.published(3)
    if not isinstance(backend, CreatesTopics):
        raise SkipTest("a topic exists once it is used")
    missing = trial.name("missing")
    try:
        await trial.join(missing)
    except TopicNotFoundError as exc:
        expect(missing in str(exc), f"the message does not name the topic: {exc}")
    else:
        raise AssertionError("subscribing to a topic that does not exist was not refused")
    names = [trial.name("topic") for _ in range(2)]
    both = [trial.topic, *names]
    expect_equal("missing before", set(await backend.missing_topics(both)), {*names})
    wanted = [NewTopic(name=name, partitions=4) for name in both]
    expect_equal("created", set(await backend.create_topics(wanted)), {*names})
    expect_equal("missing after", list(await backend.missing_topics(both)), [])
    expect_equal("created once more", list(await backend.create_topics(wanted)), [])
    await trial.expect_topic(trial.topic, old)
    await trial.expect_topic(names[0], await trial.published(3, topic=names[0]))
