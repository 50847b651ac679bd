"""What the machinery for failures costs when nothing fails: the runtime as it is, and without it.

    python -m benchmarks.failures [--events N] [--rounds N] [--processes N]

In memory, where nothing hides it: CPU time of the thread that does it all. Each case has a process of its
own (Python's interpreter adapts to the code it runs), and they take turns in many short rounds. What else
the machine does can only add to a round, so a process's figure is that of its fastest tenth; and one process
may be luckier than another, in where its memory lies, so each case has many, one after the other.

"Without recovery" calls the handler and completes: no suspects, no bisecting, no parking, no staleness,
no counting of dead letters, no record that is passed over. "Without recovery and checks" trusts what the
handler returns too (length, types, finite numbers), and every record's value and format.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import math
import multiprocessing
import random
import statistics
import time
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import anyio
import msgspec
from rich.console import Console
from rich.table import Table

import eventml
from benchmarks.measuring import DurationPredicted, RideStarted, linear, machine, no_op, rides
from eventml.backends.memory import Settings, new_hub
from eventml.runtime import pipeline, worker
from eventml.runtime.answering import BatchProcessor
from eventml.runtime.outputs import Outputs
from eventml.runtime.parking import Parking
from eventml.runtime.suspects import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from multiprocessing.connection import Connection

    from eventml.backends.base import Completion
    from eventml.records import Delivery
    from eventml.runtime.items import Item

    Case = Callable[[], AbstractContextManager[None]]

BATCH = 1024
AS_IT_IS = "as it is"
_WARM_UP = 5  # rounds


class NoRecovery:
    """In the place of `Recovery`: nothing is ever parked or set aside."""

    def __init__(self) -> None:
        self.parking = Parking(ordered=False)

    async def retry(self) -> list[Completion]:
        return []

    def count_letters(self, done: Sequence[Completion]) -> int:  # noqa: ARG002 - there are none
        return 0


class BareAnswering(BatchProcessor):
    """Calls, and completes what came of it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.recovery: Any = NoRecovery()

    async def answer(self, step: Step) -> list[Any]:
        return await self._call(step.items)


class NoSuspects:
    def __init__(self, max_deliveries: int) -> None:
        pass

    def steps(self, items: Sequence[Item]) -> list[Step]:
        return [Step(items)]


class TrustingDecoder:
    def __init__(self, event_type: Any, group: str | None = None) -> None:  # noqa: ARG002 - as `Decoder`
        self.without_event = self.asked = 0
        self._decode = msgspec.json.Decoder(event_type).decode

    def decode(self, deliveries: Sequence[Delivery]) -> list[Any]:
        decode = self._decode
        return [decode(delivery.record.value) for delivery in deliveries]


class TrustingOutputs(Outputs):
    def completions(self, deliveries: Sequence[Delivery], outputs: Any) -> list[Completion]:
        return self._complete(deliveries, outputs, all_answered=True)


@contextmanager
def without_recovery() -> Iterator[None]:
    with patch.object(worker, "Answering", BareAnswering), patch.object(pipeline, "Suspects", NoSuspects):
        yield


@contextmanager
def without_recovery_and_checks() -> Iterator[None]:
    with (
        without_recovery(),
        patch.object(worker, "Decoder", TrustingDecoder),
        patch.object(worker, "Outputs", TrustingOutputs),
    ):
        yield


CASES: dict[str, Case] = {
    AS_IT_IS: nullcontext,
    "without recovery": without_recovery,
    "without recovery and checks": without_recovery_and_checks,
}


def seconds_an_event(events: list[RideStarted], handler: Callable[..., Any]) -> float:
    """CPU time of a worker that handles what was published before; on the event loop, in one thread."""
    bus = eventml.Bus("benchmark")

    async def predict(batch: list[RideStarted]) -> list[DurationPredicted]:
        return list(handler(batch))

    bus.predictor("rides.started", to="rides.duration", max_batch=BATCH)(predict)

    async def main() -> float:
        async with bus.open(backend=new_hub(Settings(retention=10 * len(events)))), bus.worker() as work:
            await bus.publish_many("rides.started", events)
            async with anyio.create_task_group() as tasks:
                gc.collect()
                start = time.thread_time()
                tasks.start_soon(work.run)
                while work.stats["predict"].completed < len(events):
                    await anyio.sleep(0.01)
                seconds = time.thread_time() - start
                work.stop()
        return seconds / len(events)

    return asyncio.run(main())


def serve(name: str, handler: Callable[..., Any], events: int, requests: Connection) -> None:
    """A case's process: a figure for each request, until there is none."""
    logging.disable(logging.WARNING)
    published = rides(events)
    gc.freeze()
    with CASES[name]():
        while requests.recv():
            requests.send(seconds_an_event(published, handler))


def measure(handler: Callable[..., Any], events: int, rounds: int) -> dict[str, float]:
    """One process for each case, in changing order once a round: its fastest tenth."""
    figures: dict[str, list[float]] = {name: [] for name in CASES}
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        requests: dict[str, Connection] = {}
        for name in CASES:
            requests[name], theirs = spawn.Pipe()
            process = spawn.Process(target=serve, args=(name, handler, events, theirs))
            process.start()
            stack.callback(process.join)
            stack.callback(requests[name].send, False)
        for number in range(-_WARM_UP, rounds):
            for name in random.sample(list(CASES), len(CASES)):
                requests[name].send(True)
                seconds = requests[name].recv()
                if number >= 0:
                    figures[name].append(seconds)
    return {name: statistics.quantiles(seconds, n=10)[0] for name, seconds in figures.items()}


def show(title: str, figures: Sequence[dict[str, float]]) -> None:
    """What each case costs, and how much more the runtime as it is: the mean of the processes' ratios."""
    table = Table(title=title, title_justify="left")
    for column in ("case", "µs an event", "as it is costs more by", "give or take"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name in CASES:
        ratios = [generation[AS_IT_IS] / generation[name] - 1 for generation in figures]
        error = statistics.stdev(ratios) / math.sqrt(len(ratios))
        more = ("", "") if name == AS_IT_IS else (f"{statistics.mean(ratios):+.1%}", f"{2 * error:.1%}")
        middle = statistics.median(generation[name] for generation in figures)
        table.add_row(name, f"{middle * 1e6:.3f}", *more)
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=4 * BATCH)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--processes", type=int, default=12)
    chosen = parser.parse_args()
    print(machine("anyio", "msgspec"))
    for what, handler in (("a predictor that costs nothing", no_op), ("a linear model", linear)):
        figures = [measure(handler, chosen.events, chosen.rounds) for _ in range(chosen.processes)]
        show(f"{chosen.events:,} rides, {what}", figures)


if __name__ == "__main__":
    main()
