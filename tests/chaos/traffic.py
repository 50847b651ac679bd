"""A steady load of events that records its history, and reads back what became of each event."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING, NamedTuple

import anyio
import msgspec

from eventml import Record
from eventml.errors import BackendError, FullError, PublishError
from tests.chaos.history import Kind, Operation
from tests.deploy.oracle import Oracle

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from eventml.backends.base import Backend

KEYS = 40
QUIET = 3.0
"""Seconds without a record after which a topic has been read to its end."""
PATIENCE = 90.0
"""Seconds without a completion after which what is not completed is lost."""


class Call(NamedTuple):
    """A call of `publish`: numbers from `first` on, and those that were refused."""

    first: int
    size: int
    invoked: float
    ended: float | None
    refused: Collection[int]


class Traffic(Oracle):
    """Publishes numbers from a thread, with `KEYS` keys in turn.

    Args:
        url: URL of the backend, through whatever may fail.
        direct: URL that always works once all faults have ended.
        name: Name of the app.
        journal: Folder where the handlers write what they are called with.
        rate: Events a second.
    """

    def __init__(self, url: str, direct: str, name: str, journal: Path, rate: int) -> None:
        super().__init__(direct, name)
        self._rate = rate
        self._faulty = Oracle(url, name)
        self._group = f"{name}.answer"
        self._journal = journal
        self.calls: list[Call] = []
        self.errors: dict[str, int] = {}

    def create(self) -> None:
        """Create the topics, on backends that need it."""
        anyio.run(self._create)

    async def _create(self) -> None:
        async with self.connect() as backend:
            await self.create_topics(backend)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Publish while inside this context."""
        stop = Event()
        thread = Thread(target=anyio.run, args=(self._run, stop), daemon=True)
        thread.start()
        try:
            yield
            assert thread.is_alive(), "the publisher has ended"
        finally:
            stop.set()
            thread.join(120)
            assert not thread.is_alive(), "the publisher does not end"

    async def _run(self, stop: Event) -> None:
        begun = time.monotonic()
        async with self._faulty.connect() as backend:
            while not stop.is_set():
                due = int((time.monotonic() - begun) * self._rate) - self.published
                if due > 0:
                    await self._call(backend, self.next_records(min(due, self._rate)))
                await anyio.sleep(0.05)

    def next_records(self, count: int, **fields: object) -> list[Record]:
        """Make the records of the next `count` numbers."""
        records = super().next_records(count, **fields)
        return [Record(r.topic, r.value, b"k%d" % (int(r.id) % KEYS), r.id) for r in records]

    async def _call(self, backend: Backend, records: list[Record]) -> None:
        first, invoked = int(records[0].id), time.monotonic()
        ended: float | None = None
        refused: Collection[int] = ()
        try:
            await backend.publish(records)
            ended = time.monotonic()
        except FullError:
            refused = range(first, first + len(records))
        except PublishError as exc:
            refused = {first + position for position in exc.failed}
            ended = time.monotonic() if exc.failed else None
        except BackendError as exc:
            self.errors[type(exc).__name__] = self.errors.get(type(exc).__name__, 0) + 1
        self.calls.append(Call(first, len(records), invoked, ended, refused))

    def history(self) -> list[Operation]:
        """Wait until every event is completed, and return what happened to each."""
        return anyio.run(self._history)

    async def _history(self) -> list[Operation]:
        history = [
            Operation(
                "publish",
                str(n),
                f"k{n % KEYS}",
                call.invoked,
                None if n in call.refused else call.ended,
                "fail" if n in call.refused else "unknown" if call.ended is None else "ok",
            )
            for call in self.calls
            for n in range(call.first, call.first + call.size)
        ]
        sure = {op.id for op in history if op.outcome == "ok"}
        async with self.connect() as backend:
            await self._completed(backend)
            stored = await self._read(backend, self.topic, "store", sure)
            expected = {op.id for op in stored}
            history += stored
            dead = await self._read(backend, f"{self.topic}.{self._group}.dlq", "dead_letter", ())
            expected -= {op.id for op in dead}
            history += dead
            history += await self._read(backend, self.to, "complete", expected)
        for what, invoked, numbers in self.journal():
            if what == "invoked":
                history += [Operation("handle", str(n), f"k{n % KEYS}", invoked) for n in numbers]
        return history

    async def _completed(self, backend: Backend) -> None:
        """Wait until every event is completed, or nothing more is."""
        least, give_up = math.inf, time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            lags = await backend.lag(self.topic, group=self._group)
            lag = math.inf if lags is None else sum(lags.values())
            if lag < least:
                least, give_up = lag, time.monotonic() + PATIENCE
            if not lag:
                return
            await anyio.sleep(0.5)

    async def _read(
        self, backend: Backend, topic: str, kind: Kind, expected: Collection[str]
    ) -> list[Operation]:
        """Read a topic from its beginning until all that is expected was found and nothing more comes."""
        found: list[Operation] = []
        missing = set(expected)
        give_up = time.monotonic() + PATIENCE
        async with backend.subscribe([topic], group=None, start="earliest") as subscription:
            while True:
                wait = QUIET if not missing else give_up - time.monotonic()
                deliveries = None
                with anyio.move_on_after(wait):
                    deliveries = await subscription.receive(1000)
                if deliveries is None:
                    return found
                for delivery in deliveries:
                    id_ = delivery.record.id.split("/")[0]
                    key = (delivery.record.key or b"").decode()
                    found.append(Operation(kind, id_, key, partition=delivery.partition))
                    missing.discard(id_)

    def journal(self) -> Iterator[tuple[str, float, list[int]]]:
        """Yield the calls of the handlers: `invoked` or `ok`, the time, and the numbers."""
        for path in self._journal.glob("*.jsonl"):
            for line in path.read_bytes().splitlines():
                try:
                    what, at, numbers = msgspec.json.decode(line)
                except msgspec.DecodeError:
                    continue  # its process was killed while it wrote
                yield what, at, numbers

    def recoveries(self, ends: Collection[float]) -> list[float]:
        """For the end of each fault, the seconds until work went on.

        It went on when all that had been published before the end, and the first publish that succeeded
        after it, was handled.
        """
        handled: dict[int, float] = {}
        for what, at, numbers in self.journal():
            if what == "ok":
                for n in numbers:
                    handled[n] = min(at, handled.get(n, math.inf))
        calls = [call for call in self.calls if call.ended is not None]
        latest, slowest = 0.0, []
        for call in calls:
            times = [handled.get(n, 0.0) for n in range(call.first, call.first + call.size)]
            latest = max(latest, *times)
            slowest.append(latest)
        published = [call.ended for call in calls if call.ended is not None]
        last = [min(bisect_right(published, end), len(published) - 1) for end in ends]
        return [max(slowest[call] - end, 0.0) for call, end in zip(last, ends, strict=True)]
