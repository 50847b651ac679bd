"""A steady load of events, and its result."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from eventml.errors import BackendError
from tests.chaos.history import Operation, check
from tests.deploy.oracle import Oracle

if TYPE_CHECKING:
    from collections.abc import Iterator

RATE = 2_000
"""Events a second."""


class Load(Oracle):
    """Publishes numbers at a steady rate from a thread.

    Attributes:
        sent: Time at which each number was published, in seconds since the epoch.
        uncertain: Numbers whose publish failed; the broker may have stored them or not.
    """

    def __init__(self, url: str, name: str) -> None:
        super().__init__(url, name)
        self.sent: dict[int, float] = {}
        self.uncertain: set[int] = set()

    def create(self) -> None:
        """Create the topics, on backends that need it."""
        anyio.run(self._create)

    async def _create(self) -> None:
        async with self.connect() as backend:
            await self.create_topics(backend)

    @contextmanager
    def running(self, rate: int = RATE) -> Iterator[None]:
        """Publish while inside this context."""
        stop = threading.Event()
        thread = threading.Thread(target=anyio.run, args=(self._run, rate, stop), daemon=True)
        thread.start()
        while not self.sent:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield
        finally:
            stop.set()
            thread.join()

    async def _run(self, rate: int, stop: threading.Event) -> None:
        begun, before = time.monotonic(), self.published
        async with self.connect() as backend:
            while not stop.is_set():
                due = before + int((time.monotonic() - begun) * rate) - self.published
                records = self.next_records(min(max(due, 0), rate))
                numbers = [int(record.id) for record in records]
                self.sent |= dict.fromkeys(numbers, time.time())
                try:
                    await backend.publish(records)
                except BackendError:
                    self.uncertain |= set(numbers)
                await anyio.sleep(0.02)

    def _history(self) -> Iterator[Operation]:
        for n in range(self.published):
            yield Operation("publish", str(n), outcome="unknown" if n in self.uncertain else "ok")
        for id_, answers in self.answers.items():
            yield from [Operation("complete", id_)] * len(answers)

    def result(self, storm: str, **more: object) -> dict[str, object]:
        """Collect the answers and return counts and latencies.

        They are also printed, and appended to the file `$CHAOS_REPORT` if that is set.
        """
        self.collect(self.published - len(self.uncertain), within=90, extra=3.0)  # longer than a lease
        waits = sorted(
            self.answered[str(n)] - sent for n, sent in self.sent.items() if str(n) in self.answered
        )
        verdict = check(self._history(), ordered=False)  # every number has a key of its own
        assert verdict.invented == []
        result = {
            "storm": storm,
            "published": self.published,
            "uncertain": len(self.uncertain),
            "lost": len(verdict.lost),
            "repeated": sum(verdict.repeated.values()),
            "p50_s": round(waits[len(waits) // 2], 3),
            "p99_s": round(waits[len(waits) * 99 // 100], 3),
            "longest_s": round(waits[-1], 3),
            **more,
        }
        line = json.dumps(result)
        print(line)  # noqa: T201 - it is what the run is for
        if "CHAOS_REPORT" in os.environ:
            with Path(os.environ["CHAOS_REPORT"]).open("a") as report:
                report.write(f"{line}\n")
        return result
