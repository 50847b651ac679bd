"""The start of a worker: its handlers subscribe at the same time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from eventml import Bus
from eventml.backends.memory import Hub
from eventml.errors import TopicNotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])]

TOPICS = ("rides", "tips", "tolls")


class Meeting(Hub):
    """A hub where each group waits for the others, as the members of a Kafka group wait for its broker."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = self.left = 0

    @asynccontextmanager
    async def subscribe(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        self.begun += 1
        while self.begun < len(TOPICS):
            await anyio.sleep(0.001)
        async with super().subscribe(*args, **kwargs) as subscription:
            yield subscription
        self.left += 1


class Missing(Hub):
    """A hub without topics."""

    @asynccontextmanager
    async def subscribe(self, topics: Any, **_: Any) -> AsyncIterator[Any]:
        raise TopicNotFoundError(f"there is no topic {topics[0]}")
        yield


def make_bus(seen: list[str]) -> Bus:
    bus = Bus("app")
    for topic in TOPICS:

        @bus.consumer(topic, name=topic)
        def handler(event: str) -> None:
            seen.append(event)

    return bus


async def test_handlers_subscribe_at_the_same_time_and_all_leave() -> None:
    seen: list[str] = []
    bus, hub = make_bus(seen), Meeting()
    with anyio.fail_after(10):
        async with bus.open(hub), bus.worker() as worker, anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await worker.ready.wait()
            for topic in TOPICS:
                await bus.publish(topic, topic)
            while len(seen) < len(TOPICS):
                await anyio.sleep(0.001)
            worker.stop()
    assert sorted(seen) == sorted(TOPICS)
    assert hub.left == len(TOPICS)


async def test_a_topic_that_is_missing_is_one_error_however_many_are() -> None:
    bus = make_bus([])
    with anyio.fail_after(10):
        async with bus.open(Missing()), bus.worker() as worker:
            with pytest.raises(TopicNotFoundError, match="there is no topic"):
                await worker.run()
