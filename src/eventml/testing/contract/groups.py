"""What `Backend.subscribe` promises of groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventml.testing.contract import expect
from eventml.testing.contract.case import DURABLE, SHARED, case
from eventml.testing.contract.work import Work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.testing.contract.trial import Member, Trial


@case()
async def every_group_gets_every_record(trial: Trial) -> None:
    """What one group receives and finishes is there for every other group."""
    topic = await trial.topic()
    groups = [trial.name("group") for _ in range(3)]
    early = await trial.join(topic, group=groups[0])
    records = await trial.published(50, topic=topic)
    taken = await early.take(50)
    expect.each_once(taken, records)
    await early.finish(taken)
    for group in groups[1:]:
        member = await trial.join(topic, group=group)
        expect.each_once(await member.take(50), records)
        await member.take_silence("all had come")


@case()
async def members_share_the_work(trial: Trial) -> None:
    """Of a group's members each gets a part, and no record goes to two of them."""
    topic, group = await trial.topic(), trial.name("group")
    members = [await trial.join(topic, group=group) for _ in range(2)]
    work = Work(trial)
    work.start(*members)
    await _share(trial, topic, work, members)
    before = len(work.received)
    records = await trial.published(400, topic=topic, keys=40)
    await work.until_finished({record.id for record in records})
    await work.stop(*members)
    expect.each_once(work.deliveries[before:], records)


async def _share(trial: Trial, topic: str, work: Work, members: Sequence[Member]) -> None:
    """Give them something to do until every one of them has had some of it."""
    while True:
        records = await trial.published(32, topic=topic, keys=32)
        await work.until_finished({record.id for record in records})
        if all(work.count(member) for member in members):
            return


@case(SHARED)
async def members_on_connections_of_their_own_share(trial: Trial) -> None:
    """Members that have nothing in common but the broker work for one group, as processes do."""
    topic, group = await trial.topic(), trial.name("group")
    members = [await trial.join(topic, group=group) for _ in range(2)]
    expect.true(
        members[0].backend is not members[1].backend,
        "the backend declares `shared`, but connect() gives the same object twice",
    )
    work = Work(trial)
    work.start(*members)
    await _share(trial, topic, work, members)
    await work.stop(*members)


@case()
async def a_new_group_begins_where_it_says(trial: Trial) -> None:
    """A group that never read the topic begins at its first record (`earliest`), or after its last."""
    old = await trial.published(10)
    topic = old[0].topic
    earliest = await trial.join(topic, group=trial.name("group"), start="earliest")
    latest = await trial.join(topic, group=trial.name("group"), start="latest")
    expect.each_once(await earliest.take(10), old)
    await latest.take_silence("it began after what was there")
    new = await trial.published(10, topic=topic)
    expect.each_once(await latest.take(10), new)
    expect.each_once(await earliest.take(10), new)


@case()
async def what_is_published_after_joining_arrives(trial: Trial) -> None:
    """Once `subscribe` is entered, what is published reaches the group: from the very next record on."""
    topic = await trial.topic()
    await trial.published(5, topic=topic)
    member = await trial.join(topic, group=trial.name("group"), start="latest")
    new = await trial.published(5, topic=topic)
    expect.each_once(await member.take(5), new)


@case()
async def a_group_goes_on_where_it_left_off(trial: Trial) -> None:
    """A group that comes back gets what it has not finished, wherever it says to begin."""
    records = await trial.published(20)
    topic, group = records[0].topic, trial.name("group")
    first = await trial.join(topic, group=group)
    await first.finish(await first.take(20))
    await first.leave()
    meanwhile = await trial.published(5, topic=topic)
    second = await trial.join(topic, group=group, start="latest")
    taken = await second.take(5)
    expect.each_once(taken, meanwhile)
    await second.finish(taken)
    await second.leave()
    third = await trial.join(topic, group=group, start="earliest")
    await third.take_silence("all was finished before the group came back")


@case()
async def a_group_that_finished_nothing_exists(trial: Trial) -> None:
    """A group exists from its first subscription on, even if it left without finishing anything."""
    old = await trial.published(3)
    topic, group = old[0].topic, trial.name("group")
    first = await trial.join(topic, group=group, start="latest")
    await first.leave()
    meanwhile = await trial.published(5, topic=topic)
    second = await trial.join(topic, group=group, start="latest")
    expect.each_once(await second.take(5), meanwhile)


@case()
async def a_subscription_reads_several_topics(trial: Trial) -> None:
    """One member may read several topics: all of each arrives, and each is acked by itself."""
    topics, group = await trial.topics(3), trial.name("group")
    records = [record for topic in topics for record in await trial.published(20, topic=topic)]
    member = await trial.join(*topics, group=group)
    taken = await member.take(60)
    expect.each_once(taken, records)
    for d in taken:
        expect.true(d.record.topic in topics, f"a delivery says that it is from {d.record.topic!r}")
    await member.finish([d for d in taken if d.record.topic != topics[1]])
    await member.leave()
    left = [record for record in records if record.topic == topics[1]]
    heir = await trial.join(*topics, group=group)
    expect.each_once(await heir.take(20), left)
    await heir.take_silence("the rest was finished")


@case()
async def a_groups_name_is_its_own_at_every_topic(trial: Trial) -> None:
    """A group that read one topic begins afresh at another."""
    topics, group = await trial.topics(2), trial.name("group")
    for topic in topics:
        records = await trial.published(10, topic=topic)
        member = await trial.join(topic, group=group)
        taken = await member.take(10)
        expect.each_once(taken, records)
        await member.finish(taken)
        await member.leave()


@case(DURABLE)
async def what_was_published_outlives_the_connections(trial: Trial) -> None:
    """Records, groups and what they have finished are there after every connection was closed."""
    records = await trial.published(20, keys=1)
    topic, group = records[0].topic, trial.name("group")
    member = await trial.join(topic, group=group)
    await member.finish(await member.take(8, 1))
    await member.leave()
    await trial.reconnect()
    again = await trial.join(topic, group=group)
    expect.each_once(await again.take(12), records[8:])
    expect.each_once(await trial.read(topic, 20), records)
