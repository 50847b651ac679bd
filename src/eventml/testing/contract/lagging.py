"""What `lag` promises: the exact number, or None."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventml.testing.contract import expect
from eventml.testing.contract.case import case

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventml.testing.contract.trial import Trial


@case()
async def a_subscriptions_lag_is_exact_or_unknown(trial: Trial) -> None:
    """`Subscription.lag` counts all that the group has not finished, what is in hand included."""
    topic, group = await trial.topic(), trial.name("group")
    member = await trial.join(topic, group=group)
    expect.exact_or_unknown("the lag before anything", await member.lag(), 0)
    await trial.published(10, topic=topic)
    expect.exact_or_unknown("the lag of 10 records", await member.lag(), 10)
    taken = await member.take(6)
    expect.exact_or_unknown("the lag with 6 of 10 in hand", await member.lag(), 10)
    await member.finish([taken[4], taken[1]])
    expect.exact_or_unknown("the lag with 2 of 10 finished, out of order", await member.lag(), 8)
    await trial.published(5, topic=topic)
    expect.exact_or_unknown("the lag with 5 more published", await member.lag(), 13)
    await member.finish([taken[0], taken[2], taken[3], taken[5]])
    await member.finish(await member.take(9))
    expect.exact_or_unknown("the lag once all is finished", await member.lag(), 0)


@case()
async def lag_counts_what_the_departed_left(trial: Trial) -> None:
    """What a member left unfinished is lag, for those who come after it and for those outside."""
    records = await trial.published(10, keys=1)
    topic, group = records[0].topic, trial.name("group")
    member = await trial.join(topic, group=group)
    taken = await member.take(6)
    await member.finish(taken[:2])
    await member.leave()
    expect.exact_or_unknown("the lag outside", _total(await trial.lag(topic, group)), 8)
    heir = await trial.join(topic, group=group)
    expect.exact_or_unknown("the heir's lag", await heir.lag(), 8)
    await heir.finish(await heir.take(8))
    expect.exact_or_unknown("the heir's lag once all is finished", await heir.lag(), 0)


@case()
async def lag_can_be_asked_for_from_outside(trial: Trial) -> None:
    """`Backend.lag` counts by partition without joining; None for a group that there is not."""
    topic, group = await trial.topic(), trial.name("group")
    expect.equal("the lag of a group that there is not", await trial.lag(topic, group), None)
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
