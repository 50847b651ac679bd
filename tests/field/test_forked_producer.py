"""A Flask app opened its producer at import, gunicorn --preload forked, and its workers hung in `publish`."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import anyio
import httpx

from eventml import Bus
from eventml.backends.base import NewTopic
from eventml.bus import create_topics
from eventml.errors import NotOpenError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.kafka.cluster import KafkaCluster
    from backends.redis.server import RedisServer

PROGRAM = Path(__file__).with_name("forked.py")


def run_forked(url: str, topic: str, forks: int) -> dict[str, int]:
    """Run the program, whose processes write nothing to standard error; how many events each published."""
    command = [sys.executable, "-W", "error", "-W", "default:This process:DeprecationWarning", str(PROGRAM)]
    result = subprocess.run(  # noqa: S603 - our own program
        [*command, url, topic, str(forks)], capture_output=True, text=True, timeout=100, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    published: dict[str, int] = json.loads(result.stdout)
    assert len(published) == forks + 5
    return published


async def check_topic(url: str, topic: str, published: dict[str, int]) -> None:
    """Check that the topic has what was published, once and in the order of each publisher, with own ids."""
    async with Bus("reader", backend=url) as bus:
        ids: list[str] = []
        seen: Counter[str] = Counter()
        async with bus.backend.subscribe([topic], group=None, start="earliest") as subscription:
            with anyio.fail_after(30):
                while seen.total() < sum(published.values()):
                    for delivery in await subscription.receive(1000):
                        event = json.loads(delivery.record.value)
                        ids.append(delivery.record.id)
                        if "redis" in url:  # one partition
                            assert event["n"] == seen[event["by"]]
                        seen[event["by"]] += 1
    assert seen == published
    assert len(set(ids)) == len(ids)


def test_children_publish_through_connections_of_their_own_redis(redis_server: RedisServer) -> None:
    topic = f"forked-{token_hex(4)}"
    asyncio.run(check_topic(redis_server.url, topic, run_forked(redis_server.url, topic, forks=6)))


def test_children_publish_through_connections_of_their_own_kafka(kafka_broker: KafkaCluster) -> None:
    topic = f"forked-{token_hex(4)}"

    async def create() -> None:
        async with Bus("creator", backend=kafka_broker.url) as bus:
            await create_topics(bus, [NewTopic(name=topic, partitions=2)])

    asyncio.run(create())
    asyncio.run(check_topic(kafka_broker.url, topic, run_forked(kafka_broker.url, topic, forks=2)))


def in_child(function: Callable[[], Any]) -> str:
    """What a function returns in a forked process, or the error that it raises there, as text."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def run() -> None:
        try:
            sender.send(str(function()))
        except Exception as exc:  # noqa: BLE001 - shown by the test
            sender.send(f"{type(exc).__name__}: {exc}")

    process = context.Process(target=run)
    process.start()
    try:
        assert receiver.poll(30), "the child hangs"
        answer: str = receiver.recv()
        process.join(30)
        assert process.exitcode == 0, "the child does not end"
    finally:
        process.kill()  # this process would wait for it at its own end
    return answer


def test_a_producer_in_memory_is_refused_in_a_child() -> None:
    bus = Bus("web", backend="memory://forked")
    with bus.producer() as producer:
        answer = in_child(lambda: producer.publish("rides", {"id": 1}))
        assert answer.startswith(UnsupportedError.__name__)
        assert "EVENTML_BACKEND" in answer
        producer.publish("rides", {"id": 2})  # the parent's still works


def test_a_child_may_open_a_hub_of_its_own_even_if_that_of_the_parent_was_locked() -> None:
    async def publish_and_count() -> int:
        async with bus:
            await bus.publish("rides", {"id": 1})
            async with bus.backend.subscribe(["rides"], group=None, start="earliest") as subscription:
                return len(await subscription.receive(10))

    async def open_and_fork() -> tuple[str, int]:
        async with bus:
            await bus.publish("rides", {"id": 0})
            with bus.backend.lock:  # type: ignore[attr-defined] # as another thread may hold it at any time
                answer = await anyio.to_thread.run_sync(in_child, lambda: asyncio.run(publish_and_count()))
        return answer, await publish_and_count()

    bus = Bus("jobs", backend="memory://locked")
    assert asyncio.run(open_and_fork()) == ("1", 2)


def test_a_bus_opened_before_the_fork_says_so() -> None:
    async def open_and_fork() -> str:
        async with bus:
            return await anyio.to_thread.run_sync(
                in_child, lambda: asyncio.run(bus.publish("rides", {"id": 1}))
            )

    bus = Bus("jobs", backend="memory://opened")
    answer = asyncio.run(open_and_fork())
    assert answer.startswith(NotOpenError.__name__)
    assert f"opened before a fork, and its connection is that of the parent process ({os.getpid()})" in answer


def test_a_producer_that_was_closed_before_the_fork_stays_closed() -> None:
    with Bus("web", backend="memory://closed").producer() as producer:
        pass
    assert in_child(lambda: producer.publish("rides", {})).startswith(NotOpenError.__name__)


def test_a_program_that_never_closes_its_producer_ends(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "from eventml import Bus\n"
        "producer = Bus('app').producer().__enter__()\n"
        "producer.publish('rides', {})\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "app.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_a_request_in_a_child_is_answered(redis_server: RedisServer) -> None:
    topic = f"forked-{token_hex(4)}"
    bus = Bus("web", backend=redis_server.url)

    @bus.predictor(topic, to=f"{topic}-doubled")
    def double(ride: dict[str, int]) -> dict[str, int]:
        return {"km": 2 * ride["km"]}

    async def serve_and_fork() -> str:
        async with bus.open(), bus.worker() as worker, anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await worker.ready.wait()
            with bus.producer() as producer:
                answer = await anyio.to_thread.run_sync(
                    in_child, lambda: producer.request(topic, {"km": 4}, timeout=20)
                )
            worker.stop()
        return answer

    assert asyncio.run(serve_and_fork()) == str({"km": 8})


def test_an_app_made_before_the_fork_serves_in_each_child_with_ids_of_its_own() -> None:
    bus = Bus("web")

    @bus.predictor("rides", to="doubled")
    def double(ride: dict[str, int]) -> dict[str, int]:
        return {"km": 2 * ride["km"]}

    application = bus.asgi()

    async def ask() -> str:
        transport = httpx.ASGITransport(application)
        async with (
            application.lifespan(),
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
        ):
            answer = (await client.post("/predict/double", json={"km": 4})).json()
            assert answer["prediction"] == {"km": 8}
            return str(answer["input"])

    first, second = (in_child(lambda: asyncio.run(ask())) for _ in range(2))
    assert first.endswith("-1")
    assert second.endswith("-1")
    assert first != second
