"""`Bus.read`: a topic from a start to an end, without a group."""

from __future__ import annotations

import logging
import time
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from msgspec import structs

from eventml import Bus, NotOpenError, ReadDelivery
from eventml.backends.memory import Hub
from eventml.errors import UnavailableError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@pytest.fixture
async def bus() -> AsyncIterator[Bus]:
    async with Bus("app").open(backend=Hub()) as opened:
        yield opened


async def events(bus: Bus, **limits: Any) -> list[Any]:
    with anyio.fail_after(5):
        return sorted([delivery.event async for delivery in bus.read("numbers", **limits)])


async def test_it_ends_where_the_topic_ended_when_it_began(bus: Bus) -> None:
    await bus.publish_many("numbers", range(1_200))
    with anyio.fail_after(5):
        found = list[int]()
        async for delivery in bus.read("numbers", until="end"):
            assert isinstance(delivery, ReadDelivery)
            if not found:
                await bus.publish_many("numbers", range(1_200, 1_300))
            found.append(delivery.event)
    assert sorted(found) == list(range(1_200))
    assert await events(bus, start="latest", until="end") == []
    assert await bus.backend.lag("numbers", group="app") is None


async def test_an_empty_topic_ends_at_once(bus: Bus) -> None:
    assert await events(bus, until="end") == []


async def test_it_reads_from_a_time_to_another(bus: Bus) -> None:
    moments = []
    for number in range(3):
        moments.append(datetime.now(UTC))
        await bus.publish("numbers", number)
        await anyio.sleep(0.002)
    assert await events(bus, start=moments[1], until="end") == [1, 2]
    assert await events(bus, until=moments[1]) == [0]
    assert await events(bus, start=moments[1], until=moments[2]) == [1]
    assert await events(bus, start=timedelta(hours=1), until=timedelta(0)) == [0, 1, 2]
    assert await events(bus, start=moments[2], until=moments[1]) == []


async def test_a_time_in_the_future_is_waited_for(bus: Bus) -> None:
    found: list[Any] = []
    until = datetime.now(UTC) + timedelta(seconds=0.3)

    async def read() -> None:
        found.extend(await events(bus, start="latest", until=until))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await anyio.sleep(0.1)
        await bus.publish("numbers", 1)
    assert found == [1]
    assert time.time() >= until.timestamp()


async def test_without_an_end_it_goes_on(bus: Bus) -> None:
    await bus.publish("numbers", 0)
    async with aclosing(bus.read("numbers")) as deliveries:
        for number in range(3):
            assert (await anext(deliveries)).event == number
            await bus.publish("numbers", number + 1)


@pytest.mark.parametrize(
    "limits",
    [
        {"until": datetime(2026, 1, 1)},  # noqa: DTZ001 - refused for that
        {"until": "now"},
        {"start": datetime(2026, 1, 1)},  # noqa: DTZ001 - the same
        {"start": "now"},
        {"start": timedelta(seconds=-1)},
    ],
    ids=str,
)
async def test_other_limits_are_refused(bus: Bus, limits: Any) -> None:
    with pytest.raises(ValueError, match="Expected"):
        await events(bus, **limits)


async def test_it_needs_an_open_bus() -> None:
    with pytest.raises(NotOpenError):
        await events(Bus("app"))


async def test_a_backend_that_cannot_is_told_apart(monkeypatch: pytest.MonkeyPatch, bus: Bus) -> None:
    monkeypatch.setattr(
        bus.backend, "capabilities", structs.replace(bus.backend.capabilities, start_at_time=False)
    )
    for limits in ({"until": "end"}, {"start": timedelta(1)}):
        with pytest.raises(UnsupportedError, match="reading 'numbers'"):
            await events(bus, **limits)
    await bus.publish("numbers", 7)
    async with aclosing(bus.read("numbers")) as deliveries:
        assert (await anext(deliveries)).event == 7


async def test_an_outage_is_waited_for_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with Bus("app").open(backend=Failing()) as bus:
        await bus.publish_many("numbers", range(3))
        with caplog.at_level(logging.WARNING, "eventml"):
            assert await events(bus, until="end") == [0, 1, 2]
    [message] = caplog.messages
    assert message.startswith(
        "reaching the broker fails and is repeated until it succeeds: bus.read('numbers'): "
    )


class Failing(Hub):
    """A hub whose readers fail at their first stop and at their first receive."""

    @asynccontextmanager
    async def subscribe(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async with super().subscribe(*args, **kwargs) as subscription:
            yield FailingReader(subscription)


class FailingReader:
    def __init__(self, reader: Any) -> None:
        self.reader = reader
        self.fail = {"stop_at", "receive"}

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any) -> Any:
            if name in self.fail:
                self.fail.discard(name)
                raise UnavailableError("it is away")
            return await getattr(self.reader, name)(*args)

        return call


async def test_the_word_for_the_end_is_named(bus: Bus) -> None:
    with pytest.raises(ValueError, match='Expected "end", a datetime'):
        await events(bus, until="latest")
