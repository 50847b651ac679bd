"""Checks of `Deduplicates`: a group recognises the ids that it has completed."""

from __future__ import annotations

from msgspec.structs import replace

from eventml.backends.base import Dedupe
from eventml.testing.contract.case import case, expect_each_once, expect_equal, ids
from eventml.testing.contract.loops import MemberLoops
from eventml.testing.contract.trial import Trial, output_of

_WINDOW = 100  # larger than the number of records in most cases


@case(deduplicates=True)
async def a_completed_id_is_found(trial: Trial) -> None:
    """`completed_before` finds the ids completed with `drop` or `record`, and not those with `off`.

    A completion with `record` publishes its outputs although its id was recorded before. Recorded ids are
    kept where the records are: they outlive the member that completed them and, where records are durable,
    all connections.
    """
    [to] = await trial.topics(1)
    records = await trial.published(9)
    first = await trial.join(window=_WINDOW)
    taken = await first.take(9)
    expect_equal("ids found before they were completed", await first.completed_before(taken), [])
    said: tuple[Dedupe, ...] = ("drop", "record", "off")
    for position, dedupe in enumerate(said):
        await first.finish(taken[position::3], dedupe=dedupe)
    await trial.publish(records)
    again = await first.take(9)
    wanted = set(ids(taken)) - set(ids(taken[2::3]))
    expect_equal("the ids found", set(await first.completed_before(again)), wanted)
    await first.finish(again, to, dedupe="record")
    await trial.expect_outputs(to, records)
    await first.leave()
    if trial.backend.capabilities.durable:
        await trial.connect()
    await trial.publish(records)
    successor = await trial.join(window=_WINDOW)
    again = await successor.take(9)
    expect_equal("the ids found by the next member", await successor.completed_before(again), ids(again))


@case(deduplicates=True)
async def ids_are_recorded_per_group_and_topic(trial: Trial) -> None:
    """An id that a group has completed at one topic is not found by another group, nor at another topic."""
    [other] = await trial.topics(1)
    await trial.publish([replace(record, topic=other) for record in await trial.published(5)])
    for _ in range(2):
        member = await trial.join(trial.topic, other, group=trial.name("group"), window=_WINDOW)
        taken = await member.take(10)
        expect_equal("ids found by a group that completed none", await member.completed_before(taken), [])
        await member.finish([d for d in taken if d.record.topic == trial.topic], dedupe="drop")
        left = [d for d in taken if d.record.topic == other]
        expect_equal("ids found at the other topic", await member.completed_before(left), [])


@case(deduplicates=True)
async def the_last_ids_are_recorded(trial: Trial) -> None:
    """The last `window` ids are found; ids completed long before them are not."""
    window, many = 10, 400
    records = await trial.published(many, keys=1)
    member = await trial.join(window=window)
    taken = await member.take(many)
    for start in range(0, many, 25):
        await member.finish(taken[start : start + 25], dedupe="drop")
    await trial.publish([*records[:window], *records[-window:]])
    again = await member.take(2 * window)
    wanted = [record.id for record in records[-window:]]
    expect_equal("the ids found", await member.completed_before(again), wanted)


@case(deduplicates=True)
async def a_duplicate_is_recorded_again(trial: Trial) -> None:
    """A duplicate that was completed counts as the latest id of the window."""
    window = 10
    records = await trial.published(1, keys=1)
    member = await trial.join(window=window)
    await member.finish(await member.take(1), dedupe="drop")
    for _ in range(20):
        await trial.published(window - 1, keys=1)
        await trial.publish(records)
        taken = await member.take(window)
        expect_equal("the ids found", await member.completed_before(taken), [records[0].id])
        await member.finish(taken, dedupe="drop")


@case(deduplicates=True, atomic_completion=True)
async def a_duplicate_gives_no_output(trial: Trial) -> None:
    """Of two deliveries with one id, only the outputs of the first completion are published; both are acked.

    It makes no difference whether they are completed in one call or in two.
    """
    records = await trial.published(10, keys=1)
    [to] = await trial.topics(1)
    await trial.publish(records)
    member = await trial.join(window=_WINDOW)
    taken = await member.take(20)
    await member.finish(taken[:15], to, dedupe="drop")
    await member.finish(taken[15:], to, dedupe="drop")
    await trial.publish(records)
    await member.finish(await member.take(10), to, dedupe="drop")
    await trial.expect_outputs(to, records)
    await member.leave()
    successor = await trial.join(window=_WINDOW)
    await successor.expect_nothing("all was finished, the duplicates too")


@case(deduplicates=True, atomic_completion=True)
async def one_id_gives_one_output(trial: Trial) -> None:
    """Of deliveries with one id, whichever members and keys they have, one output is published."""
    [to] = await trial.topics(1)
    members = [await trial.join(window=10 * _WINDOW) for _ in range(2)]
    records = trial.records(100, keys=100)
    pairs = [(record, replace(record, key=b"other-%b" % (record.key or b""))) for record in records]
    loops = MemberLoops(trial, to=to, dedupe="drop")
    loops.start(*members)
    await trial.publish([record for pair in pairs for record in pair])
    await loops.until(lambda: len(loops.received) >= 2 * len(pairs))
    await loops.stop(*members)
    reader = await trial.reader(to)
    expect_each_once(await reader.take(100), [output_of(to, record) for record in records], "published")
    await reader.expect_nothing("each id should have one output")
