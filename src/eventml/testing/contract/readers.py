"""What holds for readers on their own: `subscribe` with `group=None`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventml.testing.contract import expect
from eventml.testing.contract.case import ORDER_OF_ONE_MEMBER, case

if TYPE_CHECKING:
    from eventml.testing.contract.trial import Trial


@case(ORDER_OF_ONE_MEMBER)
async def a_reader_sees_everything_in_order(trial: Trial) -> None:
    """Every reader sees every record, beside groups and other readers, those of a key in their order."""
    topic = await trial.topic()
    member = await trial.join(topic, group=trial.name("group"))
    readers = [await trial.join(topic, group=None) for _ in range(2)]
    records = await trial.published(100, topic=topic)
    await member.finish(await member.take(100))
    for reader in readers:
        deliveries = [d for limit in (1, 9, 90) for d in await reader.take(limit, limit)]
        expect.each_once(deliveries, records)
        expect.in_order(deliveries, records)
        await reader.take_silence("all had come")


@case()
async def a_reader_leaves_no_trace(trial: Trial) -> None:
    """A reader acks nothing and keeps no place: groups and later readers find all as it was."""
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
    await member.take_silence("all had come")


@case()
async def a_latest_reader_sees_what_is_new(trial: Trial) -> None:
    """A reader that starts at `latest` sees what is published once it is there, and nothing older."""
    topic = await trial.topic()
    await trial.published(10, topic=topic)
    reader = await trial.join(topic, group=None, start="latest")
    new = await trial.published(10, topic=topic)
    expect.each_once(await reader.take(10), new)
    await reader.take_silence("all had come")
