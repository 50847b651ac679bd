"""The cost of failure handling when nothing fails: the complete runtime, and the runtime without it.

    python -m benchmarks.failures [--events N] [--rounds N] [--processes N] [--models no-op linear]

It runs in memory, where no broker hides the cost, and measures the CPU time of the only thread. Each case has
a process of its own, as Python's interpreter adapts to the code it runs, and the processes take turns in many
short rounds. Other load on the machine can only add to a round, so the figure of a process is that of its
fastest tenth. Where a process's memory lies makes a difference too, so each case has many processes, one
after the other.

"Without retry" calls the handler and completes: no retries, no bisecting, no dead letters. "Without retry and
checks" also trusts the handler's outputs (length, types, finite numbers), and every record's value and
format.
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
from eventml.backends.memory import Hub, Settings
from eventml.bus import connection
from eventml.codec import DecodedBatch
from eventml.runtime import worker
from eventml.runtime.calls.outputs import Outputs
from eventml.runtime.failures.dead_letters import DeadLetterWriter
from eventml.runtime.failures.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from multiprocessing.connection import Connection

    from eventml.backends.base import Completion
    from eventml.handlers import Handler
    from eventml.records import Delivery
    from eventml.runtime.failures.poison import Call

    Case = Callable[[], AbstractContextManager[None]]

BATCH = 1024
MODELS = {"no-op": ("a predictor that costs nothing", no_op), "linear": ("a linear model", linear)}
FULL = "as it is"
_WARM_UP = 5  # rounds


class NoRetry(Retry):
    """In the place of `Retry`: calls the handler, and never retries nor writes dead letters."""

    def __init__(self, call: Call, handler: Handler, **arguments: Any) -> None:
        super().__init__(call, handler, **arguments)
        self.process = call  # type: ignore[method-assign,assignment]  # the call itself, and nothing around it
        self.calls = NoCounting()  # type: ignore[assignment]  # what a pipeline needs of it
        self.dead_letters = NoDeadLetters(handler, translate=lambda error: error)

    async def process_due(self) -> list[Completion]:
        return []


class NoCounting:
    def split_lost(self, done: list[Completion]) -> tuple[list[Completion], list[Completion]]:
        return [], done


class NoDeadLetters(DeadLetterWriter):
    def count(self, completed: Sequence[Completion]) -> int:  # noqa: ARG002 - there are none
        return 0


class TrustingDecoder:
    """Decodes JSON, and nothing else."""

    def __init__(self, event_type: Any, *, strict: bool = True) -> None:  # noqa: ARG002 - as `Decoder`
        self._decode = msgspec.json.Decoder(event_type).decode

    def decode_batch(self, deliveries: Sequence[Delivery]) -> DecodedBatch:
        decode = self._decode
        return DecodedBatch([decode(delivery.record.value) for delivery in deliveries], 0, ())


class TrustingOutputs(Outputs):
    """Encodes outputs without checking them."""

    def completions(self, deliveries: Sequence[Delivery], outputs: Any) -> list[Completion]:
        return self.encode(deliveries, outputs)


@contextmanager
def without_retry() -> Iterator[None]:
    with patch.dict(worker.Worker.__init__.__kwdefaults__, failure_policy=NoRetry):
        yield


@contextmanager
def without_retry_and_checks() -> Iterator[None]:
    with (
        without_retry(),
        patch.object(connection, "Decoder", TrustingDecoder),
        patch.object(worker, "Outputs", TrustingOutputs),
    ):
        yield


CASES: dict[str, Case] = {
    FULL: nullcontext,
    "without retry": without_retry,
    "without retry and checks": without_retry_and_checks,
}


def seconds_an_event(events: list[RideStarted], handler: Callable[..., Any]) -> float:
    """CPU time of a worker for each of these events, published before; in one thread, on the event loop."""
    bus = eventml.Bus("benchmark")

    async def predict(batch: list[RideStarted]) -> list[DurationPredicted]:
        return list(handler(batch))

    bus.predictor("rides.started", to="rides.duration", max_batch=BATCH)(predict)

    async def main() -> float:
        async with bus.open(backend=Hub(Settings(retention=10 * len(events)))), bus.worker() as work:
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
    """The process of a case: measure once for each True that is received."""
    logging.disable(logging.WARNING)
    published = rides(events)
    gc.freeze()
    with CASES[name]():
        while requests.recv():
            requests.send(seconds_an_event(published, handler))


def measure(handler: Callable[..., Any], events: int, rounds: int) -> dict[str, float]:
    """The fastest tenth of each case, from one process for each, called once a round in random order."""
    figures: dict[str, list[float]] = {name: [] for name in CASES}
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        requests: dict[str, Connection] = {}
        for name in CASES:
            requests[name], remote = spawn.Pipe()
            process = spawn.Process(target=serve, args=(name, handler, events, remote))
            process.start()
            remote.close()  # so that `recv` fails if the process ends
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
    """Show each case's cost, and by how much that of the full runtime exceeds it: the mean over processes."""
    table = Table(title=title, title_justify="left")
    for column in ("case", "µs an event", "as it is costs more by", "give or take"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name in CASES:
        ratios = [generation[FULL] / generation[name] - 1 for generation in figures]
        error = statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else math.inf
        more = ("", "") if name == FULL else (f"{statistics.mean(ratios):+.1%}", f"{2 * error:.1%}")
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
    parser.add_argument("--models", nargs="+", default=[*MODELS], choices=[*MODELS])
    chosen = parser.parse_args()
    print(machine("anyio", "msgspec"))
    for what, handler in (MODELS[name] for name in chosen.models):
        figures = [measure(handler, chosen.events, chosen.rounds) for _ in range(chosen.processes)]
        show(f"{chosen.events:,} rides, {what}", figures)


if __name__ == "__main__":
    main()
