"""What holds while members come and go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from eventml.testing.contract import expect
from eventml.testing.contract.case import ATOMIC, ORDER_PER_KEY, case
from eventml.testing.contract.work import Work

if TYPE_CHECKING:
    from eventml.records import Record
    from eventml.testing.contract.trial import Trial

_CALLS, _SIZE = 60, 20


@case()
async def nothing_is_lost_while_members_come_and_go(trial: Trial) -> None:
    """Under load, members join and leave: every record is finished, and in the end nothing is left."""
    (topic, to), group = await trial.topics(2), trial.name("group")
    work, _ = await _come_and_go(trial, topic, group, to)
    heir = await trial.join(topic, group=group)
    await heir.take_silence(f"all was finished, after {len(work.received)} deliveries")
    expect.exact_or_unknown("the lag once all is finished", await heir.lag(), 0)


@case(ATOMIC)
async def nothing_is_doubled_while_members_come_and_go(trial: Trial) -> None:
    """Under load, members join and leave: every input has one output."""
    (topic, to), group = await trial.topics(2), trial.name("group")
    _, records = await _come_and_go(trial, topic, group, to)
    wanted = [trial.output(to, record) for record in records]
    expect.each_once(await trial.read(to, len(wanted)), wanted, "published")


@case(ORDER_PER_KEY)
async def order_is_kept_while_members_come_and_go(trial: Trial) -> None:
    """The records of one key come to the group in order, and to one member at a time, whoever is there.

    While a member has one in hand, no other member receives the next.
    """
    (topic, to), group = await trial.topics(2), trial.name("group")
    work, records = await _come_and_go(trial, topic, group, to)
    expect.in_order(work.deliveries, records)
    expect.equal("keys that two members had in hand at a time", sorted(map(repr, work.clashes)), [])


async def _come_and_go(trial: Trial, topic: str, group: str, to: str) -> tuple[Work, list[Record]]:
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
    await _some_more(work)
    await work.stop(first)
    await first.leave()
    await _some_more(work)
    fourth = await trial.join(topic, group=group)
    work.start(fourth)
    await work.stop(third)
    with anyio.move_on_after(trial.harness.quiet):
        await third.receive(7)  # in hand when it leaves, so this comes again
    await third.leave()
    await trial.bounded(lambda: "publishing did not come to an end", published.wait())
    await work.until_finished({record.id for record in records})
    await work.stop(second, fourth)
    return work, records


async def _some_more(work: Work) -> None:
    before = len(work.finished)
    await work.until(
        lambda: len(work.finished) > before + 50, lambda: f"{len(work.finished)} records were completed"
    )
