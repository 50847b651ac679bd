"""What `Deduplicates` promises: a group recognises the ids that it has completed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from eventml.backends.base import Completion
from eventml.errors import PublishError
from eventml.testing.contract import expect
from eventml.testing.contract.case import (
    ATOMIC,
    DEDUPLICATES,
    DURABLE,
    REFUSED,
    case,
)
from eventml.testing.contract.work import Work

if TYPE_CHECKING:
    from eventml.backends.base import Dedupe
    from eventml.testing.contract.trial import Trial

_WINDOW = 100  # larger than the number of records in most cases


@case(DEDUPLICATES)
async def a_completed_id_is_found(trial: Trial) -> None:
    """`completed_before` finds the ids completed with `drop` or `record`, and not those with `off`."""
    records = await trial.published(9)
    member = await trial.join(records[0].topic, group=trial.name("group"), window=_WINDOW)
    taken = await member.take(9)
    expect.equal("ids found before they were completed", await member.completed_before(taken), [])
    said: tuple[Dedupe, ...] = ("drop", "record", "off")
    for position, dedupe in enumerate(said):
        await member.finish(taken[position::3], dedupe=dedupe)
    await trial.publish(records)
    again = await member.take(9)
    wanted = set(expect.ids(taken)) - set(expect.ids(taken[2::3]))
    expect.equal("the ids found", set(await member.completed_before(again)), wanted)


@case(DEDUPLICATES)
async def ids_are_recorded_per_group(trial: Trial) -> None:
    """An id that one group has completed is not found by another."""
    records = await trial.published(5)
    groups = [trial.name("group") for _ in range(2)]
    members = [await trial.join(records[0].topic, group=group, window=_WINDOW) for group in groups]
    for member in members:
        taken = await member.take(5)
        expect.equal("ids found by a group that completed none", await member.completed_before(taken), [])
        await member.finish(taken, dedupe="drop")


@case(DEDUPLICATES)
async def ids_are_recorded_per_topic(trial: Trial) -> None:
    """An id that a group has completed at one topic is not found at another."""
    (topic, other), group = await trial.topics(2), trial.name("group")
    records = await trial.published(5, topic=topic)
    await trial.publish([replace(record, topic=other) for record in records])
    member = await trial.join(topic, other, group=group, window=_WINDOW)
    taken = await member.take(10)
    await member.finish([d for d in taken if d.record.topic == topic], dedupe="drop")
    left = [d for d in taken if d.record.topic == other]
    expect.equal("ids found at the other topic", await member.completed_before(left), [])


@case(DEDUPLICATES)
async def the_last_ids_are_recorded(trial: Trial) -> None:
    """The last `window` ids are found; ids completed long before them are not."""
    window, many = 10, 400
    records = await trial.published(many, keys=1)
    member = await trial.join(records[0].topic, group=trial.name("group"), window=window)
    taken = await member.take(many)
    for start in range(0, many, 25):
        await member.finish(taken[start : start + 25], dedupe="drop")
    await trial.publish([*records[:window], *records[-window:]])
    again = await member.take(2 * window)
    wanted = [record.id for record in records[-window:]]
    expect.equal("the ids found", await member.completed_before(again), wanted)


@case(DEDUPLICATES)
async def a_duplicate_is_recorded_again(trial: Trial) -> None:
    """A duplicate that was completed counts as the latest id of the window."""
    window = 10
    records = await trial.published(1, keys=1)
    topic = records[0].topic
    member = await trial.join(topic, group=trial.name("group"), window=window)
    await member.finish(await member.take(1), dedupe="drop")
    for _ in range(20):
        await trial.published(window - 1, topic=topic, keys=1)
        await trial.publish(records)
        taken = await member.take(window)
        expect.equal("the ids found", await member.completed_before(taken), [records[0].id])
        await member.finish(taken, dedupe="drop")


@case(DEDUPLICATES)
async def recorded_ids_outlive_the_member(trial: Trial) -> None:
    """Recorded ids outlive the member that completed them."""
    records = await trial.published(10)
    topic, group = records[0].topic, trial.name("group")
    first = await trial.join(topic, group=group, window=_WINDOW)
    await first.finish(await first.take(10), dedupe="drop")
    await first.leave()
    await trial.publish(records)
    successor = await trial.join(topic, group=group, window=_WINDOW)
    again = await successor.take(10)
    expect.equal("the ids found", await successor.completed_before(again), expect.ids(again))


@case(DEDUPLICATES, DURABLE)
async def recorded_ids_outlive_the_connections(trial: Trial) -> None:
    """Recorded ids are kept where the records are: they outlive all connections."""
    records = await trial.published(10)
    topic, group = records[0].topic, trial.name("group")
    first = await trial.join(topic, group=group, window=_WINDOW)
    await first.finish(await first.take(10), dedupe="drop")
    await first.leave()
    await trial.reconnect()
    await trial.publish(records)
    successor = await trial.join(topic, group=group, window=_WINDOW)
    again = await successor.take(10)
    expect.equal("the ids found", await successor.completed_before(again), expect.ids(again))


@case(DEDUPLICATES, ATOMIC)
async def a_duplicate_gives_no_output(trial: Trial) -> None:
    """Of two deliveries with one id, only the outputs of the first completion are published; both are acked.

    It makes no difference whether they are completed in one call or in two.
    """
    records = await trial.published(10, keys=1)
    topic, to, group = records[0].topic, await trial.topic(), trial.name("group")
    await trial.publish(records)
    member = await trial.join(topic, group=group, window=_WINDOW)
    taken = await member.take(20)
    done = [Completion(d, [trial.output(to, d)], "drop") for d in taken]
    await member.complete(done[:15])
    await member.complete(done[15:])
    await trial.publish(records)
    third = await member.take(10)
    await member.complete([Completion(d, [trial.output(to, d)], "drop") for d in third])
    expect.each_once(await trial.read(to, 10), [trial.output(to, r) for r in records], "published")
    await member.leave()
    successor = await trial.join(topic, group=group, window=_WINDOW)
    await successor.take_silence("all was finished, the repeats too")


@case(DEDUPLICATES)
async def outputs_of_record_are_always_published(trial: Trial) -> None:
    """A completion with `dedupe="record"` publishes its outputs although its id was completed before."""
    records = await trial.published(5, keys=1)
    topic, to = records[0].topic, await trial.topic()
    member = await trial.join(topic, group=trial.name("group"), window=_WINDOW)
    await member.finish(await member.take(5), dedupe="drop")
    await trial.publish(records)
    again = await member.take(5)
    await member.complete([Completion(d, [trial.output(to, d)], "record") for d in again])
    expect.each_once(await trial.read(to, 5), [trial.output(to, r) for r in records], "published")


@case(DEDUPLICATES, ATOMIC)
async def a_dropped_completion_records_nothing(trial: Trial) -> None:
    """A completion that is dropped, since another member completed the delivery, records no id."""
    topic, group = await trial.topic(), trial.name("group")
    members = [await trial.join(topic, group=group, window=_WINDOW) for _ in range(2)]
    await trial.published(1, topic=topic)
    holder, taken = await trial.first_to_receive(members)
    [other] = [member for member in members if member is not holder]
    await holder.finish([taken])
    await other.finish([taken], dedupe="drop")
    await holder.finish([taken], dedupe="drop")
    expect.equal("what is known of a dropped completion", await holder.completed_before([taken]), [])


@case(DEDUPLICATES, REFUSED)
async def a_refused_completion_records_nothing(trial: Trial) -> None:
    """The id of a completion whose output was refused is not recorded."""
    records = await trial.published(3, keys=1)
    topic, to = records[0].topic, await trial.topic()
    if trial.harness.refused is None:
        raise RuntimeError("this case has to need REFUSED")
    member = await trial.join(topic, group=trial.name("group"), window=_WINDOW)
    taken = await member.take(3)
    done = [Completion(d, [trial.output(to, d)], "drop") for d in taken]
    done[1] = Completion(taken[1], [trial.harness.refused(to)], "drop")
    try:
        await member.complete(done)
    except PublishError:
        expect.equal("the ids found", await member.completed_before(taken), [records[0].id, records[2].id])
    else:
        raise AssertionError("complete() returned, with an output that the broker refuses")


@case(DEDUPLICATES, ATOMIC)
async def one_id_gives_one_output(trial: Trial) -> None:
    """Of deliveries with one id, whichever members and keys they have, one output is published."""
    (topic, to), group = await trial.topics(2), trial.name("group")
    members = [await trial.join(topic, group=group, window=10 * _WINDOW) for _ in range(2)]
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
