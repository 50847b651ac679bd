"""What `subscribe` and `lag` promise: consumer groups, readers without a group, and their lag."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventml.testing.contract import expect
from eventml.testing.contract.case import DURABLE, ORDER_OF_ONE_MEMBER, SHARED, case
from eventml.testing.contract.work import Work

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventml.testing.contract.trial import Member, Trial


@case()
async def every_group_gets_every_record(trial: Trial) -> None:
    """A record that one group has received and finished is delivered to every other group too."""
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
        await member.take_silence("all were delivered")


@case()
async def members_share_the_work(trial: Trial) -> None:
    """Each member of a group gets a part of the records, and no record goes to two of them."""
    topic, group = await trial.topic(), trial.name("group")
    members = [await trial.join(topic, group=group) for _ in range(2)]
    work = Work(trial)
    work.start(*members)
    await _publish_until_all_received(trial, topic, work, members)
    before = len(work.received)
    records = await trial.published(400, topic=topic, keys=40)
    await work.until_finished({record.id for record in records})
    await work.stop(*members)
    expect.each_once(work.deliveries[before:], records)


async def _publish_until_all_received(
    trial: Trial, topic: str, work: Work, members: Sequence[Member]
) -> None:
    """Publish until every member has received something."""
    while True:
        records = await trial.published(32, topic=topic, keys=32)
        await work.until_finished({record.id for record in records})
        if all(work.count(member) for member in members):
            return


@case(SHARED)
async def members_on_separate_connections_share(trial: Trial) -> None:
    """Members on separate connections share the records of a group, as separate processes do."""
    topic, group = await trial.topic(), trial.name("group")
    members = [await trial.join(topic, group=group) for _ in range(2)]
    expect.true(
        members[0].backend is not members[1].backend,
        "the backend declares `shared`, but connect() gives the same object twice",
    )
    work = Work(trial)
    work.start(*members)
    await _publish_until_all_received(trial, topic, work, members)
    await work.stop(*members)


@case()
async def a_new_group_starts_as_configured(trial: Trial) -> None:
    """A new group starts at the topic's first record (`earliest`) or after its last (`latest`)."""
    old = await trial.published(10)
    topic = old[0].topic
    earliest = await trial.join(topic, group=trial.name("group"), start="earliest")
    latest = await trial.join(topic, group=trial.name("group"), start="latest")
    expect.each_once(await earliest.take(10), old)
    await latest.take_silence("the group started after the existing records")
    new = await trial.published(10, topic=topic)
    expect.each_once(await latest.take(10), new)
    expect.each_once(await earliest.take(10), new)


@case()
async def what_is_published_after_joining_arrives(trial: Trial) -> None:
    """Records published after `subscribe` was entered reach the group, the very next one included."""
    topic = await trial.topic()
    await trial.published(5, topic=topic)
    member = await trial.join(topic, group=trial.name("group"), start="latest")
    new = await trial.published(5, topic=topic)
    expect.each_once(await member.take(5), new)


@case()
async def a_group_goes_on_where_it_left_off(trial: Trial) -> None:
    """A returning group gets what it has not finished, whatever its `start`."""
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
    """A group exists from its first subscription on, even if no record was finished."""
    old = await trial.published(3)
    topic, group = old[0].topic, trial.name("group")
    first = await trial.join(topic, group=group, start="latest")
    await first.leave()
    meanwhile = await trial.published(5, topic=topic)
    second = await trial.join(topic, group=group, start="latest")
    expect.each_once(await second.take(5), meanwhile)


@case()
async def a_subscription_reads_several_topics(trial: Trial) -> None:
    """One member may read several topics, whose records are acked separately."""
    topics, group = await trial.topics(3), trial.name("group")
    records = [record for topic in topics for record in await trial.published(20, topic=topic)]
    member = await trial.join(*topics, group=group)
    taken = await member.take(60)
    expect.each_once(taken, records)
    for d in taken:
        expect.true(d.record.topic in topics, f"a delivery names the topic {d.record.topic!r}")
    await member.finish([d for d in taken if d.record.topic != topics[1]])
    await member.leave()
    left = [record for record in records if record.topic == topics[1]]
    successor = await trial.join(*topics, group=group)
    expect.each_once(await successor.take(20), left)
    await successor.take_silence("the rest was finished")


@case()
async def a_groups_name_is_its_own_at_every_topic(trial: Trial) -> None:
    """A group that has read one topic is a new group at another topic."""
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
    """Records, groups and their progress outlive all connections."""
    records = await trial.published(20, keys=1)
    topic, group = records[0].topic, trial.name("group")
    member = await trial.join(topic, group=group)
    await member.finish(await member.take(8, 1))
    await member.leave()
    await trial.reconnect()
    again = await trial.join(topic, group=group)
    expect.each_once(await again.take(12), records[8:])
    expect.each_once(await trial.read(topic, 20), records)


@case(ORDER_OF_ONE_MEMBER)
async def a_reader_sees_everything_in_order(trial: Trial) -> None:
    """Every reader gets every record, independently of groups and other readers, in order per key."""
    topic = await trial.topic()
    member = await trial.join(topic, group=trial.name("group"))
    readers = [await trial.join(topic, group=None) for _ in range(2)]
    records = await trial.published(100, topic=topic)
    await member.finish(await member.take(100))
    for reader in readers:
        deliveries = [d for limit in (1, 9, 90) for d in await reader.take(limit, limit)]
        expect.each_once(deliveries, records)
        expect.in_order(deliveries, records)
        await reader.take_silence("all were delivered")


@case()
async def a_reader_leaves_no_trace(trial: Trial) -> None:
    """A reader acks nothing and stores no offset: groups and later readers are not affected."""
    records = await trial.published(20)
    topic, group = records[0].topic, trial.name("group")
    member = await trial.join(topic, group=group)
    await member.finish(await member.take(5))
    before = await trial.lag(topic, group)
    for _ in range(2):
        reader = await trial.join(topic, group=None)
        taken = await reader.take(20)
        expect.each_once(taken, records)
        await reader.finish(taken)
        await reader.leave()
    expect.equal("the group's lag after a reader was there", await trial.lag(topic, group), before)
    rest = await member.take(15)
    await member.finish(rest)
    await member.take_silence("all were delivered")


@case()
async def a_latest_reader_sees_what_is_new(trial: Trial) -> None:
    """A reader that starts at `latest` gets the records published after it joined, and no older ones."""
    topic = await trial.topic()
    await trial.published(10, topic=topic)
    reader = await trial.join(topic, group=None, start="latest")
    new = await trial.published(10, topic=topic)
    expect.each_once(await reader.take(10), new)
    await reader.take_silence("all were delivered")


@case()
async def a_subscriptions_lag_is_exact_or_unknown(trial: Trial) -> None:
    """`Subscription.lag` counts the records that the group has not finished, those in flight included."""
    topic, group = await trial.topic(), trial.name("group")
    member = await trial.join(topic, group=group)
    expect.exact_or_unknown("the lag before anything", await member.lag(), 0)
    await trial.published(10, topic=topic)
    expect.exact_or_unknown("the lag of 10 records", await member.lag(), 10)
    taken = await member.take(6)
    expect.exact_or_unknown("the lag with 6 of 10 in flight", await member.lag(), 10)
    await member.finish([taken[4], taken[1]])
    expect.exact_or_unknown("the lag with 2 of 10 finished, out of order", await member.lag(), 8)
    await trial.published(5, topic=topic)
    expect.exact_or_unknown("the lag with 5 more published", await member.lag(), 13)
    await member.finish([taken[0], taken[2], taken[3], taken[5]])
    await member.finish(await member.take(9))
    expect.exact_or_unknown("the lag once all is finished", await member.lag(), 0)


@case()
async def lag_counts_what_a_member_left_unfinished(trial: Trial) -> None:
    """Records that a member left unfinished count as lag, for later members and from outside."""
    records = await trial.published(10, keys=1)
    topic, group = records[0].topic, trial.name("group")
    member = await trial.join(topic, group=group)
    taken = await member.take(6)
    await member.finish(taken[:2])
    await member.leave()
    expect.exact_or_unknown("the lag outside", _total(await trial.lag(topic, group)), 8)
    successor = await trial.join(topic, group=group)
    expect.exact_or_unknown("the next member's lag", await successor.lag(), 8)
    await successor.finish(await successor.take(8))
    expect.exact_or_unknown("the next member's lag once all is finished", await successor.lag(), 0)


@case()
async def lag_is_known_without_joining(trial: Trial) -> None:
    """`Backend.lag` counts by partition without joining; None for a group that does not exist."""
    topic, group = await trial.topic(), trial.name("group")
    expect.equal("the lag of a group that does not exist", await trial.lag(topic, group), None)
    member = await trial.join(topic, group=group)
    records = await trial.published(40, topic=topic, keys=40)
    taken = await member.take(40)
    places = [delivery.partition for delivery in taken]
    before = await trial.lag(topic, group)
    if before is not None:
        counts = {partition: places.count(partition) for partition in set(places)}
        expect.equal("the lag by partition", {p: n for p, n in before.items() if n}, counts)
    await member.finish([d for d in taken if d.partition == places[0]])
    after = await trial.lag(topic, group)
    if after is not None:
        wanted = len(records) - places.count(places[0])
        expect.equal("the lag with one partition finished", sum(after.values()), wanted)
        expect.equal("the lag of that partition", after.get(places[0], 0), 0)
    await member.finish([d for d in taken if d.partition != places[0]])
    await member.leave()
    expect.exact_or_unknown("the lag once all is finished", _total(await trial.lag(topic, group)), 0)


def _total(lag: Mapping[int, int] | None) -> int | None:
    return None if lag is None else sum(lag.values())
