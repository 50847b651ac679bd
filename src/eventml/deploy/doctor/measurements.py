"""Measuring a predictor: time by size of batch, memory, threads, the interpreter lock, the last bits."""

from __future__ import annotations

import resource
import sys
import threading
import time
import warnings
from contextlib import AsyncExitStack
from itertools import cycle, islice
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import msgspec
from anyio import to_thread
from msgspec.structs import replace

from eventml import config
from eventml.bus import Bus
from eventml.codec import Decoder
from eventml.handlers import Handler
from eventml.runtime import (
    HandlerCall,
    Item,
    LoadedHandler,
    Stats,
    Worker,
    call_without_stream,
    load_handlers,
    read_golden_rows,
    task_group,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LEAST_CALLS: Final = 3
_SECONDS: Final = 0.2  # for each size of batch, if more calls fit into it
_SWITCH: Final = 0.001  # seconds; how long the counting thread sleeps
_STREAMED: Final = 2.0  # seconds of events to run through a worker, ...
_MOST: Final = 50_000  # ... and the most events; the topic holds twice as many


class BatchCost(msgspec.Struct, frozen=True):
    """The cost of calls with batches of one size.

    Attributes:
        size: Events in a batch.
        seconds: Median time of a call, its outputs checked and encoded.
        same_bits: Whether each event has the prediction that it has alone, to the last bit.
    """

    size: int
    seconds: float
    same_bits: bool

    @property
    def rate(self) -> float:
        """Events a second."""
        return self.size / self.seconds


class Examination(msgspec.Struct, frozen=True):
    """The measurements of a predictor.

    Attributes:
        predictor: Its name.
        model: Name and version of its model.
        load_seconds: Time to load the model.
        load_memory: Memory that loading took, in bytes.
        batches: By size, rising.
        peak_memory: Memory that the calls took, in bytes.
        cores: CPU time of a call of the largest batch over its time: above 1 it uses several threads.
        lock: Share of the time of such a call in which other threads of the process could not run.
        streamed: Events a second of one worker on the in-memory backend.
        warnings: Warnings that were issued while the model was loaded.
    """

    predictor: str
    model: tuple[str, str]
    load_seconds: float
    load_memory: int
    batches: Sequence[BatchCost]
    peak_memory: int
    cores: float
    lock: float
    streamed: float
    warnings: Sequence[str] = ()


async def examine(bus: Bus, handler: Handler, rows: str, progress: Callable[[str], None]) -> Examination:
    """Measure a predictor on example rows, which are repeated to fill the batches.

    It takes some seconds, and memory for the largest batch. Nothing is published.

    Raises:
        ModelError: The model cannot be loaded; the rows cannot be read; or a call with them fails.
    """
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
        alone = [await _values(call, [item]) for item in items]
        memory, batches = _memory(), []
        for size in _sizes(handler.max_batch):
            progress(f"calling it with {size:,} events")
            batch = list(islice(cycle(items), size))
            expected = islice(cycle(alone), size)
            same = await _values(call, batch) == [value for [value] in expected]
            batches.append(BatchCost(size, await _seconds(call, batch), same))
        peak = _memory() - memory
        progress("watching its threads")
        cores, lock = await _threads(call, batch)
        progress("running a worker")
        streamed = await _streamed(bus, loaded, batch, batches[-1].rate)
        model = ("", "") if loaded.model is None else (loaded.model.name, loaded.model.version)
        issued = list(dict.fromkeys(str(one.message) for one in caught))
        return Examination(
            *(handler.name, model, load_seconds, load_memory, batches, peak, cores, lock, streamed, issued)
        )


def _sizes(largest: int) -> list[int]:
    return [*(2**power for power in range(largest.bit_length()) if 2**power < largest), largest]


async def _values(call: HandlerCall, items: Sequence[Item]) -> list[Any]:
    """The predictions for a batch, as they would be published; of one that failed the failure."""
    results = await call(items)
    return [[o.value for o in one.outputs] if hasattr(one, "outputs") else str(one) for one in results]


async def _seconds(call: HandlerCall, batch: Sequence[Item]) -> float:
    times: list[float] = []
    while len(times) < _LEAST_CALLS or sum(times) < _SECONDS:
        begun = time.perf_counter()
        await call(batch)
        times.append(time.perf_counter() - begun)
    return median(times)


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
        free = ticks(0.2)
        counted[0], cpu, begun = 0, time.process_time(), time.perf_counter()
        while time.perf_counter() - begun < _SECONDS:
            await call(batch)
        seconds = time.perf_counter() - begun
        busy, cores = ticks(seconds), (time.process_time() - cpu) / seconds
    finally:
        ended.set()
        thread.join()
    return cores, max(1.0 - busy / free, 0.0)


async def _streamed(bus: Bus, loaded: LoadedHandler, batch: Sequence[Item], rate: float) -> float:
    """Events a second of a worker on a backend in memory, whose topic is filled before it starts."""
    records = [item.delivery.record for item in batch]
    copies = max(min(int(rate * _STREAMED), _MOST) // len(records), 1)
    plain = replace(
        loaded.handler.options, start="earliest", dedupe_window=None, max_age=None, model_poll=None
    )
    loaded.handler = replace(loaded.handler, options=plain)
    memory = config.find_backend("memory")
    async with memory.open("memory://doctor", memory.Settings()) as backend:
        for _ in range(copies):
            await backend.publish(records)
        worker = Worker(backend, [loaded], source=bus.name, drain=5.0)
        begun = time.monotonic()
        async with task_group() as tasks:
            tasks.start_soon(worker.run)
            await worker.idle(0.05)
            ended = worker.stats[loaded.handler.name].last_progress
            worker.stop()
    return copies * len(records) / (ended - begun)


def _memory() -> int:
    """The most memory that the process has used so far, in bytes."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
