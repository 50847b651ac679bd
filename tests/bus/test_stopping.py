"""Stopping: events in flight are finished within `drain`, or delivered again to the group."""

from __future__ import annotations

import gc
import os
import signal
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest

from eventml import Bus, config
from eventml.backends.memory import Hub
from eventml.bus import run_until_signal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])]


class Ride(msgspec.Struct):
    number: int


def make_bus(drain: float) -> Bus:
    bus = Bus("rides")
    bus.configure(config.load(environ={"EVENTML_DRAIN": str(drain)}))
    return bus


async def test_events_in_flight_are_finished() -> None:
    bus, hub, done = make_bus(20), Hub(), 0

    @bus.consumer("t", max_batch=5)
    def slow(rides: list[Ride]) -> None:
        nonlocal done
        time.sleep(0.02)
        done += len(rides)

    async with bus.open(hub), bus.worker() as worker, anyio.create_task_group() as tasks:

        async def run() -> None:
            assert await worker.run()

        tasks.start_soon(run)
        await bus.publish_many("t", [Ride(n) for n in range(200)])
        while not done:
            await anyio.sleep(0.001)
        worker.stop()
    assert worker.in_flight == 0
    assert done == worker.stats["slow"].completed < 200
    lag = await hub.lag("t", group="rides.slow")
    assert lag is not None
    assert sum(lag.values()) == 200 - done


async def test_a_hung_handler_is_abandoned_after_drain_and_its_events_are_delivered_again() -> None:
    bus, hub = make_bus(0.05), Hub()
    entered = anyio.Event()

    @bus.consumer("t")
    async def hung(rides: list[Ride]) -> None:
        entered.set()
        await anyio.sleep_forever()

    with anyio.fail_after(10):
        async with bus.open(hub), bus.worker() as worker, anyio.create_task_group() as tasks:

            async def run() -> None:
                assert not await worker.run()

            tasks.start_soon(run)
            await bus.publish_many("t", [Ride(n) for n in range(20)])
            await entered.wait()
            worker.stop()
    async with hub.subscribe(["t"], group="rides.hung", start="earliest") as successor:
        again: list[int] = []
        while len(again) < 20:
            again += [delivery.attempt for delivery in await successor.receive(100)]
    assert set(again) == {2}


async def test_abandon_returns_at_once() -> None:
    bus = make_bus(1000)

    @bus.consumer("t")
    async def hung(ride: Ride) -> None:
        await anyio.sleep_forever()

    with anyio.fail_after(10):
        async with bus.open(Hub()), bus.worker() as worker, anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await bus.publish("t", Ride(1))
            while not worker.in_flight:
                await anyio.sleep(0.001)
            worker.abandon()


async def test_run_until_idle_returns_after_chained_handlers_are_done() -> None:
    bus = make_bus(5)
    seen: list[int] = []

    @bus.predictor("t", to="u")
    def first(rides: list[Ride]) -> list[Ride]:
        return rides

    @bus.consumer("u")
    async def second(ride: Ride) -> None:
        seen.append(ride.number)

    bus.configure(config.load(environ={}, overrides={"backend": f"memory://{id(bus)}"}))
    async with bus:
        await bus.publish_many("t", [Ride(n) for n in range(50)])
    with anyio.fail_after(20):
        assert await bus.run(until_idle=0.1)
    assert sorted(seen) == list(range(50))


@pytest.mark.parametrize("signals", [1, 2])
async def test_a_second_signal_ends_a_worker_that_hangs_while_it_closes(signals: int) -> None:
    closing = anyio.Event()

    class Service:
        async def run(self) -> bool:
            return True

    @asynccontextmanager
    async def opened() -> AsyncIterator[Service]:
        yield Service()
        closing.set()
        await (anyio.sleep_forever() if signals == 2 else anyio.sleep(0.2))

    async def kill() -> None:
        await closing.wait()
        for _ in range(signals):
            os.kill(os.getpid(), signal.SIGTERM)
            await anyio.sleep(0.05)

    got: list[str] = []
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kill)
            assert await run_until_signal(
                opened(), lambda _: got.append("stop"), lambda _: got.append("abandon")
            )
    assert got == ["stop"]


async def test_what_is_loaded_is_not_collected_while_a_worker_runs() -> None:
    """A full collection goes through nothing that was loaded before, and through all of it afterwards."""
    bus, frozen = make_bus(5), list[int]()

    @bus.consumer("t")
    async def count(ride: Ride) -> None:
        frozen.append(gc.get_freeze_count())

    bus.configure(config.load(environ={}, overrides={"backend": f"memory://{id(bus)}"}))
    async with bus:
        await bus.publish("t", Ride(1))
    with anyio.fail_after(20):
        assert await bus.run(until_idle=0.1)
    assert frozen[0] > 10_000
    assert gc.get_freeze_count() == 0
