"""Measuring the rate of a worker on the in-memory bus: all of its work, without a broker."""

from __future__ import annotations

import gc
import secrets
import time
from itertools import cycle, islice
from typing import TYPE_CHECKING, Final

import anyio
from msgspec import structs

from eventml import config
from eventml.errors import ModelError
from eventml.runtime import Item, LoadedHandler, Stats, Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECONDS: Final = 1.0  # that it takes about, ...
_MOST: Final = 100_000  # ... with so many events at most, as they are all in memory ...
_LEAST_BATCHES: Final = 3  # ... and so many batches at least
_POLL: Final = 0.002


async def worker_rate(loaded: LoadedHandler, items: Sequence[Item], size: int, called: float) -> float:
    """Events a second that a worker handles in batches of `size`: received, decoded, called, completed.

    The events of `items` are repeated; how many are taken follows from `called`, the rate of the calls alone.

    Raises:
        ModelError: It cannot be measured, as most calls fail.
    """
    handler, options = loaded.handler, loaded.handler.options
    plain = structs.replace(options, max_batch=size, start="earliest", model_poll=None, dedupe_window=None)
    measured = structs.replace(loaded, handler=structs.replace(handler, options=plain, canary=None))
    count = max(min(int(_SECONDS * called), _MOST), _LEAST_BATCHES * size)
    url = f"memory://doctor-{secrets.token_hex(8)}"
    memory = config.find_backend("memory")
    async with memory.open(url, memory.Settings(partitions=1, retention=10 * _MOST)) as hub:
        records = [item.delivery.record for item in islice(cycle(items), count)]
        await hub.publish([structs.replace(one, id=str(number)) for number, one in enumerate(records)])
        worker = Worker(hub, [measured], source="doctor", drain=0.0)
        # As a worker does: otherwise a full collection may fall into the time, or not.
        gc.collect()
        gc.freeze()
        try:
            return count / await _time_to_complete(worker, worker.stats[handler.name], count)
        finally:
            gc.unfreeze()


async def _time_to_complete(worker: Worker, stats: Stats, count: int) -> float:
    begun = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        while stats.completed < count:
            if stats.breaker_open:
                raise ModelError(f"its events fail on a stream: {stats.breaker_open}")
            await anyio.sleep(_POLL)
        seconds = time.perf_counter() - begun
        worker.stop()
    return seconds
