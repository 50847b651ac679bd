"""A bus in the background: opened by one task and closed by another, as by the cells of a notebook."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from eventml import Bus, ModelError, NotOpenError, RegistrationError, config
from eventml.runtime import Worker
from eventml.testing import TestBus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def bus(request: pytest.FixtureRequest) -> Bus:
    bus = Bus("numbers")
    bus.configure(config.load(environ={}, overrides={"backend": f"memory://{request.node.name}"}))

    @bus.predictor("numbers", to="doubles")
    async def double(event: dict[str, int]) -> dict[str, int]:
        return {"n": 2 * event["n"]}

    return bus


async def cell(code: Coroutine[Any, Any, Any]) -> Any:
    """Run code in a task of its own."""
    return await asyncio.create_task(code)


async def test_the_bus_is_open_until_it_is_stopped(bus: Bus) -> None:
    running = await cell(bus.run_in_background())
    assert await cell(bus.request("numbers", {"n": 1})) == {"n": 2}
    await cell(running.stop())
    await cell(running.stop())
    with pytest.raises(NotOpenError):
        await bus.publish("numbers", {"n": 1})


async def test_only_some_handlers_run(bus: Bus) -> None:
    @bus.predictor("numbers", to="halves")
    def half(event: dict[str, int]) -> dict[str, float]:
        return {"n": event["n"] / 2}

    async with await bus.run_in_background(only=["half"]):
        assert await bus.request("numbers", {"n": 1}) == {"n": 0.5}
    with pytest.raises(NotOpenError):
        await bus.publish("numbers", {"n": 1})


async def test_what_is_in_flight_is_finished(bus: Bus) -> None:
    done, started = [], asyncio.Event()

    @bus.consumer("slow")
    async def slow(event: int) -> None:
        started.set()
        await asyncio.sleep(0.05)
        done.append(event)

    running = await bus.run_in_background()
    await bus.publish("slow", 1)
    await started.wait()
    await cell(running.stop())
    assert done == [1]


async def test_an_error_at_the_start_is_raised_and_the_bus_can_be_started_again(bus: Bus) -> None:
    @bus.predictor("numbers", to="doubles", model="nosuch.skops")
    def other(event: dict[str, int], model: Any) -> dict[str, int]:
        return event

    with pytest.raises(ModelError, match=r"nosuch\.skops"):
        await cell(bus.run_in_background())
    del bus.handlers["other"]
    running = await cell(bus.run_in_background())
    await running.stop()


async def test_a_start_that_is_cancelled_leaves_nothing_open(bus: Bus) -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    @bus.lifespan
    async def slow() -> AsyncIterator[None]:
        entered.set()
        try:
            await asyncio.sleep(60)
            yield
        finally:
            left.set()

    @bus.consumer("numbers")
    async def waits(event: dict[str, int], slow: None) -> None: ...

    start = asyncio.create_task(bus.run_in_background())
    await entered.wait()
    start.cancel()
    with suppress(asyncio.CancelledError):
        await start
    await left.wait()
    async with bus:
        pass


async def test_what_ends_the_handlers_is_logged_and_raised_by_stop(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(worker: Worker) -> bool:
        worker.ready.set()
        await asyncio.sleep(0.01)
        raise RuntimeError("no more")

    monkeypatch.setattr(Worker, "run", fails)
    running = await bus.run_in_background()
    await asyncio.wait([running._task])
    with pytest.raises(NotOpenError):
        _ = bus.backend
    assert caplog.messages == ["the handlers no longer run in the background"]
    with pytest.raises(RuntimeError, match="no more"):
        await cell(running.stop())
    monkeypatch.undo()
    await (await cell(bus.run_in_background())).stop()


async def test_a_second_start_stops_the_first(bus: Bus) -> None:
    first = await cell(bus.run_in_background())
    second = await cell(bus.run_in_background())
    await first.stop()
    assert await bus.request("numbers", {"n": 1}) == {"n": 2}
    await second.stop()


async def test_a_test_bus_is_started_and_stopped_by_different_tasks(bus: Bus) -> None:
    settings = bus.settings
    running = await cell(bus.run_in_background())
    t = await cell(TestBus(bus, models={}).start())
    await cell(t.publish("numbers", {"n": 1}))
    assert t.published("doubles") == [{"n": 2}]
    again = await cell(TestBus(bus).start())
    assert again.published("doubles") == []
    await cell(again.stop())
    assert bus.settings is settings
    await running.stop()
    with pytest.raises(NotOpenError):
        await t.publish("numbers", {"n": 1})


async def test_a_handler_defined_again_while_a_test_bus_is_open_stays(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.ps1", ">>> ", raising=False)

    async def handler(event: dict[str, int]) -> None: ...

    handler.__module__, handler.__qualname__ = "__main__", "handler"
    bus.consumer("a")(handler)
    double = bus.handlers["double"]
    async with TestBus(bus):
        bus.consumer("b")(handler)
    assert bus.handlers["handler"].topic == "b"
    assert bus.handlers["double"] is double
    monkeypatch.undo()
    with pytest.raises(RegistrationError):
        bus.consumer("c")(handler)


async def test_an_interrupted_start_or_stop_does_not_keep_the_bus_from_starting(bus: Bus) -> None:
    entered = asyncio.Event()

    @bus.lifespan
    async def slow() -> AsyncIterator[int]:
        entered.set()
        await asyncio.sleep(0.2)
        yield 1
        await asyncio.sleep(0.2)

    @bus.consumer("numbers")
    async def use(event: dict[str, int], slow: int) -> None:
        pass

    start = asyncio.create_task(bus.run_in_background())
    await entered.wait()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    running = await cell(bus.run_in_background())
    stop = asyncio.create_task(running.stop())
    await asyncio.sleep(0.05)
    stop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stop
    again = await cell(bus.run_in_background())
    await bus.publish("numbers", {"n": 1})
    await again.stop()


def test_the_bus_runs_again_in_another_loop(bus: Bus) -> None:
    async def start() -> None:
        await bus.run_in_background()

    asyncio.run(start())
    asyncio.run(start())
