"""Running a bus in a test, on an in-memory hub, until all published events are handled."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from eventml.backends.memory import Hub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from eventml import Bus, Record
    from eventml.runtime.worker import Worker


@asynccontextmanager
async def running(bus: Bus, hub: Hub | None = None) -> AsyncIterator[Worker]:
    """Open the bus and run its handlers; leaving the context waits until they are idle."""
    hub = hub or Hub()
    with anyio.fail_after(30):
        async with bus.open(hub), bus.worker() as worker, anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await worker.ready.wait()
            yield worker
            await worker.idle(0.02)
            worker.stop()


async def records(hub: Hub, topic: str, count: int) -> Sequence[Record]:
    """The first records of a topic, in their order; waits until there are `count`."""
    found: list[Record] = []
    with anyio.fail_after(10):
        async with hub.subscribe([topic], group=None, start="earliest") as reader:
            while len(found) < count:
                found += [delivery.record for delivery in await reader.receive(1000)]
    return found
