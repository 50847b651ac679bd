"""The desk by itself: what is asked is received once, in order, and what comes of it answers who asked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml import Record
from eventml.backends.base import Completion
from eventml.deploy.web.desk import Desk, Queue
from eventml.errors import FullError, UnsupportedError

if TYPE_CHECKING:
    from eventml import Delivery

pytestmark = pytest.mark.anyio


def answer(delivery: Delivery) -> Completion:
    return Completion(delivery, (Record("to", delivery.record.value * 2),))


def answers(asked: Any) -> list[bytes | None]:
    return [None if one is None else one.outputs[0].value for one in asked.results]


@given(st.data())
def test_whatever_the_order_each_gets_their_own(data: st.DataObject) -> None:  # noqa: C901 - a case for each move
    """Callers come, some leave, batches are taken and completed in any order and any pieces."""

    async def main() -> None:
        queue = Queue("topic", capacity=1_000)
        asked: dict[Any, list[bytes]] = {}
        gone, in_flight, taken = set(), [], []
        for _ in range(data.draw(st.integers(1, 30))):
            match data.draw(st.sampled_from(["ask", "take", "complete", "leave"])):
                case "ask":
                    values = [b"%d-%d" % (len(asked), n) for n in range(data.draw(st.integers(1, 4)))]
                    asked[queue.ask(values, [""] * len(values))] = values
                case "take" if queue._waiting and any(d.offset in queue._open for d in queue._waiting):
                    batch = list(await queue.receive(data.draw(st.integers(1, 5))))
                    in_flight += batch
                    taken += [delivery.record.value for delivery in batch]
                case "complete" if in_flight:
                    some = data.draw(st.permutations(in_flight))[: data.draw(st.integers(1, len(in_flight)))]
                    in_flight = [delivery for delivery in in_flight if delivery not in some]
                    await queue.complete([answer(delivery) for delivery in some])
                case "leave" if asked:
                    leaver = data.draw(st.sampled_from(list(asked)))
                    queue.forget(leaver)
                    if leaver.left:
                        gone.add(leaver)
        while any(delivery.offset in queue._open for delivery in queue._waiting):
            batch = list(await queue.receive(100))
            taken += [delivery.record.value for delivery in batch]
            in_flight += batch
        await queue.complete([answer(delivery) for delivery in in_flight])
        assert len(taken) == len(set(taken))
        for one, values in asked.items():
            if one not in gone:
                assert one.answered.done()
                assert answers(one) == [value * 2 for value in values]
        assert await queue.lag() == 0

    asyncio.run(main())


async def test_receiving_waits_for_somebody_to_ask() -> None:
    queue = Queue("topic", capacity=10)
    received = asyncio.create_task(queue.receive(10))
    await asyncio.sleep(0)
    asked = queue.ask([b"1", b"2"], ["a", "b"])
    batch = await received
    assert [delivery.record.id for delivery in batch] == ["a", "b"]
    assert not asked.answered.done()
    await queue.complete([answer(delivery) for delivery in batch])
    assert answers(asked) == [b"11", b"22"]


async def test_receiving_may_be_cancelled_and_nothing_is_lost() -> None:
    queue = Queue("topic", capacity=10)
    received = asyncio.create_task(queue.receive(10))
    await asyncio.sleep(0)
    received.cancel()
    queue.ask([b"1"], ["a"])
    assert len(await queue.receive(10)) == 1


async def test_a_full_queue_turns_away_all_of_a_request() -> None:
    queue = Queue("topic", capacity=3)
    queue.ask([b"1", b"2"], ["a", "b"])
    with pytest.raises(FullError, match="2 events wait already, of 3"):
        queue.ask([b"3", b"4"], ["c", "d"])
    assert await queue.lag() == 2


async def test_who_has_gone_is_not_worked_for() -> None:
    queue = Queue("topic", capacity=3)
    queue.forget(queue.ask([b"1", b"2"], ["a", "b"]))
    queue.ask([b"3"], ["c"])
    assert [delivery.record.id for delivery in await queue.receive(10)] == ["c"]


async def test_each_handler_has_a_group_of_its_own() -> None:
    desk = Desk(capacity=1)
    async with desk.subscribe(["t"], group="g", start="latest"):
        with pytest.raises(UnsupportedError, match="group"):
            async with desk.subscribe(["t"], group="g", start="latest"):
                pass
    with pytest.raises(UnsupportedError):
        await desk.publish([Record("t", b"")])
