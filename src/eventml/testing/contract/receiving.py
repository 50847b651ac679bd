"""What `Subscription.receive` promises."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import checkpoint

from eventml.testing.contract import expect
from eventml.testing.contract.case import case

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventml.records import Delivery, Record
    from eventml.testing.contract.trial import Member, Trial

_CANCELLATIONS = 300
_CALLS = 100  # for 1,000 records
_ROUNDS, _STEPS = 120, 12
_BRIEFLY = (0.0, 0.0002, 0.001, 0.003)  # seconds until a receive is cancelled, in turn


@case()
async def a_receive_keeps_to_its_limit(trial: Trial) -> None:
    """`receive(limit)` returns at least one delivery and never more than `limit`."""
    records = await trial.published(100)
    member = await trial.join(records[0].topic, group=trial.name("group"))
    deliveries: list[Delivery] = []
    for limit in cycle((1, 2, 3, 7)):  # Member.receive checks each
        deliveries += await member.take(1, 1) if limit == 1 else await _receive(trial, member, limit)
        if len(deliveries) >= len(records):
            break
    expect.each_once(deliveries, records)


@case()
async def a_receive_waits(trial: Trial) -> None:
    """`receive` waits while the topic is empty, and returns when a record is published."""
    topic = await trial.topic()
    member = await trial.join(topic, group=trial.name("group"))
    came: list[Delivery] = []
    returned = anyio.Event()

    async def receive() -> None:
        came.extend(await member.receive())
        returned.set()

    trial.tasks.start_soon(receive)
    await anyio.sleep(trial.harness.quiet)
    expect.true(not returned.is_set(), f"the topic was empty, but receive() returned {expect.ids(came)}")
    records = await trial.published(1, topic=topic)
    await trial.bounded(lambda: "receive() did not notice what was published", returned.wait())
    expect.each_once(came, records)


@case()
async def a_receive_takes_what_is_there(trial: Trial) -> None:
    """`receive` returns batches: 1,000 waiting records take fewer than 100 calls."""
    records = await trial.published(1_000)
    member = await trial.join(records[0].topic, group=trial.name("group"))
    deliveries: list[Delivery] = []
    calls = 0
    while len(deliveries) < len(records):
        deliveries += await _receive(trial, member, 1_000)
        calls += 1
    expect.true(calls < _CALLS, f"{calls} calls of receive(1000) for {len(records)} records that waited")


@case()
async def a_cancelled_receive_loses_nothing(trial: Trial) -> None:
    """`receive` may be cancelled at any moment: each record is still delivered exactly once."""
    topic = await trial.topic()
    member = await trial.join(topic, group=trial.name("group"))
    await _cancel_and_count(trial, topic, member)
    expect.exact_or_unknown("the lag once all is finished", await member.lag(), 0)


@case()
async def a_readers_cancelled_receive_loses_nothing(trial: Trial) -> None:
    """The same holds for a reader without a group."""
    topic = await trial.topic()
    await _cancel_and_count(trial, topic, await trial.join(topic, group=None))


async def _cancel_and_count(trial: Trial, topic: str, member: Member) -> None:
    records = trial.records(topic, 400)
    some, more = records[:_ROUNDS], records[_ROUNDS:]
    deliveries = await _cancel_by_steps(trial, member, some)
    deliveries += await _cancel_by_time(trial, member, more)
    if len(deliveries) < len(records):
        deliveries += await member.take(len(records) - len(deliveries))
    expect.each_once(deliveries, records)
    await member.finish(deliveries)
    await member.take_silence("all were delivered")


async def _cancel_by_steps(trial: Trial, member: Member, records: Sequence[Record]) -> list[Delivery]:
    """Cancel a waiting receive a few event-loop steps after a record was published."""
    deliveries: list[Delivery] = []

    async def receive(scope: anyio.CancelScope) -> None:
        with scope:
            deliveries.extend(await member.receive(3))

    for position, record in enumerate(records):
        async with anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()
            tasks.start_soon(receive, scope)
            await checkpoint()
            await trial.publish([record])
            for _ in range(position % _STEPS):
                await checkpoint()
            scope.cancel()
    return deliveries


async def _cancel_by_time(trial: Trial, member: Member, records: Sequence[Record]) -> list[Delivery]:
    """Cancel receives after short times, hundreds of times, while records are published."""
    deliveries: list[Delivery] = []
    published = anyio.Event()

    async def publish() -> None:
        for start in range(0, len(records), 4):
            await trial.publish(records[start : start + 4])
            await anyio.sleep(0.002)
        published.set()

    cancelled = 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish)
        for seconds in cycle(_BRIEFLY):
            with anyio.move_on_after(seconds) as scope:
                deliveries += await member.receive(3)
            cancelled += scope.cancelled_caught
            if cancelled >= _CANCELLATIONS and published.is_set():
                return deliveries
    raise AssertionError  # for the type checker: the cycle ends by returning


@case()
async def completing_overlaps_receiving(trial: Trial) -> None:
    """Completions may overlap each other and a receive: every input is completed with its output."""
    records = await trial.published(500)
    topic, to, group = records[0].topic, await trial.topic(), trial.name("group")
    member = await trial.join(topic, group=group)
    deliveries: list[Delivery] = []

    async def finish(delivery: Delivery) -> None:
        await member.finish([delivery], [trial.output(to, delivery)])

    async with anyio.create_task_group() as tasks:
        while len(deliveries) < len(records):
            some = await _receive(trial, member, 20)
            deliveries += some
            for delivery in some:
                tasks.start_soon(finish, delivery)
    expect.each_once(deliveries, records)
    expect.each_once(await trial.read(to, 500), [trial.output(to, record) for record in records], "published")
    await member.leave()
    successor = await trial.join(topic, group=group)
    await successor.take_silence("all was finished")


@case()
async def an_idle_member_leaves_records_to_others(trial: Trial) -> None:
    """A subscription prefetches a bounded number: a member that stops receiving does not hold the backlog."""
    topic, group = await trial.topic(), trial.name("group")
    idle = await trial.join(topic, group=group)
    for _ in range(4):
        await trial.published(2_500, topic=topic, keys=100)
    await idle.take(1, 1)
    busy = await trial.join(topic, group=group)
    await busy.take(1_000)


async def _receive(trial: Trial, member: Member, limit: int) -> Sequence[Delivery]:
    return await trial.bounded(lambda: f"receive({limit}) returned nothing", member.receive(limit))
