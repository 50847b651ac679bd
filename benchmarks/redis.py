"""eventml over Redis Streams, against FastStream, a hand-written loop, and what the server allows.

    python benchmarks/redis.py [--events N] [--rounds N] [--url URL] [--only MODEL] [--no-latency]

Ride events of 250 bytes are received, decoded, predicted from, and acknowledged together with their
results, by one worker in one process. The cases take turns within one run, on one machine.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import re
import socket
import statistics
import sys
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # from its own folder, this file would be found in the place of redis-py

import msgspec  # noqa: E402 - only from here on is everything found
from faststream.redis import BinaryMessageFormatV1  # noqa: E402 - the same
from rich.console import Console  # noqa: E402 - the same
from rich.table import Table  # noqa: E402 - the same

from backends.redis.server import RedisServer  # noqa: E402 - the same
from benchmarks import redis_cases as ways  # noqa: E402 - the same
from benchmarks.measuring import interleave, machine, report, rides  # noqa: E402 - the same

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.measuring import RideStarted

BARE = "bare RESP loop with the script"
ONE_BY_ONE = "FastStream, one by one"
IN_BATCHES = "FastStream, batches and a pipeline"
MODELS = {"no-op": ways.no_op, "linear": ways.linear}


def cases(url: str, events: list[RideStarted], predict: ways.Predict) -> dict[str, Callable[[], float]]:
    """As many events for each as it drains in about a second."""
    some, few = events[: len(events) // 4], events[: len(events) // 50]
    return {
        "eventml": lambda: ways.with_eventml(url, events, predict),
        ONE_BY_ONE: lambda: ways.with_faststream(url, few, predict, ways.one_by_one),
        IN_BATCHES: lambda: ways.with_faststream(url, some, predict, ways.in_batches),
        "redis-py loop, pipelined": lambda: ways.with_redis_py(url, some, predict),
        BARE: lambda: ways.with_bare_loop(url, events, predict),
    }


class Load:
    """Events at a fixed rate, and when the result of each was there, seen from outside the worker.

    Args:
        url: The server.
        encode: Makes an entry's fields of an event.
        rate: Events in a second.
        seconds: For how long.
    """

    def __init__(self, url: str, encode: Callable[[RideStarted], dict[str, Any]], rate: float, seconds: float) -> None:
        self._url = url
        self._rate = rate
        self._count = int(rate * seconds)
        self._entries = [encode(ride) for ride in rides(self._count)]
        self._sent = [0.0] * self._count
        self.latencies: list[float] = []

    def run(self) -> None:
        reading = threading.Thread(target=self._read)
        reading.start()
        start = time.perf_counter()
        connection = ways.Resp(self._url)
        sent = 0
        while sent < self._count:
            due = min(int((time.perf_counter() - start) * self._rate) + 1, self._count)
            for number in range(sent, due):
                self._sent[number] = time.perf_counter()
                connection.send("XADD", ways.SOURCE, "*", *sum(self._entries[number].items(), ()))
            for _ in range(sent, due):
                connection.receive()
            sent = due
            time.sleep(max(start + sent / self._rate - time.perf_counter(), 0))
        connection.close()
        reading.join()

    def _read(self) -> None:
        connection = ways.Resp(self._url)
        position: bytes = b"0"
        give_up = time.monotonic() + self._count / self._rate + 10
        while len(self.latencies) < self._count and time.monotonic() < give_up:
            connection.send("XREAD", "COUNT", 1000, "BLOCK", 500, "STREAMS", ways.TARGET, position)
            for _, entries in connection.receive() or ():
                now = time.perf_counter()
                for position, fields in entries:
                    found = re.search(rb'"ride_id":"ride-(\d+)"', b" ".join(fields))
                    assert found is not None
                    self.latencies.append(now - self._sent[int(found[1])])
        connection.close()
