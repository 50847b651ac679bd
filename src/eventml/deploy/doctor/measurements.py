"""Measuring a predictor: time by size of batch, memory, threads, the interpreter lock, a worker in memory."""

from __future__ import annotations

import gc
import resource
import secrets
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from itertools import cycle, islice
from statistics import median
from typing import Any, Final

import anyio
from anyio import to_thread
from msgspec import structs

from eventml import config
from eventml.bus import Bus
from eventml.codec import Decoder
from eventml.deploy.doctor.advice import BatchCost, Compiled, Examination, best_batch
from eventml.errors import MissingExtraError, ModelError, UnsupportedError
from eventml.handlers import Handler
from eventml.models import compiled_copy
from eventml.runtime import (
    Failed,
    HandlerCall,
    Item,
    LoadedHandler,
    Stats,
    Worker,
    call_without_stream,
    describe,
    load_handlers,
    read_golden_rows,
    task_group,
)

_LEAST_CALLS: Final = 3  # for each size of batch, ...
_SECONDS: Final = 0.2  # ... and more if they fit into it, ...
_ENOUGH: Final = 1.0  # ... and fewer if they take longer than this
_BUDGET: Final = 30.0  # seconds for all; a slow predictor is not measured with large batches
_SWITCH: Final = 0.001  # seconds; how long the counting thread sleeps
_TURNS: Final = 30_000_000  # of a loop: long enough to be interrupted as others are


async def examine(bus: Bus, handler: Handler, rows: str, progress: Callable[[str], None]) -> Examination:
    """Measure a predictor on example rows, which are repeated to fill the batches.

    It takes up to about 30 seconds after loading, if not a single call takes longer, and memory for the
    largest batch. Nothing is published.

    Raises:
        UnsupportedError: The handler is a consumer.
        ModelError: The model cannot be loaded; the rows cannot be read; or a call with them fails.
    """
    if not handler.outputs:
        raise UnsupportedError(f"{handler.name} is a consumer; the doctor examines predictors")
    decoder = Decoder(handler.event_type, strict=False)
    async with AsyncExitStack() as stack:
        progress("loading the model")
        memory, begun = _memory(), time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            [loaded] = await load_handlers(stack, [handler], bus.lifespans, [(decoder, {})])
        load_seconds, load_memory = time.perf_counter() - begun, _memory() - memory
        items, _ = await to_thread.run_sync(read_golden_rows, rows, handler)
        call = call_without_stream(handler, loaded.model, loaded.resources, source=bus.name, stats=Stats())
        begun = time.perf_counter()
        batches, alone = await _batches(call, handler, items, progress)
        last = batches[-1]
        issued = list(dict.fromkeys(str(one.message) for one in caught))
        if last.size < handler.max_batch:
            took = f"a call with {last.size:,} events takes {last.seconds:.1f} s"
            issued.append(f"{took}: larger batches were not measured")
        cores = lock = worker = compiled = None
        if time.perf_counter() - begun + 2 * last.seconds < _BUDGET:
            batch = list(islice(cycle(items[:alone]), last.size))
            progress("watching its threads")
            cores, lock = await _threads(call, batch)
            progress("running a worker in memory")
            chosen = best_batch(batches)
            worker = await worker_rate(loaded, items, chosen.size, chosen.rate)
            if worker is None:
                issued.append(
                    "a worker was not measured, as an example event failed or the events took too long; the "
                    "rate is that of the calls alone"
                )
            progress("compiling the model")
            compiled = await _compiled(bus, loaded, batch)
        model = ("", "") if loaded.model is None else (loaded.model.name, loaded.model.version)
        return Examination(
            *(handler.name, model, load_seconds, load_memory, batches, cores, lock, worker, _turn()),
            compiled,
            issued,
        )


async def _batches(
    call: HandlerCall, handler: Handler, items: Sequence[Item], progress: Callable[[str], None]
) -> tuple[list[BatchCost], int]:
    """The cost of each size of batch that there is time for, and the number of rows that were used."""
    begun = time.perf_counter()
    alone: list[Any] = []
    while len(alone) < len(items) and (not alone or time.perf_counter() - begun < _ENOUGH):
        alone += await _values(call, handler, [items[len(alone)]])
    single = (time.perf_counter() - begun) / len(alone)
    if 3 * single > _BUDGET:
        return [BatchCost(1, single, same_bits=True)], len(alone)
    found: list[BatchCost] = []
    for size in _sizes(handler.max_batch):
        # The next call may take twice as long as the last, and there are two more calls with its batch.
        if found and time.perf_counter() - begun + 6 * found[-1].seconds > _BUDGET:
            break
        progress(f"calling it with {size:,} events" if size > 1 else "calling it with one event")
        batch = list(islice(cycle(items[: len(alone)]), size))
        first = time.perf_counter()
        same = await _values(call, handler, batch) == list(islice(cycle(alone), size))
        found.append(BatchCost(size, await _seconds(call, batch, time.perf_counter() - first), same))
    return found, len(alone)


def _sizes(largest: int) -> list[int]:
    return [*(2**power for power in range(largest.bit_length()) if 2**power < largest), largest]


async def _values(call: HandlerCall, handler: Handler, items: Sequence[Item]) -> list[Any]:
    """The predictions for a batch, as they would be published."""
    failed = f"{handler.name} fails with {len(items):,} of the example events, which may be repeated"
    try:
        results = await call(items)
    except Exception as exc:
        raise ModelError(f"{failed}: {describe(exc)}") from exc
    for one in results:
        if isinstance(one, Failed):
            raise ModelError(f"{failed}: {describe(one.error)}") from one.error
    return [[output.value for output in one.outputs] for one in results if not isinstance(one, Failed)]


async def _seconds(call: HandlerCall, batch: Sequence[Item], first: float) -> float:
    """The median time of a call. A first one, which may have warmed up, counts only if it took long."""
    if first > _ENOUGH:
        return first
    times: list[float] = []
    while sum(times) < _ENOUGH and (len(times) < _LEAST_CALLS or sum(times) < _SECONDS):
        begun = time.perf_counter()
        await call(batch)
        times.append(time.perf_counter() - begun)
    return median(times)


async def _compiled(bus: Bus, loaded: LoadedHandler, batch: Sequence[Item]) -> Compiled | None:
    if loaded.model is None:
        return None
    try:
        fast = await to_thread.run_sync(compiled_copy, loaded.model)
        given = {**loaded.lifespans, "model": fast.object}
        call = call_without_stream(loaded.handler, fast, given, source=bus.name, stats=Stats())
        seconds = {}
        for size in dict.fromkeys((1, min(64, len(batch)), len(batch))):
            await _values(call, loaded.handler, batch[:size])
            seconds[size] = await _seconds(call, batch[:size], 0.0)
    except (MissingExtraError, ModelError):
        return None
    return Compiled(seconds, fast.object.difference)


async def _threads(call: HandlerCall, batch: Sequence[Item]) -> tuple[float, float]:
    """How many cores calls use, and the share of their time in which they hold the interpreter lock."""
    counted, ended = [0], threading.Event()

    def count() -> None:
        while not ended.is_set():
            time.sleep(_SWITCH)
            counted[0] += 1

    def ticks(seconds: float) -> float:
        return counted[0] / seconds

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    try:
        time.sleep(0.2)  # noqa: ASYNC251 - nothing else runs
        free = max(ticks(0.2), 1.0)
        counted[0], cpu, begun = 0, time.process_time(), time.perf_counter()
        while time.perf_counter() - begun < _SECONDS:
            await call(batch)
        seconds = time.perf_counter() - begun
        busy, cores = ticks(seconds), (time.process_time() - cpu) / seconds
    finally:
        ended.set()
        thread.join()
    return cores, max(1.0 - busy / free, 0.0)


def _turn() -> float:
    """Seconds of a turn of a loop in Python: how fast the cores are, and how busy."""
    begun = time.perf_counter()
    for _ in range(_TURNS):
        pass
    return (time.perf_counter() - begun) / _TURNS


def _memory() -> int:
    """The most memory that the process has used so far, in bytes."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


_WORKER_SECONDS: Final = 1.0  # that a worker takes about, ...
_WORKER_EVENTS: Final = 100_000  # ... with so many events at most, as they are all in memory ...
_LEAST_BATCHES: Final = 3  # ... and so many batches at least
_WORKER_LIMIT: Final = 10.0  # seconds
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
    count = max(min(int(_WORKER_SECONDS * called), _WORKER_EVENTS), _LEAST_BATCHES * size)
    url = f"memory://doctor-{secrets.token_hex(8)}"
    memory = config.find_backend("memory")
    async with memory.open(url, memory.Settings(partitions=1, retention=10 * _WORKER_EVENTS)) as hub:
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
        with anyio.move_on_after(_WORKER_LIMIT):
            while stats.completed < count and not stats.retries:  # noqa: ASYNC110 - counters have no events
                await anyio.sleep(_POLL)
        seconds = time.perf_counter() - begun
        worker.stop() if stats.completed == count else worker.abandon()
    return seconds if stats.completed == count and not (stats.failed or stats.dead_letters) else None
