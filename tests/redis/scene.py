"""Helpers of the Redis tests: records, completions with outputs, a worker, and counting the results."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import anyio
from redis.asyncio import Redis

from eventml.backends import redis as backend
from eventml.backends.base import Completion
from eventml.errors import UnavailableError
from eventml.records import Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    import pytest

    import eventml
    from eventml.backends.base import Subscription
    from eventml.records import Delivery
    from eventml.runtime.worker import Worker

PATIENCE = 20.0  # seconds that a step may take; only a failing test waits so long


def new_topic() -> str:
    return f"topic-{token_hex(4)}"


def new_records(topic: str, count: int, start: int = 0) -> list[Record]:
    return [Record(topic, b"%d" % n, b"key-%d" % (n % 5), f"r{n}") for n in range(start, start + count)]


def answers(deliveries: Iterable[Delivery], to: str) -> list[Completion]:
    """A completion for each, with one output whose id is made of the input's."""
    return [
        Completion(d, (Record(to, b"of " + d.record.value, d.record.key, f"{d.record.id}/answer"),))
        for d in deliveries
    ]


async def receive(subscription: Subscription, limit: int = 100) -> Sequence[Delivery]:
    """Receive; retry while the server is unavailable."""
    while True:
        try:
            return await subscription.receive(limit)
        except UnavailableError:
            await anyio.sleep(0.01)


async def complete(subscription: Subscription, done: Sequence[Completion]) -> int:
    """Complete; retry while the server is unavailable. Returns the number of retries."""
    failures = 0
    while True:
        try:
            await subscription.complete(done)
        except UnavailableError:
            failures += 1
            await anyio.sleep(0.01)
        else:
            return failures


async def take(subscription: Subscription, wanted: int) -> list[Delivery]:
    """Receive until so many deliveries have come."""
    taken: list[Delivery] = []
    with anyio.fail_after(PATIENCE):
        while len(taken) < wanted:
            taken += await receive(subscription, wanted - len(taken))
    return taken


async def until(done: Callable[[], Any], what: str) -> None:
    """Wait until a condition holds; it is evaluated every 10 ms."""
    with anyio.move_on_after(PATIENCE):
        while True:
            result = done()
            if hasattr(result, "__await__"):
                result = await result
            if result:
                return
            await anyio.sleep(0.01)
    raise AssertionError(f"{what}, after {PATIENCE:g} s")


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[Any]:  # redis-py types its replies too widely to use
    """A client of redis-py, to inspect and to change what the server has."""
    async with Redis.from_url(url) as client:
        yield client


async def ids(client: Any, topic: str) -> Counter[str]:
    """The ids of a topic's entries, and how often each occurs."""
    return Counter(fields[b"id"].decode() for _, fields in await client.xrange(topic))


def once(wanted: Iterable[str]) -> Counter[str]:
    return Counter(dict.fromkeys(wanted, 1))


def answered(records: Iterable[Record]) -> Counter[str]:
    """The ids of the outputs of these records, each once."""
    return once(f"{record.id}/answer" for record in records)


def logged(caplog: pytest.LogCaptureFixture, text: str) -> int:
    """The sum of the numbers that messages with this text begin with, or name first."""
    found = [record.args for record in caplog.records if text in record.msg]
    return sum(args[0] for args in found if isinstance(args, tuple) and isinstance(args[0], int))


@asynccontextmanager
async def working(bus: eventml.Bus, url: str, settings: backend.Settings) -> AsyncIterator[Worker]:
    """A running worker, which drains at the end."""
    async with (
        backend.open(url, settings) as broker,
        bus.open(broker),
        bus.worker() as worker,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(worker.run)
        await worker.ready.wait()
        yield worker
        worker.stop()
