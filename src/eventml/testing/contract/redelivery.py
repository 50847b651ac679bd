"""What is delivered again, when, to whom and in which order; also while members join and leave."""

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
    ORDER_PER_KEY,
    case,
)
from eventml.testing.contract.work import Work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.records import Delivery, Record
    from eventml.testing.contract.trial import Member, Trial


@case()
async def leaving_returns_deliveries(trial: Trial) -> None:
    """Unfinished deliveries of a member that leaves are delivered unchanged to the next member."""
    topic, group = await trial.topic(), trial.name("group")
    records = await trial.published(10, topic=topic, keys=1)
    member = await trial.join(topic, group=group)
    taken = await member.take(10)
    await member.finish(taken[:4])
    await member.leave()
    successor = await trial.join(topic, group=group)
    again = await successor.take(6)
    expect.each_once(again, records[4:])
    before = {d.record.id: d for d in taken}
    for d in again:
        expect.equal("a redelivered record", d.record, before[d.record.id].record)
        place = before[d.record.id]
        expect.equal("its partition and offset", (d.partition, d.offset), (place.partition, place.offset))
    await successor.finish(again)
    await successor.take_silence("all was finished")


@case()
async def leaving_returns_deliveries_to_the_other_members(trial: Trial) -> None:
    """Unfinished deliveries of a member that leaves go to the members that stay."""
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
async def leaving_by_an_exception_returns_deliveries(trial: Trial) -> None:
    """A member that leaves by an exception or a cancellation returns its deliveries too."""
    records = await trial.published(10)
    topic, group = records[0].topic, trial.name("group")

    async def fail(deliveries: int) -> None:
        async with (
            trial.harness.connect() as backend,
            backend.subscribe([topic], group=group, start="earliest") as subscription,
        ):
            while deliveries > 0:
                deliveries -= len(await subscription.receive(deliveries))
            raise _LeaveError

    try:
        await trial.bounded(lambda: "a member did not leave by its exception", fail(10))
    except* _LeaveError:  # a task group in the backend may have wrapped it
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
    successor = await trial.join(topic, group=group)
    expect.each_once(await successor.take(10), records)


class _LeaveError(Exception):
    """Raised to leave a subscription."""


@case(KILL)
async def deliveries_of_a_killed_member_go_to_others(trial: Trial) -> None:
    """Deliveries in flight with a killed member go to the other members."""
    topic, group = await trial.topic(), trial.name("group")
    member = await trial.join(topic, group=group)
    records = await trial.published(20, topic=topic, keys=20)
    taken = await member.take(20)
    await member.finish(taken[:5])
    await member.die()
    successor = await trial.join(topic, group=group)
    await successor.finish(
        await successor.take_all({record.id for record in records} - {*expect.ids(taken[:5])})
    )
    if trial.capabilities.atomic_completion:  # elsewhere the last finished records may be redelivered
        expect.exact_or_unknown("the lag once all is finished", await successor.lag(), 0)


def _frozen(trial: Trial, member: Member) -> AbstractAsyncContextManager[None]:
    freeze = trial.harness.freeze
    return nullcontext() if freeze is None else freeze(member.backend)


@case(BY_LEASE, LEASE)
async def deliveries_of_a_frozen_member_go_to_others(trial: Trial) -> None:
    """Deliveries that a frozen member holds past their lease go to another member."""
    topic, group = await trial.topic(), trial.name("group")
    silent = await trial.join(topic, group=group)
    records = await trial.published(10, topic=topic)
    await silent.take(10)
    async with _frozen(trial, silent):
        successor = await trial.join(topic, group=group)
        again = await successor.take(10)
        expect.each_once(again, records)
        await successor.finish(again)


@case(BY_LEASE, LEASE, ATOMIC)
async def a_late_completion_is_dropped(trial: Trial) -> None:
    """A member that lost its lease publishes no outputs for deliveries that another has finished."""
    (topic, to), group = await trial.topics(2), trial.name("group")
    silent = await trial.join(topic, group=group)
    records = await trial.published(10, topic=topic)
    taken = await silent.take(10)
    async with _frozen(trial, silent):
        successor = await trial.join(topic, group=group)
        again = await successor.take(10)
        for delivery in again:
            await successor.finish([delivery], [trial.output(to, delivery, "successor")])
    for delivery in taken:
        await silent.finish([delivery], [trial.output(to, delivery, "late")])
    wanted = [trial.output(to, record, "successor") for record in records]
    expect.each_once(await trial.read(to, 10), wanted, "published")


@case()
async def a_slow_member_keeps_its_deliveries(trial: Trial) -> None:
    """Deliveries of a member that is alive but slow are not delivered to another."""
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
    # Without `freeze` an idle member renews no lease, and may lose its deliveries after one.
    lease = 0.0 if trial.harness.freeze is None else trial.harness.lease or 0.0
    await anyio.sleep(max(2.5 * lease, trial.harness.quiet))
    expect.each_once(taken, records)


@case()
async def attempts_are_counted_as_declared(trial: Trial) -> None:
    """`Delivery.attempt` counts the deliveries to the group where attempts are counted; else it is 1."""
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
async def redelivery_keeps_the_order(trial: Trial) -> None:
    """The unfinished records of a key are redelivered in order, before later records of the key."""
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
    """Fail unless the records of each key begin with its first unfinished one and skip none."""
    came = set(expect.ids(taken))
    for key in {record.key for record in records}:
        left = [r.id for r in records if r.key == key and r.id not in finished]
        seen = [id_ for id_ in left if id_ in came]
        expect.equal(f"the unfinished records of key {key!r} were redelivered as", seen, left[: len(seen)])


_CALLS, _SIZE = 60, 20


@case()
async def nothing_is_lost_while_members_join_and_leave(trial: Trial) -> None:
    """While members join and leave under load, every record is finished and nothing is left."""
    (topic, to), group = await trial.topics(2), trial.name("group")
    work, _ = await _join_and_leave(trial, topic, group, to)
    successor = await trial.join(topic, group=group)
    await successor.take_silence(f"all was finished, after {len(work.received)} deliveries")
    expect.exact_or_unknown("the lag once all is finished", await successor.lag(), 0)


@case(ATOMIC)
async def nothing_is_doubled_while_members_join_and_leave(trial: Trial) -> None:
    """While members join and leave under load, every input has exactly one output."""
    (topic, to), group = await trial.topics(2), trial.name("group")
    _, records = await _join_and_leave(trial, topic, group, to)
    wanted = [trial.output(to, record) for record in records]
    expect.each_once(await trial.read(to, len(wanted)), wanted, "published")


@case(ORDER_PER_KEY)
async def order_is_kept_while_members_join_and_leave(trial: Trial) -> None:
    """While members join and leave under load, the records of a key are delivered in order.

    While a member has one in flight, no other member receives the next.
    """
    (topic, to), group = await trial.topics(2), trial.name("group")
    work, records = await _join_and_leave(trial, topic, group, to)
    expect.in_order(work.deliveries, records)
    expect.equal("keys that two members had in flight at the same time", sorted(map(repr, work.clashes)), [])


async def _join_and_leave(trial: Trial, topic: str, group: str, to: str) -> tuple[Work, list[Record]]:
    records = trial.records(topic, _CALLS * _SIZE, keys=24)
    published = anyio.Event()

    async def publish() -> None:
        for start in range(0, len(records), _SIZE):
            await trial.publish(records[start : start + _SIZE])
            await anyio.sleep(0.005)
        published.set()

    work = Work(trial, to=to, limit=7, pause=0.002)
    first = await trial.join(topic, group=group)
    work.start(first)
    trial.tasks.start_soon(publish)
    second = await trial.join(topic, group=group)
    third = await trial.join(topic, group=group)
    work.start(second, third)
    await _finish_some_more(work)
    await work.stop(first)
    await first.leave()
    await _finish_some_more(work)
    fourth = await trial.join(topic, group=group)
    work.start(fourth)
    await work.stop(third)
    with anyio.move_on_after(trial.harness.quiet):
        await third.receive(7)  # in flight when it leaves, so it is redelivered
    await third.leave()
    await trial.bounded(lambda: "publishing did not end", published.wait())
    await work.until_finished({record.id for record in records})
    await work.stop(second, fourth)
    return work, records


async def _finish_some_more(work: Work) -> None:
    before = len(work.finished)
    await work.until(
        lambda: len(work.finished) > before + 50, lambda: f"{len(work.finished)} records were completed"
    )
