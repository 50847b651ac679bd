"""The request backend: events are received once, in order, and completions go to their requests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml import Record
from eventml.backends.base import Completion
from eventml.deploy.web.request_backend import (
    PendingRequest,
    RequestBackend,
    RequestDecoder,
    RequestEvent,
    RequestQueue,
)
from eventml.errors import FullError, UnsupportedError

if TYPE_CHECKING:
    from eventml import Delivery

pytestmark = pytest.mark.anyio


def submit(queue: RequestQueue, *values: bytes) -> PendingRequest:
    """Submit events whose ids are their values."""
    return queue.submit([RequestEvent(value, value.decode(), value) for value in values])


def doubled(delivery: Delivery) -> Completion:
    return Completion(delivery, (Record("to", delivery.record.value * 2),))


def outputs(request: PendingRequest) -> list[bytes | None]:
    return [None if one is None else one.outputs[0].value for one in request.completions]


@given(st.data())
def test_each_request_gets_its_own_completions_in_any_order(data: st.DataObject) -> None:  # noqa: C901 - a case for each step
    """Requests are submitted and cancelled; batches are received, and completed in any order and parts."""

    async def main() -> None:  # noqa: C901 - as above
        queue = RequestQueue("topic", capacity=1_000)
        submitted: dict[Any, list[bytes]] = {}
        cancelled, in_flight, received = set(), [], []

        def pending() -> bool:
            return any(delivery.offset in queue._pending for delivery in queue._waiting)

        for _ in range(data.draw(st.integers(1, 30))):
            match data.draw(st.sampled_from(["submit", "receive", "complete", "cancel"])):
                case "submit":
                    values = [b"%d-%d" % (len(submitted), n) for n in range(data.draw(st.integers(1, 4)))]
                    submitted[submit(queue, *values)] = values
                case "receive" if pending():
                    batch = list(await queue.receive(data.draw(st.integers(1, 5))))
                    in_flight += batch
                    received += [delivery.record.value for delivery in batch]
                case "complete" if in_flight:
                    some = data.draw(st.permutations(in_flight))[: data.draw(st.integers(1, len(in_flight)))]
                    in_flight = [delivery for delivery in in_flight if delivery not in some]
                    await queue.complete([doubled(delivery) for delivery in some])
                case "cancel" if submitted:
                    request = data.draw(st.sampled_from(list(submitted)))
                    queue.cancel(request)
                    if request.unfinished:
                        cancelled.add(request)
        while pending():
            batch = list(await queue.receive(100))
            received += [delivery.record.value for delivery in batch]
            in_flight += batch
        await queue.complete([doubled(delivery) for delivery in in_flight])
        assert len(received) == len(set(received))
        for request, values in submitted.items():
            if request not in cancelled:
                assert request.done.done()
                assert outputs(request) == [value * 2 for value in values]
        assert await queue.lag() == 0

    asyncio.run(main())


async def test_receive_waits_for_a_request() -> None:
    queue = RequestQueue("topic", capacity=10)
    receiving = asyncio.create_task(queue.receive(10))
    await asyncio.sleep(0)
    request = submit(queue, b"1", b"2")
    batch = await receiving
    assert [delivery.record.id for delivery in batch] == ["1", "2"]
    assert not request.done.done()
    await queue.complete([doubled(delivery) for delivery in batch])
    assert outputs(request) == [b"11", b"22"]


async def test_deliveries_carry_the_events_that_were_decoded_with_the_request() -> None:
    queue = RequestQueue("topic", capacity=10)
    events = [object(), object()]
    queue.submit([RequestEvent(b"not JSON", "a", events[0]), RequestEvent(b"either", "b", events[1])])
    assert RequestDecoder(Any).decode(await queue.receive(10)) == events


async def test_a_cancelled_receive_loses_nothing() -> None:
    queue = RequestQueue("topic", capacity=10)
    receiving = asyncio.create_task(queue.receive(10))
    await asyncio.sleep(0)
    receiving.cancel()
    submit(queue, b"1")
    assert len(await queue.receive(10)) == 1


async def test_a_full_queue_refuses_all_events_of_a_request() -> None:
    queue = RequestQueue("topic", capacity=3)
    submit(queue, b"1", b"2")
    with pytest.raises(FullError, match="2 of at most 3 events wait already"):
        submit(queue, b"3", b"4")
    assert await queue.lag() == 2


async def test_events_of_a_cancelled_request_are_not_received() -> None:
    queue = RequestQueue("topic", capacity=3)
    queue.cancel(submit(queue, b"1", b"2"))
    submit(queue, b"3")
    assert [delivery.record.id for delivery in await queue.receive(10)] == ["3"]


async def test_nothing_can_be_published() -> None:
    with pytest.raises(UnsupportedError):
        await RequestBackend(capacity=1).publish([Record("t", b"")])


async def test_unfinished_requests_are_bounded_in_bytes() -> None:
    """A request that is larger than the bound is accepted alone."""
    queue = RequestQueue("topic", capacity=100, max_bytes=10)
    first = submit(queue, b"12345678901234")
    with pytest.raises(FullError, match=r"14 bytes.*10; send fewer or smaller"):
        submit(queue, b"1")
    queue.cancel(first)
    queue.cancel(first)
    second = submit(queue, b"12345", b"6789")
    with pytest.raises(FullError):
        submit(queue, b"12")
    await queue.complete([doubled(delivery) for delivery in await queue.receive(10)])
    assert second.done.done()
    submit(queue, b"1234567890")
