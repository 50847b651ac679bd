"""Checks of `Subscription.receive` and `Subscription.complete`."""

from __future__ import annotations

from random import Random
from unittest import SkipTest

import anyio
from anyio.lowlevel import checkpoint
from msgspec.structs import replace

from eventml.backends.base import Completion, Dedupe
from eventml.records import Delivery
from eventml.testing.contract.case import (
    case,
    expect,
    expect_each_once,
    expect_equal,
    expect_in_order,
    expect_refused,
    ids,
)
from eventml.testing.contract.trial import Member, Trial, output_of

_WINDOW = 100  # ids that a group records where the backend deduplicates
_CALLS = 80  # for what is left of 1,000 records after 20 small calls
_STEPS = 12
_BRIEFLY = (0.0, 0.0002, 0.001, 0.003)  # seconds until a receive is cancelled, in turn


# Receiving


@case()
async def a_receive_waits(trial: Trial) -> None:
    """`receive` waits while the topic is empty, and returns when a record is published.

    `publish([])` and `complete([])` return and have no effect.
    """
    member = await trial.join()
    came: list[Delivery] = []
    returned = anyio.Event()

    async def receive() -> None:
        came.extend(await member.receive())
        returned.set()

    trial.tasks.start_soon(receive)
    await trial.publish([])
    await member.complete([])
    await anyio.sleep(trial.harness.quiet)
    expect(not returned.is_set(), f"the topic was empty, but receive() returned {ids(came)}")
    records = await trial.published(1)
    await trial.within("receive() did not notice what was published", returned.wait())
    expect_each_once(came, records)


@case()
async def a_receive_takes_what_is_there(trial: Trial) -> None:
    """`receive(limit)` returns at least one delivery and never more than `limit`, and it returns batches.

    1,000 waiting records take fewer than 100 calls.
    """
    records = await trial.published(1_000)
    member = await trial.join()
    deliveries: list[Delivery] = []
    for limit in [1, 2, 3, 7] * 5 + [1_000] * _CALLS:  # Member.receive checks each
        deliveries += await trial.within("receive() returned nothing", member.receive(limit))
        if len(deliveries) >= len(records):
            break
    expect_each_once(deliveries, records)


@case()
async def a_receive_is_bounded_in_bytes(trial: Trial) -> None:
    """`receive` returns at most `max_bytes` of values and keys, and a record that is larger alone.

    This holds for members and for readers without a group.
    """
    most = trial.backend.capabilities.max_bytes
    if most is None:
        raise SkipTest("the backend bounds no read in bytes")
    sizes = [most // 3, most // 3, most // 3, most, most // 3, most + 1, *[most // 3] * 6]
    records = [
        replace(record, value=bytes(size)) for record, size in zip(trial.records(12), sizes, strict=True)
    ]
    for record in records:
        await trial.publish([record])
    for reading in (await trial.join(), await trial.reader()):
        expect_each_once(await reading.take(len(records)), records)  # Member.receive checks each


@case()
async def a_cancelled_receive_loses_nothing(trial: Trial) -> None:
    """`receive` may be cancelled at any moment: each record is still delivered exactly once.

    This holds for members and for readers without a group.
    """
    member = await trial.join()
    await _cancel_and_count(trial, member)
    await member.expect_lag("once all is finished", 0)
    await _cancel_and_count(trial, await trial.reader(start="latest"))


async def _cancel_and_count(trial: Trial, member: Member) -> None:
    """Cancel a waiting receive a few steps of the event loop, or a short time, after a record was sent."""
    records = trial.records(400)
    deliveries: list[Delivery] = []

    async def receive() -> None:
        deliveries.extend(await member.receive(3))

    for position, record in enumerate(records):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await checkpoint()
            await trial.publish([record])
            if position % 2:
                await anyio.sleep(_BRIEFLY[position // 2 % len(_BRIEFLY)])
            else:
                for _ in range(position // 2 % _STEPS):
                    await checkpoint()
            tasks.cancel_scope.cancel()
    deliveries += await member.take(len(records) - len(deliveries))
    expect_each_once(deliveries, records)
    await member.finish(deliveries)
    await member.expect_nothing("all were delivered")


@case()
async def completing_overlaps_receiving(trial: Trial) -> None:
    """Completions may overlap each other and a receive: every input is completed with its output."""
    records = await trial.published(500)
    [to] = await trial.topics(1)
    member = await trial.join()
    deliveries: list[Delivery] = []
    async with anyio.create_task_group() as tasks:
        while len(deliveries) < len(records):
            some = await trial.within("receive() returned nothing", member.receive(20))
            deliveries += some
            for delivery in some:
                tasks.start_soon(member.finish, [delivery], to)
    expect_each_once(deliveries, records)
    await trial.expect_outputs(to, records)
    await member.leave()
    await trial.expect_finished()


@case()
async def an_idle_member_leaves_records_to_others(trial: Trial) -> None:
    """A subscription prefetches a bounded number: a member that stops receiving does not hold the backlog."""
    idle = await trial.join()
    for _ in range(4):
        await trial.published(2_500, keys=100)
    await idle.take(1, 1)
    busy = await trial.join()
    await busy.take(1_000)


# Completing


@case()
async def completing_publishes_and_acks(trial: Trial) -> None:
    """When `complete` returns, the outputs are published and the inputs are not delivered again.

    One input may have several outputs on several topics. The outputs of a key keep their order where
    the backend keeps an order.
    """
    await trial.published(20)
    topics = await trial.topics(2)
    member = await trial.join()
    done = [
        Completion(d, [output_of(topic, d, f"{n}") for n in range(3) for topic in topics])
        for d in await member.take(20)
    ]
    await member.complete(done[:1])
    await member.complete(done[1:])
    for topic in topics:
        wanted = [output for one in done for output in one.outputs if output.topic == topic]
        published = await trial.expect_topic(topic, wanted)
        if trial.backend.capabilities.ordering != "none":
            expect_in_order(published, wanted)
    await member.leave()
    await trial.expect_finished()


@case()
async def acks_come_in_any_order(trial: Trial) -> None:
    """Acks may come in any order: exactly the unfinished records are delivered again after a rejoin.

    Where completion is not atomic, finished records may be delivered again too.
    """
    random = Random(20)  # noqa: S311 - a shuffle, the same in every run
    left = {record.id for record in await trial.published(60)}
    for keep in (40, 15, 1, 0):
        member = await trial.join()
        taken = await member.take_all(left)
        if trial.backend.capabilities.atomic_completion:
            expect_equal("finished records that were delivered again", set(ids(taken)) - left, set())
        mine = [d for d in taken if d.record.id in left]
        random.shuffle(mine)
        done, left = mine[keep:], {d.record.id for d in mine[:keep]}
        while done:
            size = random.randint(1, 7)
            await member.finish(done[:size])
            done = done[size:]
        await member.leave()
    await trial.expect_finished()


@case()
async def completing_twice_is_harmless(trial: Trial) -> None:
    """A second completion of a delivery, in the same call or a later one, has no effect.

    Its outputs are dropped where completion is atomic.
    """
    records = await trial.published(4, keys=1)
    [to] = await trial.topics(1)
    member = await trial.join()
    first, second, *_ = await member.take(4)
    await member.finish([first], to)
    await member.finish([first, second, second], to)
    if trial.backend.capabilities.atomic_completion:
        await trial.expect_outputs(to, records[:2])
    await member.leave()
    successor = await trial.join()
    expect_each_once(await successor.take(2), records[2:])


@case(atomic_completion=True)
async def one_input_gives_one_output(trial: Trial) -> None:
    """However many members complete a delivery, its outputs are published once.

    A completion of a delivery that another member has completed is dropped without an error. Where the
    backend deduplicates, it records no id either.
    """
    deduplicates = trial.backend.capabilities.deduplicates
    dedupe: Dedupe = "drop" if deduplicates else "off"
    [to] = await trial.topics(1)
    members = [await trial.join(window=_WINDOW if deduplicates else 0) for _ in range(2)]
    records = await trial.published(32, keys=32)
    owner, other, taken = await trial.first_to_receive(members)
    await other.finish([taken], to, by="another")
    await owner.finish([taken], to, by="owner")
    for member in (other, owner):
        await member.finish([taken], to, by="again", dedupe=dedupe)
    if deduplicates:
        expect_equal("the ids found", await owner.completed_before([taken]), [])
    reader = await trial.reader(to)
    await reader.take(1)
    await reader.expect_nothing("one input should have one output")
    for member in members:
        await member.leave()
    successor = await trial.join()
    expect_each_once(await successor.take(31), [r for r in records if r.id != taken.record.id])


@case()
async def a_refused_output_is_named(trial: Trial) -> None:
    """`PublishError.failed` names the completions with refused outputs; only those are not acked.

    Where the backend deduplicates, the ids of those are not recorded either.
    """
    refused, records = trial.given("refused"), await trial.published(5, keys=1)
    deduplicates = trial.backend.capabilities.deduplicates
    [to] = await trial.topics(1)
    member = await trial.join(window=_WINDOW if deduplicates else 0)
    taken = await member.take(5)
    done = [Completion(d, [output_of(to, d)], "drop" if deduplicates else "off") for d in taken]
    done[1] = replace(done[1], outputs=[refused(to)])
    await expect_refused(member.complete(done), 1)
    if deduplicates:
        expect_equal("the ids found", await member.completed_before(taken), ids([taken[0], *taken[2:]]))
    await trial.expect_outputs(to, [records[0], *records[2:]])
    await member.leave()
    successor = await trial.join()
    again = await successor.take(1)
    expect_each_once(again, records[1:2])
    await successor.finish(again)
