"""What a handler holds is bounded in bytes: waiting, in the call, being completed, waiting for a retry."""

from __future__ import annotations

from contextlib import asynccontextmanager
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventml
from eventml.backends.memory import Hub, Settings
from eventml.records import Delivery, Record
from eventml.runtime.intake import BytesInFlight

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eventml.runtime import Worker

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])]

MOST = 10_000  # bytes of one read
LARGE = 3_000
HELD = 4 * MOST  # in the pipeline: two reads, the one that is under way, and small events


@asynccontextmanager
async def working(bus: eventml.Bus, hub: Hub) -> AsyncIterator[Worker]:
    async with bus.open(hub), bus.worker() as worker, anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await worker.ready.wait()
        yield worker
        worker.stop()


async def until_still(worker: Worker, least: int = MOST // LARGE) -> int:
    """How many deliveries are in flight: so many at least, once that does not change any more."""
    [stats] = worker.stats.values()
    count = -1
    with anyio.fail_after(10):
        while stats.in_flight < least or count != stats.in_flight:
            count = stats.in_flight
            await anyio.sleep(0.05)
    return count


def large_records(topic: str, count: int) -> list[Record]:
    return [Record(topic, b'"%s"' % (b"x" * LARGE), None, f"{n}") for n in range(count)]


async def test_a_slow_handler(anyio_backend: str) -> None:
    bus, hub, topic = eventml.Bus("bytes"), Hub(Settings(max_bytes=MOST)), token_hex(4)
    go_on = anyio.Event()
    handled: list[str] = []

    async def handle(batch: list[str]) -> None:
        await go_on.wait()
        handled.extend(batch)

    bus.consumer(topic, name="handle")(handle)
    async with working(bus, hub) as worker:
        await hub.publish(large_records(topic, 100))
        assert await until_still(worker) * LARGE <= HELD
        go_on.set()
        with anyio.fail_after(10):
            while len(handled) < 100:
                await anyio.sleep(0.01)


async def test_events_that_wait_for_a_retry(anyio_backend: str) -> None:
    """They would fill memory while the stream goes on."""
    bus, hub, topic = eventml.Bus("bytes"), Hub(Settings(max_bytes=MOST)), token_hex(4)

    async def handle(event: str) -> None:
        raise ValueError("always")

    bus.consumer(topic, name="handle", backoff=60.0, max_backoff=60.0)(handle)
    async with bus.open(hub), bus.worker() as worker, anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await worker.ready.wait()
        await hub.publish(large_records(topic, 60))
        assert await until_still(worker) * LARGE <= HELD
        worker.abandon()


async def test_large_headers_count(anyio_backend: str) -> None:
    bus, hub, topic = eventml.Bus("bytes"), Hub(Settings(max_bytes=MOST)), token_hex(4)
    go_on = anyio.Event()

    async def handle(batch: list[str]) -> None:
        await go_on.wait()

    bus.consumer(topic, name="handle", max_batch=4)(handle)
    async with working(bus, hub) as worker:
        for n in range(60):
            await hub.publish([Record(topic, b'""', None, f"{n}", {"note": f"{n}" * MOST})])
        assert await until_still(worker, least=2) <= 8
        go_on.set()


@given(
    sizes=st.lists(st.integers(0, 4_000), min_size=1, max_size=60),
    max_batch=st.integers(1, 20),
    data=st.data(),
)
def test_it_is_full_when_two_reads_of_large_events_are_in_flight(
    sizes: list[int], max_batch: int, data: st.DataObject, anyio_backend: str
) -> None:
    held = BytesInFlight(MOST, max_batch)
    deliveries = [Delivery(Record(f"t{n % 3}", bytes(size)), 0, n // 3, 0.0) for n, size in enumerate(sizes)]
    in_flight: list[Delivery] = []
    for delivery in deliveries:
        held.add([delivery], [{}])
        in_flight.append(delivery)
        if data.draw(st.booleans()):
            held.remove([done := data.draw(st.sampled_from(in_flight))])
            in_flight.remove(done)
        large = [len(d.record.value) for d in in_flight if len(d.record.value) > MOST // max_batch]
        assert held.full == (sum(large) >= 2 * MOST)
    held.remove(in_flight)
    assert not held.full


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "x" * MOST},
        {"headers": {"x" * MOST: ""}},
        {"headers": {f"a{n}": "" for n in range(MOST // 100)}},
    ],
    ids=["id", "name", "many"],
)
def test_ids_and_the_names_and_number_of_headers_count(fields: dict[str, Any], anyio_backend: str) -> None:
    held = BytesInFlight(MOST, 4)
    for n in range(2):
        record = Record("t", b"1", **{"headers": {}, **fields})
        held.add([Delivery(record, 0, n, 0.0)], [record.headers])
    assert held.full


def test_headers_that_records_share_count_once(anyio_backend: str) -> None:
    held, shared = BytesInFlight(MOST, 4), {"note": "x" * 2 * MOST}
    held.add([Delivery(Record("t", b"1", headers=shared), 0, n, 0.0) for n in range(4)], [shared])
    assert held.full
    held = BytesInFlight(MOST, 4)
    shared = {"note": "x" * MOST}
    held.add([Delivery(Record("t", b"1", headers=shared), 0, n, 0.0) for n in range(4)], [shared])
    assert not held.full
