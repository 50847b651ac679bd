"""Measuring the rate of a worker on the in-memory bus: all of its work, without a broker."""

from __future__ import annotations

import gc
import secrets
import time
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Final

import anyio
from msgspec import structs

from eventml import config
from eventml.runtime import Item, LoadedHandler, Stats, Worker, task_group

_SECONDS: Final = 1.0  # that it takes about, ...
_MOST: Final = 100_000  # ... with so many events at most, as they are all in memory ...
_LEAST_BATCHES: Final = 3  # ... and so many batches at least
_LIMIT: Final = 10.0  # seconds
_POLL: Final = 0.002


async def worker_rate(loaded: LoadedHandler, items: Sequence[Item], size: int, called: float) -> float | None:
    """Events a second that a worker handles in batches of `size`: received, decoded, called, completed.

    The events of `items` are repeated; how many are taken follows from `called`, the rate of the calls alone.
    None if an event fails, or if they take longer than 10 seconds.
    """
    handler, options = loaded.handler, loaded.handler.options
    plain = structs.replace(
        options, max_batch=size, start="earliest", model_poll=None, dedupe_window=None, max_age=None
    )
    measured = structs.replace(loaded, handler=structs.replace(handler, options=plain, canary=None))
    count = max(min(int(_SECONDS * called), _MOST), _LEAST_BATCHES * size)
    url = f"memory://doctor-{secrets.token_hex(8)}"
    memory = config.find_backend("memory")
    async with memory.open(url, memory.Settings(partitions=1, retention=10 * _MOST)) as hub:
        records = [item.delivery.record for item in islice(cycle(items), count)]
        await hub.publish([structs.replace(one, id=str(number)) for number, one in enumerate(records)])
        worker = Worker(hub, [measured], source="doctor", drain=1.0)
        # As a worker does: otherwise a full collection may fall into the time, or not.
        gc.collect()
        gc.freeze()
        try:
            seconds = await _time_to_complete(worker, worker.stats[handler.name], count)
        finally:
            gc.unfreeze()
    return None if seconds is None else count / seconds


async def _time_to_complete(worker: Worker, stats: Stats, count: int) -> float | None:
    begun = time.perf_counter()
    async with task_group() as tasks:
        tasks.start_soon(worker.run)
        with anyio.move_on_after(_LIMIT):
            while stats.completed < count and not stats.retries:  # noqa: ASYNC110 - counters tell nobody
                await anyio.sleep(_POLL)
        seconds = time.perf_counter() - begun
        worker.stop() if stats.completed == count else worker.abandon()
    return seconds if stats.completed == count and not (stats.failed or stats.dead_letters) else None
