"""What `Backend.publish` and `create_topics` promise, and that declared capabilities hold."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio

from eventml.backends.base import CreatesTopics, NewTopic
from eventml.errors import PublishError, TopicNotFoundError
from eventml.records import Record, foreign_id
from eventml.testing.contract import expect
from eventml.testing.contract.case import (
    CREATES_TOPICS,
    DECLARED,
    ORDER_OF_ONE_MEMBER,
    REFUSED,
    TOPICS_BEFOREHAND,
    case,
)

if TYPE_CHECKING:
    from eventml.testing.contract.trial import Trial


_CLOCKS = 120.0  # seconds that two machines' clocks may differ


@case()
async def a_record_arrives_as_it_was_published(trial: Trial) -> None:
    """Value, key, id and headers arrive as they were, to the byte, whatever they hold."""
    topic = await trial.topic()
    headers = {"ce_specversion": "1.0", "ce_type": topic, "ce_source": "contract", "content-type": "text/x"}
    shapes = [
        Record(topic, b'{"plain": 1}', b"key", "plain", headers),
        Record(topic, b"", None, "nothing but an id"),
        Record(topic, b"", b"", "empty key and value", headers),
        Record(topic, bytes(range(256)), bytes(range(256)), "every byte", headers),
        Record(topic, "žluťoučký kůň ✓".encode(), "klíč".encode(), "идентификатор/7 ✓", headers),
        Record(topic, b"\r\n$5\r\n\x00null", b"\r\n", "line\nbreaks", headers),
        Record(topic, b"not json", None, "own headers", {**headers, "x-note": "ünï: ✓\n=", "empty": ""}),
    ]
    await trial.publish(shapes)
    member = await trial.join(topic, group=trial.name("group"))
    came = {d.record.id: d.record for d in await member.take(len(shapes))}
    for wanted in shapes:
        expect.true(wanted.id in came, f"the record with the id {wanted.id!r} did not arrive: {sorted(came)}")
        got = came[wanted.id]
        for field in ("topic", "value", "key"):
            what = f"record {wanted.id!r}: its {field}"
            expect.equal(what, getattr(got, field), getattr(wanted, field))
        expect.equal(f"record {wanted.id!r}: its headers", dict(got.headers), dict(wanted.headers))


@case()
async def a_foreign_record_is_given_an_id(trial: Trial) -> None:
    """A record without an id gets its offset as its id, the same at every delivery to any group."""
    topic = await trial.topic()
    await trial.publish([Record(topic, b"7"), Record(topic, b"7"), Record(topic, b"8", b"key")])
    for _ in range(2):
        member = await trial.join(topic, group=trial.name("group"))
        deliveries = await member.take(3)
        for d in deliveries:
            place = foreign_id(topic, d.partition, d.offset)
            expect.equal("the id of a record that had none", d.record.id, place)
        expect.equal("different ids", len({d.record.id for d in deliveries}), 3)


@case()
async def a_large_record_arrives(trial: Trial) -> None:
    """A value of 500 kB is accepted and delivered."""
    topic = await trial.topic()
    value = bytes(range(256)) * 2_000
    await trial.publish([Record(topic, value, b"key", "large", {"content-type": "image/x"})])
    member = await trial.join(topic, group=trial.name("group"))
    [delivery] = await member.take(1)
    expect.true(
        delivery.record.value == value,
        f"a value of {len(value)} bytes was delivered as another of {len(delivery.record.value)} bytes",
    )


@case()
async def publishing_nothing_is_nothing(trial: Trial) -> None:
    """`publish([])` and `complete([])` return and have no effect."""
    topic = await trial.topic()
    member = await trial.join(topic, group=trial.name("group"))
    await trial.publish([])
    await member.complete([])
    await member.take_silence("nothing was published")


@case()
async def one_call_writes_many_records(trial: Trial) -> None:
    """5,000 records in one call arrive, each once."""
    records = await trial.published(5_000, keys=50)
    member = await trial.join(records[0].topic, group=trial.name("group"))
    expect.each_once(await member.take(len(records)), records)
    await member.take_silence("all were delivered")


@case()
async def one_call_writes_to_several_topics(trial: Trial) -> None:
    """The records of one call may go to several topics, interleaved."""
    topics = await trial.topics(3)
    records = [trial.records(topics[position % 3], 1)[0] for position in range(60)]
    await trial.publish(records)
    for topic in topics:
        expect.each_once(await trial.read(topic, 20), [r for r in records if r.topic == topic])


@case()
async def many_tasks_publish_at_once(trial: Trial) -> None:
    """Calls of `publish` on one connection may overlap: each task's records arrive, each once."""
    topic = await trial.topic()
    records = [trial.records(topic, 100, keys=1) for _ in range(20)]

    async def publish(mine: list[Record]) -> None:
        for start in range(0, len(mine), 5):
            await trial.publish(mine[start : start + 5])

    async with anyio.create_task_group() as tasks:
        for mine in records:
            tasks.start_soon(publish, mine)
    member = await trial.join(topic, group=trial.name("group"))
    expect.each_once(await member.take(2_000), [record for mine in records for record in mine])


@case(ORDER_OF_ONE_MEMBER)
async def the_records_of_a_key_keep_their_order(trial: Trial) -> None:
    """The records of one key reach a group's one member in the order of their publishing."""
    topic = await trial.topic()
    member = await trial.join(topic, group=trial.name("group"))
    records = trial.records(topic, 600, keys=7)
    start = 0
    for size in (1, 2, 200, 1, 50, 346):
        await trial.publish(records[start : start + size])
        start += size
    deliveries = [d for limit in (1, 7, 92, 500) for d in await member.take(limit, limit)]
    expect.each_once(deliveries, records)
    expect.in_order(deliveries, records)


@case()
async def the_time_is_in_seconds_since_the_epoch(trial: Trial) -> None:
    """`Delivery.timestamp` is when the broker accepted the record, in seconds since the epoch."""
    before = time.time()
    records = await trial.published(3)
    after = time.time()
    for delivery in await trial.read(records[0].topic, 3):
        expect.true(
            before - _CLOCKS <= delivery.timestamp <= after + _CLOCKS,
            f"published at {before:.3f}, but its timestamp is {delivery.timestamp!r}",
        )


@case(REFUSED)
async def a_refused_record_is_named(trial: Trial) -> None:
    """PublishError.failed says which records were refused for good; the others are published."""
    topic = await trial.topic()
    good = trial.records(topic, 4)
    bad = _refused(trial, topic)
    error = await _publish_error(trial, [*good[:2], bad, *good[2:]])
    expect.equal("the positions in PublishError.failed", sorted(error.failed), [2])
    expect.each_once(await trial.read(topic, 4), good)


def _refused(trial: Trial, topic: str) -> Record:
    if trial.harness.refused is None:
        raise RuntimeError("the case must declare the need REFUSED")
    return trial.harness.refused(topic)


async def _publish_error(trial: Trial, records: list[Record]) -> PublishError:
    try:
        await trial.publish(records)
    except PublishError as exc:
        return exc
    raise AssertionError("publish() returned although the broker refused one of the records")


@case(DECLARED)
async def declared_capabilities_hold(trial: Trial) -> None:
    """The module's `capabilities(settings)` equals the `capabilities` of the connected backend."""
    expect.equal("the capabilities once connected", trial.capabilities, trial.harness.declared)


@case(TOPICS_BEFOREHAND)
async def a_missing_topic_is_refused(trial: Trial) -> None:
    """Where topics must be created first, subscribing to a missing one raises TopicNotFoundError."""
    topic = trial.name("missing")
    try:
        await trial.join(topic, group=trial.name("group"))
    except TopicNotFoundError as exc:
        expect.true(topic in str(exc), f"the message does not name the topic: {exc}")
    else:
        raise AssertionError("subscribing to a topic that does not exist was not refused")


@case(CREATES_TOPICS)
async def topics_are_created_once(trial: Trial) -> None:
    """`create_topics` creates the missing topics, returns their names, and does not change the others."""
    old = await trial.published(3)
    names = [trial.name("topic") for _ in range(2)]
    both, backend = [old[0].topic, *names], trial.backend
    if not isinstance(backend, CreatesTopics):
        raise TypeError("the case must declare the need CREATES_TOPICS")
    expect.equal("missing before", set(await backend.missing_topics(both)), {*names})
    wanted = [NewTopic(name=name, partitions=4) for name in both]
    expect.equal("created", set(await backend.create_topics(wanted)), {*names})
    expect.equal("missing after", list(await backend.missing_topics(both)), [])
    expect.equal("created once more", list(await backend.create_topics(wanted)), [])
    expect.each_once(await trial.read(old[0].topic, 3), old)
    new = await trial.published(3, topic=names[0])
    expect.each_once(await trial.read(names[0], 3), new)
