"""Checks of `subscribe` and `lag`: consumer groups, readers without a group, and their lag."""

from __future__ import annotations

from collections import Counter

import anyio

from eventml.testing.contract.case import (
    case,
    expect,
    expect_each_once,
    expect_equal,
    expect_in_order,
    expect_lag,
)
from eventml.testing.contract.loops import MemberLoops
from eventml.testing.contract.trial import Trial

_TICK = 0.01  # seconds between records that have timestamps of their own: brokers keep milliseconds


@case()
async def every_group_gets_every_record(trial: Trial) -> None:
    """A record that one group has received and finished is delivered to every other group too."""
    early = await trial.join()
    records = await trial.published(50)
    taken = await early.take(50)
    expect_each_once(taken, records)
    await early.finish(taken)
    for _ in range(2):
        member = await trial.join(group=trial.name("group"))
        expect_each_once(await member.take(50), records)
        await member.expect_nothing("all were delivered")


@case()
async def members_share_the_work(trial: Trial) -> None:
    """Each member of a group gets a part of the records, and no record goes to two of them.

    Where groups are shared by processes, the members are on separate connections.
    """
    members = [await trial.join() for _ in range(2)]
    if trial.backend.capabilities.shared:
        separate = members[0].backend is not members[1].backend
        expect(separate, "the backend declares `shared`, but connect() gives the same object twice")
    loops = MemberLoops(trial)
    loops.start(*members)
    while len({member for member, _ in loops.received}) < len(members):
        await loops.until_finished(await trial.published(32, keys=32))
    before = len(loops.received)
    records = await trial.published(400, keys=40)
    await loops.until_finished(records)
    await loops.stop(*members)
    expect_each_once(loops.deliveries[before:], records)


@case()
async def a_subscription_starts_as_configured(trial: Trial) -> None:
    """A new group or reader starts at the topic's first record (`earliest`) or after its last (`latest`).

    A record that is published after `subscribe` was entered reaches it, the very next one included.
    """
    old = await trial.published(10)
    latest = [await trial.join(group=trial.name("group"), start="latest"), await trial.reader(start="latest")]
    earliest = await trial.join()
    new = await trial.published(10)
    for member in latest:
        expect_each_once(await member.take(10), new)
        await member.expect_nothing("the rest was published before it joined")
    expect_each_once(await earliest.take(20), [*old, *new])


@case(start_at_time=True)
async def a_subscription_starts_at_a_time(trial: Trial) -> None:
    """A new group or reader that starts at a time gets the records with this timestamp, and later ones."""
    await trial.published(10)
    await anyio.sleep(_TICK)
    records = await trial.published(10)
    taken = await (await trial.reader()).take(20)
    times = [delivery.timestamp for delivery in taken if delivery.record in records]
    await anyio.sleep(_TICK)
    members = {}
    for start, some in ((min(times), records), (max(times) + _TICK / 2, [])):
        members[await trial.join(group=trial.name("group"), start=start)] = some
        members[await trial.reader(start=start)] = some
    later = await trial.published(10)
    for member, some in members.items():
        expect_each_once(await member.take(len(some) + 10), [*some, *later])
        await member.expect_nothing("the rest is older than the time at which it starts")


@case(start_at_time=True)
async def a_reader_stops_at_an_end(trial: Trial) -> None:
    """`Bounded.stop_at`: a reader gets what is before the end, and then no deliveries, without waiting."""
    old = await trial.published(10)
    await anyio.sleep(_TICK)
    [empty, to], new = await trial.topics(2), await trial.published(10)
    member = await trial.join()
    taken = await member.take(20)
    await member.finish(taken, to)  # a transaction may leave a marker behind its outputs
    time = min(delivery.timestamp for delivery in taken if delivery.record in new)
    readers = [await trial.reader(topic) for topic in (trial.topic, trial.topic, to, empty)]
    first = await readers[0].take(5)
    for reader in readers:
        await reader.stop_at(time if reader is readers[1] else "latest")
    await trial.published(10)
    expect_each_once([*first, *await readers[0].take(15, 10)], [*old, *new])
    expect_each_once(await readers[1].take(10), old)
    await readers[2].take(20)
    for reader in readers:
        await reader.expect_end("all before the end was delivered")
        await reader.expect_end("it has said so before")


@case()
async def a_group_goes_on_where_it_left_off(trial: Trial) -> None:
    """A returning group gets what it has not finished, whatever its `start`.

    A group exists from its first subscription on, even if it has finished no record. Where records are
    durable, they and the group's progress outlive all connections.
    """
    await trial.published(3)
    member = await trial.join(start="latest")
    for _ in range(2):  # before it has finished any record, and after
        await member.leave()
        meanwhile = await trial.published(5)
        if trial.backend.capabilities.durable:
            await trial.connect()
        member = await trial.join(start="latest")
        taken = await member.take(5)
        expect_each_once(taken, meanwhile)
        await member.finish(taken)
    await member.leave()
    await trial.expect_finished()


@case()
async def a_subscription_reads_several_topics(trial: Trial) -> None:
    """One member may read several topics, whose records are acked separately.

    A group that has read one topic is a new group at another topic.
    """
    topics = [trial.topic, *await trial.topics(2)]
    records = [await trial.published(20, topic=topic) for topic in topics]
    first = await trial.join(topics[0])
    await first.finish(await first.take(20))
    await first.leave()
    member = await trial.join(*topics)
    taken = await member.take(40)
    expect_each_once(taken, [*records[1], *records[2]])
    await member.finish([d for d in taken if d.record.topic == topics[2]])
    await member.leave()
    successor = await trial.join(*topics)
    again = await successor.take(20)
    expect_each_once(again, records[1])
    expect_equal("the topics that the deliveries name", {d.record.topic for d in again}, {topics[1]})
    await successor.expect_nothing("the rest was finished")


@case()
async def a_reader_sees_everything(trial: Trial) -> None:
    """Every reader gets every record, independently of groups and other readers, and leaves no trace.

    The records of a key come in order where the backend keeps an order. A reader acks nothing and stores no
    offset: groups and later readers are not affected.
    """
    records = await trial.published(50)
    member = await trial.join()
    readers = [await trial.reader() for _ in range(2)]
    records += await trial.published(50)
    await member.finish(await member.take(40))
    before = await trial.lag()
    for early in (*readers, None):
        reader = early or await trial.reader()
        deliveries = [d for limit in (1, 9, 90) for d in await reader.take(limit, limit)]
        expect_each_once(deliveries, records)
        if trial.backend.capabilities.ordering != "none":
            expect_in_order(deliveries, records)
        await reader.finish(deliveries)
        await reader.expect_nothing("all were delivered")
        await reader.leave()
    expect_equal("the group's lag after readers were there", await trial.lag(), before)
    await member.finish(await member.take(60))
    await member.expect_nothing("all were delivered")


@case()
async def a_subscriptions_lag_is_exact_or_unknown(trial: Trial) -> None:
    """`Subscription.lag` counts the records that the group has not finished, those in flight included.

    Records that a member left unfinished count, for later members and from outside.
    """
    member = await trial.join()
    await member.expect_lag("before anything", 0)
    await trial.published(10)
    await member.expect_lag("of 10 records", 10)
    taken = await member.take(6)
    await member.expect_lag("with 6 of 10 in flight", 10)
    await member.finish([taken[4], taken[1]])
    await member.expect_lag("with 2 of 10 finished, out of order", 8)
    await trial.published(5)
    await member.expect_lag("with 5 more published", 13)
    await member.finish([taken[0], taken[2], taken[3]])
    await member.leave()
    expect_lag("from outside, once the member has left", await trial.lag(), 10)
    successor = await trial.join()
    await successor.expect_lag("of the next member", 10)
    await successor.finish(await successor.take(10))
    await successor.expect_lag("once all is finished", 0)


@case()
async def lag_is_known_without_joining(trial: Trial) -> None:
    """`Backend.lag` counts by partition without joining; None for a group that does not exist."""
    expect_equal("the lag of a group that does not exist", await trial.lag(), None)
    member = await trial.join()
    await trial.published(40, keys=40)
    taken = await member.take(40)
    counts = Counter(delivery.partition for delivery in taken)
    first = taken[0].partition
    if (lag := await trial.lag()) is not None:
        expect_equal("the lag by partition", {p: n for p, n in lag.items() if n}, dict(counts))
    await member.finish([d for d in taken if d.partition == first])
    del counts[first]
    if (lag := await trial.lag()) is not None:
        expect_equal("the lag with one partition finished", {p: n for p, n in lag.items() if n}, dict(counts))
    await member.finish([d for d in taken if d.partition != first])
    await member.leave()
    expect_lag("once all is finished", await trial.lag(), 0)
