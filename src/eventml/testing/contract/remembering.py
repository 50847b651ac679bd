"""What `Deduplicates` promises: what a group has finished, it knows again by its id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from eventml.backends.base import Completion
from eventml.errors import PublishError
from eventml.testing.contract import expect
from eventml.testing.contract.case import (
    ATOMIC,
    DURABLE,
    REFUSED,
    REMEMBERS,
    REMEMBERS_FOR_ALL,
    case,
)
from eventml.testing.contract.work import Work

if TYPE_CHECKING:
    from eventml.backends.base import Dedupe
    from eventml.testing.contract.trial import Trial

_WITHIN = 100  # more than most cases finish


@case(REMEMBERS)
async def a_finished_id_is_known(trial: Trial) -> None:
    """An id whose completion asked for it is known when it comes again. No other is, a dead letter's say."""
    records = await trial.published(9)
    member = await trial.join(records[0].topic, group=trial.name("group"), window=_WITHIN)
    taken = await member.take(9)
    expect.equal("what was known before it was finished", await member.completed_before(taken), [])
    said: tuple[Dedupe, ...] = ("drop", "record", "off")
    for position, dedupe in enumerate(said):
        await member.finish(taken[position::3], dedupe=dedupe)
    await trial.publish(records)
    again = await member.take(9)
    wanted = set(expect.ids(taken)) - set(expect.ids(taken[2::3]))
    expect.equal("the ids that are known", set(await member.completed_before(again)), wanted)


@case(REMEMBERS)
async def every_group_remembers_for_itself(trial: Trial) -> None:
    """What one group has finished is new to another."""
    records = await trial.published(5)
    groups = [trial.name("group") for _ in range(2)]
    members = [await trial.join(records[0].topic, group=group, window=_WITHIN) for group in groups]
    for member in members:
        taken = await member.take(5)
        expect.equal("what this group knew, which finished none", await member.completed_before(taken), [])
        await member.finish(taken, dedupe="drop")


@case(REMEMBERS)
async def every_topic_is_remembered_by_itself(trial: Trial) -> None:
    """An id that a group has finished at one topic is new to it at another."""
    (topic, other), group = await trial.topics(2), trial.name("group")
    records = await trial.published(5, topic=topic)
    await trial.publish([replace(record, topic=other) for record in records])
    member = await trial.join(topic, other, group=group, window=_WITHIN)
    taken = await member.take(10)
    await member.finish([d for d in taken if d.record.topic == topic], dedupe="drop")
    left = [d for d in taken if d.record.topic == other]
    expect.equal("what was known at the other topic", await member.completed_before(left), [])


@case(REMEMBERS)
async def the_last_ids_are_remembered(trial: Trial) -> None:
    """The last `window` ids are known, and what was finished long before them is forgotten."""
    window, many = 10, 400
    records = await trial.published(many, keys=1)
    member = await trial.join(records[0].topic, group=trial.name("group"), window=window)
    taken = await member.take(many)
    for start in range(0, many, 25):
        await member.finish(taken[start : start + 25], dedupe="drop")
    await trial.publish([*records[:window], *records[-window:]])
    again = await member.take(2 * window)
    wanted = [record.id for record in records[-window:]]
    expect.equal("the ids that are known", await member.completed_before(again), wanted)


@case(REMEMBERS)
async def what_came_again_is_remembered_anew(trial: Trial) -> None:
    """A repeat that was passed over counts as the last that was finished."""
    window = 10
    records = await trial.published(1, keys=1)
    topic = records[0].topic
    member = await trial.join(topic, group=trial.name("group"), window=window)
    await member.finish(await member.take(1), dedupe="drop")
    for _ in range(20):
        await trial.published(window - 1, topic=topic, keys=1)
        await trial.publish(records)
        taken = await member.take(window)
        expect.equal("the ids that are known", await member.completed_before(taken), [records[0].id])
        await member.finish(taken, dedupe="drop")


@case(REMEMBERS)
async def a_group_remembers_after_its_members(trial: Trial) -> None:
    """What is remembered outlives the member that finished it."""
    records = await trial.published(10)
    topic, group = records[0].topic, trial.name("group")
    first = await trial.join(topic, group=group, window=_WITHIN)
    await first.finish(await first.take(10), dedupe="drop")
    await first.leave()
    await trial.publish(records)
    heir = await trial.join(topic, group=group, window=_WITHIN)
    again = await heir.take(10)
    expect.equal("the ids that are known", await heir.completed_before(again), expect.ids(again))


@case(REMEMBERS, DURABLE)
async def a_group_remembers_after_the_connections(trial: Trial) -> None:
    """What is remembered is kept where the records are: it outlives every connection."""
    records = await trial.published(10)
    topic, group = records[0].topic, trial.name("group")
    first = await trial.join(topic, group=group, window=_WITHIN)
    await first.finish(await first.take(10), dedupe="drop")
    await first.leave()
    await trial.reconnect()
    await trial.publish(records)
    heir = await trial.join(topic, group=group, window=_WITHIN)
    again = await heir.take(10)
    expect.equal("the ids that are known", await heir.completed_before(again), expect.ids(again))


@case(REMEMBERS, ATOMIC)
async def a_repeat_gives_no_output(trial: Trial) -> None:
    """Of an id that was delivered twice, the outputs of the first completion are published; both are acked.

    It makes no difference whether they were completed in one call or in two.
    """
    records = await trial.published(10, keys=1)
    topic, to, group = records[0].topic, await trial.topic(), trial.name("group")
    await trial.publish(records)
    member = await trial.join(topic, group=group, window=_WITHIN)
    taken = await member.take(20)
    done = [Completion(d, [trial.output(to, d)], "drop") for d in taken]
    await member.complete(done[:15])
    await member.complete(done[15:])
    await trial.publish(records)
    third = await member.take(10)
    await member.complete([Completion(d, [trial.output(to, d)], "drop") for d in third])
    expect.each_once(await trial.read(to, 10), [trial.output(to, r) for r in records], "published")
    await member.leave()
    heir = await trial.join(topic, group=group, window=_WITHIN)
    await heir.take_silence("all was finished, the repeats too")


@case(REMEMBERS)
async def what_is_to_be_published_always_is(trial: Trial) -> None:
    """A completion that says `always` publishes its outputs, though its id was finished before."""
    records = await trial.published(5, keys=1)
    topic, to = records[0].topic, await trial.topic()
    member = await trial.join(topic, group=trial.name("group"), window=_WITHIN)
    await member.finish(await member.take(5), dedupe="drop")
    await trial.publish(records)
    again = await member.take(5)
    await member.complete([Completion(d, [trial.output(to, d)], "record") for d in again])
    expect.each_once(await trial.read(to, 5), [trial.output(to, r) for r in records], "published")


@case(REMEMBERS, ATOMIC)
async def a_dropped_completion_remembers_nothing(trial: Trial) -> None:
    """Who completes what somebody else has completed leaves no memory of it: the first one's word counts."""
    topic, group = await trial.topic(), trial.name("group")
    members = [await trial.join(topic, group=group, window=_WITHIN) for _ in range(2)]
    await trial.published(1, topic=topic)
    holder, taken = await trial.first_to_receive(members)
    [other] = [member for member in members if member is not holder]
    await holder.finish([taken])
    await other.finish([taken], dedupe="drop")
    await holder.finish([taken], dedupe="drop")
    expect.equal("what is known of a dropped completion", await holder.completed_before([taken]), [])


@case(REMEMBERS, REFUSED)
async def a_refused_completion_remembers_nothing(trial: Trial) -> None:
    """An id is not remembered when its output was refused: it is not finished yet."""
    records = await trial.published(3, keys=1)
    topic, to = records[0].topic, await trial.topic()
    if trial.harness.refused is None:
        raise RuntimeError("this case has to need REFUSED")
    member = await trial.join(topic, group=trial.name("group"), window=_WITHIN)
    taken = await member.take(3)
    done = [Completion(d, [trial.output(to, d)], "drop") for d in taken]
    done[1] = Completion(taken[1], [trial.harness.refused(to)], "drop")
    try:
        await member.complete(done)
    except PublishError:
        expect.equal(
            "the ids that are known", await member.completed_before(taken), [records[0].id, records[2].id]
        )
    else:
        raise AssertionError("complete() returned, with an output that the broker refuses")


@case(REMEMBERS_FOR_ALL, ATOMIC)
async def members_that_hold_one_id_give_one_output(trial: Trial) -> None:
    """Whichever members hold the deliveries of one id, and whatever their keys, one output is published."""
    (topic, to), group = await trial.topics(2), trial.name("group")
    members = [await trial.join(topic, group=group, window=10 * _WITHIN) for _ in range(2)]
    records = trial.records(topic, 100, keys=100)
    twins = [replace(record, key=b"other-%b" % (record.key or b"")) for record in records]
    work = Work(trial, to=to, limit=4, pause=0.01, dedupe="drop")
    work.start(*members)
    pairs = list(zip(records, twins, strict=True))
    await trial.publish([record for pair in pairs for record in pair])
    await work.until(
        lambda: len(work.received) >= 2 * len(pairs),
        lambda: f"{len(work.received)} of {2 * len(pairs)} deliveries came",
    )
    await work.stop(*members)
    came = await trial.read(to, 100)
    expect.equal("the ids published", sorted(expect.ids(came)), sorted(f"{r.id}/made" for r in records))
