"""What comes back, when, to whom, and in which order."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING

import anyio

from eventml.testing.contract import expect
from eventml.testing.contract.case import (
    ATOMIC,
    BY_LEASE,
    KILL,
    LEASE,
    ORDER_OF_ONE_MEMBER,
    case,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.records import Delivery, Record
    from eventml.testing.contract.trial import Member, Trial


@case()
async def leaving_gives_back(trial: Trial) -> None:
    """What a member has not finished when it leaves goes to the next to come, whole."""
    topic, group = await trial.topic(), trial.name("group")
    records = await trial.published(10, topic=topic, keys=1)
    member = await trial.join(topic, group=group)
    taken = await member.take(10)
    await member.finish(taken[:4])
    await member.leave()
    heir = await trial.join(topic, group=group)
    again = await heir.take(6)
    expect.each_once(again, records[4:])
    before = {d.record.id: d for d in taken}
    for d in again:
        expect.equal("a record that came again", d.record, before[d.record.id].record)
        place = before[d.record.id]
        expect.equal("its place", (d.partition, d.offset), (place.partition, place.offset))
    await heir.finish(again)
    await heir.take_silence("all was finished")


@case()
async def leaving_gives_back_to_those_who_are_there(trial: Trial) -> None:
    """What a member leaves unfinished goes to the members that stay."""
    topic, group = await trial.topic(), trial.name("group")
    members = [await trial.join(topic, group=group) for _ in range(2)]
    records = await trial.published(40, topic=topic, keys=40)
    goes, _ = await trial.first_to_receive(members)
    await goes.leave()
    [stays] = [member for member in members if member is not goes]
    taken = await stays.take_all(record.id for record in records)
    await stays.finish(taken)
    expect.exact_or_unknown("the lag once all is finished", await stays.lag(), 0)


@case()
async def leaving_in_a_hurry_gives_back(trial: Trial) -> None:
    """Leaving by an exception, or by being cancelled, is leaving all the same."""
    records = await trial.published(10)
    topic, group = records[0].topic, trial.name("group")

    async def fail(deliveries: int) -> None:
        async with (
            trial.harness.connect() as backend,
            backend.subscribe([topic], group=group, start="earliest") as subscription,
        ):
            while deliveries > 0:
                deliveries -= len(await subscription.receive(deliveries))
            raise _Hurry

    try:
        await trial.bounded(lambda: "a member did not leave by its exception", fail(10))
    except* _Hurry:  # a task group in the backend may have wrapped it
        pass
    async with anyio.create_task_group() as tasks:

        async def be_cancelled() -> None:
            async with (
                trial.harness.connect() as backend,
                backend.subscribe([topic], group=group, start="earliest") as subscription,
            ):
                await subscription.receive(10)
                tasks.cancel_scope.cancel()
                await anyio.sleep_forever()

        await trial.bounded(lambda: "a cancelled member did not leave", be_cancelled())
    heir = await trial.join(topic, group=group)
    expect.each_once(await heir.take(10), records)


class _Hurry(Exception):  # noqa: N818 - not an error but a way to leave
    """What a member leaves by."""


@case(KILL)
async def a_dead_members_work_goes_to_others(trial: Trial) -> None:
    """What a member had in hand when it was killed goes to the members that live."""
    topic, group = await trial.topic(), trial.name("group")
    member = await trial.join(topic, group=group)
    records = await trial.published(20, topic=topic, keys=20)
    taken = await member.take(20)
    await member.finish(taken[:5])
    await member.die()
    heir = await trial.join(topic, group=group)
    await heir.finish(await heir.take_all({record.id for record in records} - {*expect.ids(taken[:5])}))
    if trial.capabilities.atomic_completion:  # elsewhere what was finished last may come again
        expect.exact_or_unknown("the lag once all is finished", await heir.lag(), 0)


def _silenced(trial: Trial, member: Member) -> AbstractAsyncContextManager[None]:
    freeze = trial.harness.freeze
    return nullcontext() if freeze is None else freeze(member.backend)


@case(BY_LEASE, LEASE)
async def a_silent_members_work_goes_to_others(trial: Trial) -> None:
    """What a member has in hand past its lease, while it is silent, goes to another."""
    topic, group = await trial.topic(), trial.name("group")
    silent = await trial.join(topic, group=group)
    records = await trial.published(10, topic=topic)
    await silent.take(10)
    async with _silenced(trial, silent):
        heir = await trial.join(topic, group=group)
        again = await heir.take(10)
        expect.each_once(again, records)
        await heir.finish(again)


@case(BY_LEASE, LEASE, ATOMIC)
async def a_late_completion_is_dropped(trial: Trial) -> None:
    """A member that lost its lease and wakes again publishes nothing for what another has finished."""
    (topic, to), group = await trial.topics(2), trial.name("group")
    silent = await trial.join(topic, group=group)
    records = await trial.published(10, topic=topic)
    taken = await silent.take(10)
    async with _silenced(trial, silent):
        heir = await trial.join(topic, group=group)
        again = await heir.take(10)
        for delivery in again:
            await heir.finish([delivery], [trial.output(to, delivery, "heir")])
    for delivery in taken:
        await silent.finish([delivery], [trial.output(to, delivery, "late")])
    wanted = [trial.output(to, record, "heir") for record in records]
    expect.each_once(await trial.read(to, 10), wanted, "published")


@case()
async def a_slow_member_keeps_what_it_has(trial: Trial) -> None:
    """What a member holds that lives, and is slow but not silent, comes to nobody else."""
    topic, group = await trial.topic(), trial.name("group")
    members = [await trial.join(topic, group=group) for _ in range(2)]
    records = await trial.published(20, topic=topic, keys=20)
    taken: list[Delivery] = []
    complete = anyio.Event()

    async def receive(member: Member) -> None:
        while True:
            taken.extend(await member.receive())
            if len(taken) >= len(records):
                complete.set()

    for member in members:
        trial.tasks.start_soon(receive, member)
    await trial.bounded(lambda: f"{len(taken)} of {len(records)} deliveries came", complete.wait())
    # Without `freeze` a member that does nothing is silent, and may be robbed after its lease.
    lease = 0.0 if trial.harness.freeze is None else trial.harness.lease or 0.0
    await anyio.sleep(max(2.5 * lease, trial.harness.quiet))
    expect.each_once(taken, records)


@case()
async def attempts_are_counted_as_declared(trial: Trial) -> None:
    """`Delivery.attempt` says how often the group has had it, where attempts are counted; else always 1."""
    records = await trial.published(3, keys=1)
    topic, group = records[0].topic, trial.name("group")
    for attempt in (1, 2, 3):
        member = await trial.join(topic, group=group)
        wanted = attempt if trial.capabilities.counts_attempts else 1
        for delivery in await member.take(3):
            expect.equal(f"the attempt at delivery {attempt}", delivery.attempt, wanted)
        await member.leave()
    other = await trial.join(topic, group=trial.name("group"))
    expect.equal("the attempt in another group", [d.attempt for d in await other.take(3)], [1, 1, 1])


@case(ORDER_OF_ONE_MEMBER)
async def what_comes_again_comes_in_order(trial: Trial) -> None:
    """The unfinished records of a key come again in their order, and before those behind them."""
    records = await trial.published(60, keys=4)
    topic, group = records[0].topic, trial.name("group")
    finished: set[str] = set()
    for size in (30, 20, 10):
        member = await trial.join(topic, group=group)
        taken = await member.take(size)
        expect.in_order(taken, [record for record in records if record.id in expect.ids(taken)])
        _expect_no_gap(taken, records, finished)
        some = taken[1::3]
        await member.finish(some)
        finished.update(expect.ids(some))
        await member.leave()


def _expect_no_gap(taken: Sequence[Delivery], records: Sequence[Record], finished: set[str]) -> None:
    """Of each key, what came begins with the first unfinished one and leaves out no other."""
    came = set(expect.ids(taken))
    for key in {record.key for record in records}:
        left = [r.id for r in records if r.key == key and r.id not in finished]
        seen = [id_ for id_ in left if id_ in came]
        expect.equal(f"the unfinished records of key {key!r} came again as", seen, left[: len(seen)])
