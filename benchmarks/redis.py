"""eventml over Redis Streams, against FastStream, a hand-written loop, and what the server allows.

    python benchmarks/redis.py [--events N] [--rounds N] [--seconds S] [--models no-op,linear]
                               [--durable | --url URL]

Ride events of 250 bytes are received, decoded, predicted from, and acknowledged together with their
results, by one worker in one process; the cases take turns. Then latencies, from the moment before an
event is sent to the moment after its result was received by another process, at half the rate that
each of FastStream's idioms reaches. `--seconds 0` leaves them out.

A server is started that keeps nothing on disk; with `--durable`, one as `backends/redis` sets it up.
With a URL that server is used, and emptied.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import re
import statistics
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # from its own folder, this file would be found in the place of redis-py

from rich.console import Console  # noqa: E402 - only from here on is everything found
from rich.table import Table  # noqa: E402 - the same

from backends.redis.server import RedisServer  # noqa: E402 - the same
from benchmarks import redis_cases as ways  # noqa: E402 - the same
from benchmarks.measuring import interleave, linear, machine, no_op, report, rides  # noqa: E402 - the same

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from benchmarks.measuring import RideStarted

EVENTML = "eventml"
ONE_BY_ONE = "FastStream, one by one"
IN_BATCHES = "FastStream, batches and a pipeline"
MODELS = {"no-op": no_op, "linear": linear}


def cases(url: str, events: Sequence[RideStarted], predict: ways.Predict) -> dict[str, Callable[[], float]]:
    """The cases by name, each with about as many events as it handles in a second or two."""
    some, few = events[: len(events) // 4], events[: len(events) // 50]
    return {
        EVENTML: lambda: ways.with_eventml(url, events, predict),
        ONE_BY_ONE: lambda: ways.with_faststream(url, few, predict, ways.one_by_one),
        IN_BATCHES: lambda: ways.with_faststream(url, some, predict, ways.in_batches),
        "redis-py loop, pipelined": lambda: ways.with_redis_py(url, some, predict),
        "bare RESP loop, same script": lambda: ways.with_bare_loop(url, events, predict),
    }


@contextmanager
def worker(name: str, url: str) -> Iterator[None]:
    """Start a worker in a process of its own, and wait until it reads."""
    process = multiprocessing.get_context("spawn").Process(target=ways.serve, args=(name, url), daemon=True)
    process.start()
    try:
        ways.until_it_reads(url)
        yield
    finally:
        process.kill()
        process.join()


class Load:
    """Sends events at a fixed rate and measures, from another process, the latency of each result.

    Args:
        url: Of the server.
        entries: The fields of each event's entry.
        rate: Events in a second.

    Attributes:
        took: Seconds, for each result.
    """

    def __init__(self, url: str, entries: Sequence[tuple[str | bytes, ...]], rate: float) -> None:
        self._url = url
        self._entries = entries
        self._rate = rate
        self._sent = [0.0] * len(entries)
        self.took: list[float] = []

    def run(self) -> None:
        threads = [threading.Thread(target=work) for work in (self._read, self._send)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(self.took) == len(self._entries), (
            f"{len(self.took)} results for {len(self._entries)} events"
        )

    def _send(self) -> None:
        connection, done = ways.Resp(self._url), 0
        start = time.perf_counter()
        while done < len(self._entries):
            due = min(int((time.perf_counter() - start) * self._rate) + 1, len(self._entries))
            for number in range(done, due):
                self._sent[number] = time.perf_counter()
                connection.send("XADD", ways.SOURCE, "*", *self._entries[number])
            for _ in range(done, due):
                connection.receive()
            done = due
            time.sleep(max(start + done / self._rate - time.perf_counter(), 0))
        connection.close()

    def _read(self) -> None:
        connection, position = ways.Resp(self._url), b"0"
        give_up = time.monotonic() + len(self._entries) / self._rate + 10
        while len(self.took) < len(self._entries) and time.monotonic() < give_up:
            connection.send("XREAD", "COUNT", 1000, "BLOCK", 500, "STREAMS", ways.TARGET, position)
            for _, found in connection.receive() or ():
                now = time.perf_counter()
                position = found[-1][0]
                results = b" ".join(field for _, fields in found for field in fields)
                numbers = re.findall(rb'"ride_id":"ride-(\d+)"', results)
                self.took += [now - self._sent[int(number)] for number in numbers]
        connection.close()


def latencies(name: str, url: str, rate: float, seconds: float) -> list[float]:
    """Return the latency of each event in seconds, with one worker and this rate of events."""
    ways.empty(url)
    load = Load(url, ways.entries(rides(int(rate * seconds)), faststream=name != EVENTML), rate)
    with worker(name, url):
        load.run()
    return load.took


def compare_latencies(url: str, figures: Mapping[str, Sequence[float]], seconds: float) -> None:
    """Measure latencies of FastStream at half of its maximum rate, and of eventml at the same rate."""
    table = Table(title="Latency at half of FastStream's rate, no-op", title_justify="left")
    for column in ("rate", "case", "p50 ms", "p99 ms"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for idiom in (ONE_BY_ONE, IN_BATCHES):
        rate = statistics.median(figures[idiom]) / 2
        for name in (EVENTML, idiom):
            took = statistics.quantiles(latencies(name, url, rate, seconds), n=100)
            table.add_row(f"{rate:,.0f}/s", name, f"{1e3 * took[49]:.2f}", f"{1e3 * took[98]:.2f}")
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each latency; 0 for none")
    parser.add_argument("--models", default="no-op,linear")
    parser.add_argument("--durable", action="store_true", help="with an append-only file")
    parser.add_argument("--url", help="of a server that may be emptied")
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    with ExitStack() as stack:
        settings = {} if chosen.durable else {"appendonly": "no", "save": ""}
        url = chosen.url or stack.enter_context(RedisServer(settings=settings)).url
        print(machine("redis", "hiredis", "faststream", "msgspec"), ways.server(url), sep="; ")
        events = rides(chosen.events)
        figures: dict[str, dict[str, list[float]]] = {}
        for model in chosen.models.split(","):
            figures[model] = interleave(cases(url, events, MODELS[model]), chosen.rounds)
            report(f"{chosen.events:,} rides through Redis, {model}", figures[model], EVENTML)
        if chosen.seconds and "no-op" in figures:
            compare_latencies(url, figures["no-op"], chosen.seconds)


if __name__ == "__main__":
    main()
