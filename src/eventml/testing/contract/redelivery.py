"""Checks of redelivery: which records, when, to which member, in which order; as members join and leave."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from unittest import SkipTest

import anyio
from anyio.lowlevel import checkpoint

from eventml.backends.base import NamesMembers
from eventml.records import Delivery
from eventml.testing.contract.case import case, expect_each_once, expect_equal, expect_in_order, ids
from eventml.testing.contract.loops import MemberLoops
from eventml.testing.contract.trial import Member, Trial


@case()
async def leaving_returns_deliveries(trial: Trial) -> None:
    """Unfinished deliveries of a member that leaves are delivered unchanged to the next member."""
    records = await trial.published(10, keys=1)
    member = await trial.join()
    taken = await member.take(10)
    await member.finish(taken[:4])
    await member.leave()
    successor = await trial.join()
    again = await successor.take(6)
    expect_each_once(again, records[4:])
    before = {d.record.id: (d.record, d.partition, d.offset) for d in taken}
    for d in again:
        got = (d.record, d.partition, d.offset)
        expect_equal("a redelivered record, its partition and offset", got, before[d.record.id])
    await successor.finish(again)
    await successor.expect_nothing("all was finished")


@case()
async def leaving_returns_deliveries_to_the_other_members(trial: Trial) -> None:
    """Unfinished deliveries of a member that leaves go to the members that stay."""
    members = [await trial.join() for _ in range(2)]
    records = await trial.published(40, keys=40)
    goes, stays, _ = await trial.first_to_receive(members)
    await goes.leave()
    await stays.finish(await stays.take_all(record.id for record in records))
    await stays.expect_lag("once all is finished", 0)


@case()
async def leaving_by_an_exception_returns_deliveries(trial: Trial) -> None:
    """A member that leaves by an exception or a cancellation returns its deliveries too."""
    records = await trial.published(10)
    for cancelled in (False, True):
        with anyio.CancelScope() as scope:
            try:
                async with trial.backend.subscribe(
                    [trial.topic], group=trial.group, start="earliest"
                ) as subscription:
                    await trial.within("receive() returned nothing", subscription.receive(10))
                    if cancelled:
                        scope.cancel()
                        await checkpoint()
                    raise LookupError("on purpose")  # noqa: TRY301 - it leaves the subscription
            except* LookupError:
                pass
    successor = await trial.join()
    expect_each_once(await successor.take(10), records)


@case()
async def deliveries_of_a_killed_member_go_to_others(trial: Trial) -> None:
    """Deliveries in flight with a killed member go to the other members."""
    kill = trial.given("kill")
    member = await trial.join()
    records = await trial.published(20, keys=20)
    taken = await member.take(20)
    await member.finish(taken[:5])
    await member.die(kill)
    successor = await trial.join()
    left = {record.id for record in records}.difference(ids(taken[:5]))
    await successor.finish(await successor.take_all(left))
    if trial.backend.capabilities.atomic_completion:  # elsewhere the last finished may be redelivered
        await successor.expect_lag("once all is finished", 0)


@case()
async def a_member_takes_the_place_of_a_killed_one_of_its_name(trial: Trial) -> None:
    """It gets what the killed one had in flight, and what is published later."""
    kill = trial.given("kill")
    if not isinstance(trial.backend, NamesMembers):
        raise SkipTest("the backend names no members")
    member = await trial.join(named="one")
    records = await trial.published(20, keys=20)
    taken = await member.take(20)
    await member.finish(taken[:5])
    await member.die(kill)
    successor = await trial.join(named="one")
    left = {record.id for record in records}.difference(ids(taken[:5]))
    await successor.finish(await successor.take_all(left))
    later = await trial.published(20, keys=20)
    await successor.finish(await successor.take_all(record.id for record in later))


@case(redelivery="lease")
async def deliveries_of_a_frozen_member_go_to_others(trial: Trial) -> None:
    """Deliveries that a frozen member holds past their lease go to another member.

    Where completion is atomic, a member that lost its lease publishes no outputs for deliveries that
    another has finished. Where attempts are counted, it learns by then that they are another's.
    """
    trial.given("lease")
    [to] = await trial.topics(1)
    frozen = await trial.join()
    records = await trial.published(10)
    taken = await frozen.take(10)
    async with _frozen(trial, frozen):
        successor = await trial.join()
        again = await successor.take(10)
        expect_each_once(again, records)
        for delivery in again:
            await successor.finish([delivery], to, by="successor")
    if trial.backend.capabilities.counts_attempts:
        await frozen.begin(taken)
        expect_equal("what is lost, once it was begun too late", frozen.knows_lost(taken), ids(taken))
    if trial.backend.capabilities.atomic_completion:
        for delivery in taken:
            await frozen.finish([delivery], to, by="late")
        await trial.expect_outputs(to, records, by="successor")


def _frozen(trial: Trial, member: Member) -> AbstractAsyncContextManager[None]:
    freeze = trial.harness.freeze
    return nullcontext() if freeze is None else freeze(member.backend)


@case()
async def a_slow_member_keeps_its_deliveries(trial: Trial) -> None:
    """Deliveries of a member that is alive but slow are not delivered to another."""
    members = [await trial.join() for _ in range(2)]
    records = await trial.published(20, keys=20)
    taken: list[Delivery] = []
    complete = anyio.Event()

    async def receive(member: Member) -> None:
        while True:
            taken.extend(await member.receive())
            if len(taken) >= len(records):
                complete.set()

    for member in members:
        trial.tasks.start_soon(receive, member)
    await trial.within(f"the {len(records)} deliveries did not come", complete.wait())
    # Without `freeze` an idle member renews no lease, and may lose its deliveries after one.
    lease = 0.0 if trial.harness.freeze is None else trial.harness.lease or 0.0
    await anyio.sleep(max(2.5 * lease, trial.harness.quiet))
    expect_each_once(taken, records)


@case()
async def attempts_are_counted_as_declared(trial: Trial) -> None:
    """If attempts are counted, a group's first delivery counts, and later those in a call; else all are 1."""
    await trial.published(3, keys=1)
    counts = trial.backend.capabilities.counts_attempts

    async def take(member: Member, when: str, wanted: list[int]) -> list[Delivery]:
        taken = sorted(await member.take(3), key=lambda delivery: delivery.record.value)
        expect_equal(f"the attempts {when}", [d.attempt for d in taken], wanted if counts else [1] * 3)
        return taken

    # Of each member, by position; the last but one finds what another one has called, and calls nothing.
    calls: list[list[list[int]]] = [[], [], [[0], [1, 2]], [], [[0, 1], [2], [0]]]
    wanted_attempts = ([1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 3, 3], [2, 3, 3])
    for member_calls, wanted in zip(calls, wanted_attempts, strict=True):
        member = await trial.join()
        taken = await take(member, "of the next member", wanted)
        for call in member_calls if counts else ():
            await member.begin([taken[position] for position in call])
        await member.leave()
    member = await trial.join()
    await take(member, "of the last member", [3, 3, 3])
    other = await trial.join(group=trial.name("group"))
    expect_equal("the attempts in another group", [d.attempt for d in await other.take(3)], [1, 1, 1])


@case(ordering=("per_key", "single_member"))
async def redelivery_keeps_the_order(trial: Trial) -> None:
    """The unfinished records of a key are redelivered in order, before later records of the key."""
    records = await trial.published(60, keys=4)
    finished: set[str] = set()
    for size in (30, 20, 10):
        member = await trial.join()
        taken = await member.take(size)
        for key in {record.key for record in records}:
            left = [r.id for r in records if r.key == key and r.id not in finished]
            came = [d.record.id for d in taken if d.record.key == key and d.record.id not in finished]
            expect_equal(f"the unfinished records of key {key!r} that came", came, left[: len(came)])
        some = taken[1::3]
        await member.finish(some)
        finished.update(ids(some))
        await member.leave()


_CALLS, _SIZE = 60, 20


@case()
async def nothing_is_lost_while_members_join_and_leave(trial: Trial) -> None:
    """While members join and leave under load, every record is finished and nothing is left.

    Unfinished deliveries of a member that leaves go to the members that stay. Where completion is atomic,
    every input has exactly one output. Where order is kept per key, the records of a key are delivered in
    order, and while a member has one in flight, no other receives the next.
    """
    [to] = await trial.topics(1)
    records = trial.records(_CALLS * _SIZE, keys=24)
    published = anyio.Event()
    loops = MemberLoops(trial, to=to)

    async def publish() -> None:
        for start in range(0, len(records), _SIZE):
            await trial.publish(records[start : start + _SIZE])
            await anyio.sleep(0.005)
        published.set()

    async def finish_some_more() -> None:
        wanted = len(loops.finished) + 50
        await loops.until(lambda: len(loops.finished) > wanted)

    first = await trial.join()
    loops.start(first)
    trial.tasks.start_soon(publish)
    second, third = await trial.join(), await trial.join()
    loops.start(second, third)
    await finish_some_more()
    await loops.stop(first)
    await first.leave()
    await finish_some_more()
    fourth = await trial.join()
    loops.start(fourth)
    await loops.stop(third)
    with anyio.move_on_after(trial.harness.quiet):
        await third.receive(7)  # in flight when it leaves, so it is redelivered
    await third.leave()
    await trial.within("publishing did not end", published.wait())
    await loops.until_finished(records)
    await loops.stop(second, fourth)

    successor = await trial.join()
    await successor.expect_nothing("all was finished")
    await successor.expect_lag("once all is finished", 0)
    if trial.backend.capabilities.atomic_completion:
        await trial.expect_outputs(to, records)
    if trial.backend.capabilities.ordering == "per_key":
        expect_in_order(loops.deliveries, records)
        expect_equal("keys that two members had in flight at once", sorted(map(repr, loops.clashes)), [])
