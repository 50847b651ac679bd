"""What `Subscription.complete` promises."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from eventml.backends.base import Completion
from eventml.errors import PublishError
from eventml.testing.contract import expect
from eventml.testing.contract.case import ATOMIC, ORDER_OF_ONE_MEMBER, REFUSED, case

if TYPE_CHECKING:
    from eventml.records import Record
    from eventml.testing.contract.trial import Trial


@case()
async def completing_publishes_and_acks(trial: Trial) -> None:
    """When `complete` returns, the outputs are published and the inputs are not delivered again."""
    records = await trial.published(30)
    topic, to, group = records[0].topic, await trial.topic(), trial.name("group")
    member = await trial.join(topic, group=group)
    wanted = {}
    for delivery in await member.take(30):
        output = trial.output(to, delivery)
        wanted[output.id] = output
        await member.finish([delivery], [output])
    for came in await trial.read(to, 30):
        expect.equal("an output", came.record, wanted.pop(came.record.id, None))
    await member.leave()
    successor = await trial.join(topic, group=group)
    await successor.take_silence("all was finished")


@case(ORDER_OF_ONE_MEMBER)
async def a_completion_may_have_many_outputs(trial: Trial) -> None:
    """One input may have several outputs on several topics; the outputs of a key keep their order."""
    records = await trial.published(20)
    topics = await trial.topics(2)
    member = await trial.join(records[0].topic, group=trial.name("group"))
    outputs: list[Record] = []
    done = []
    for delivery in await member.take(20):
        mine = [trial.output(topic, delivery, f"{n}") for n in range(3) for topic in topics]
        outputs += mine
        done.append(Completion(delivery, mine))
    await member.complete(done)
    for topic in topics:
        wanted = [output for output in outputs if output.topic == topic]
        deliveries = await trial.read(topic, 60)
        expect.each_once(deliveries, wanted)
        expect.in_order(deliveries, wanted)


@case()
async def acks_come_in_any_order(trial: Trial) -> None:
    """Acks may come in any order: exactly the unfinished records are delivered again after a rejoin.

    Where completion is not atomic, finished records may be delivered again too.
    """
    random = Random(20)  # noqa: S311 - a shuffle, the same in every run
    records = await trial.published(60)
    topic, group = records[0].topic, trial.name("group")
    left = {record.id for record in records}
    for keep in (40, 15, 1, 0):
        member = await trial.join(topic, group=group)
        taken = await member.take_all(left)
        if trial.capabilities.atomic_completion:
            expect.equal("finished records that were delivered again", set(expect.ids(taken)) - left, set())
        mine = [d for d in taken if d.record.id in left]
        random.shuffle(mine)
        done, left = mine[keep:], {d.record.id for d in mine[:keep]}
        while done:
            size = random.randint(1, 7)
            await member.finish(done[:size])
            done = done[size:]
        await member.leave()
    successor = await trial.join(topic, group=group)
    await successor.take_silence("all was finished")


@case()
async def completing_twice_is_harmless(trial: Trial) -> None:
    """A second completion of a delivery, in the same call or a later one, has no effect.

    Its outputs are dropped where completion is atomic.
    """
    records = await trial.published(4, keys=1)
    topic, to, group = records[0].topic, await trial.topic(), trial.name("group")
    member = await trial.join(topic, group=group)
    taken = await member.take(4)
    first = Completion(taken[0], [trial.output(to, taken[0])])
    second = Completion(taken[1], [trial.output(to, taken[1])])
    await member.complete([first])
    await member.complete([first, second, second])
    if trial.capabilities.atomic_completion:
        expect.each_once(
            await trial.read(to, 2), [trial.output(to, record) for record in records[:2]], "published"
        )
    await member.leave()
    successor = await trial.join(topic, group=group)
    expect.each_once(await successor.take(2), records[2:])


@case(ATOMIC)
async def one_input_gives_one_output(trial: Trial) -> None:
    """However many members complete a delivery, its outputs are published once.

    The completion of a member that does not own the delivery is dropped without an error.
    """
    (topic, to), group = await trial.topics(2), trial.name("group")
    members = [await trial.join(topic, group=group) for _ in range(2)]
    records = await trial.published(32, topic=topic, keys=32)
    holder, taken = await trial.first_to_receive(members)
    [other] = [member for member in members if member is not holder]
    await other.finish([taken], [trial.output(to, taken, "by another")])
    await holder.finish([taken], [trial.output(to, taken, "by its holder")])
    await other.finish([taken], [trial.output(to, taken, "by another again")])
    await trial.read(to, 1)
    for member in members:
        await member.leave()
    successor = await trial.join(topic, group=group)
    expect.each_once(await successor.take(31), [r for r in records if r.id != taken.record.id])


@case(REFUSED)
async def a_refused_output_is_named(trial: Trial) -> None:
    """`PublishError.failed` names the completions with refused outputs; only those are not acked."""
    records = await trial.published(5, keys=1)
    topic, to, group = records[0].topic, await trial.topic(), trial.name("group")
    if trial.harness.refused is None:
        raise RuntimeError("the case must declare the need REFUSED")
    member = await trial.join(topic, group=group)
    taken = await member.take(5)
    done = [Completion(d, [trial.output(to, d)]) for d in taken]
    done[1] = Completion(taken[1], [trial.harness.refused(to)])
    try:
        await member.complete(done)
    except PublishError as exc:
        expect.equal("the positions in PublishError.failed", sorted(exc.failed), [1])
    else:
        raise AssertionError("complete() returned although the broker refused an output")
    wanted = [trial.output(to, record) for record in (records[0], *records[2:])]
    expect.each_once(await trial.read(to, 4), wanted, "published")
    await member.leave()
    successor = await trial.join(topic, group=group)
    again = await successor.take(1)
    expect.each_once(again, records[1:2])
    await successor.finish(again)
