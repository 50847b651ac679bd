"""Real brokers for tests, started by the code of `backends/` when the first test asks for one.

Where a broker cannot run, tests that ask for it are skipped with the reason; with CI set, or
EVENTML_REQUIRE_BROKERS=1, they fail instead.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import pytest

from backends.kafka.cluster import KafkaCluster
from backends.process import NotInstalledError
from backends.redis.server import RedisServer

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

Server = TypeVar("Server", bound="AbstractContextManager[Any]")
StartRedis = Callable[..., RedisServer]
StartKafka = Callable[..., KafkaCluster]

NEEDS = {
    "redis": {"redis_server", "start_redis"},
    "kafka": {"kafka_broker", "kafka_cluster", "start_kafka"},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what asks for a broker, so that `-m "not kafka"` leaves it out."""
    for item in items:
        asks = set(getattr(item, "fixturenames", ()))
        for marker, fixtures in NEEDS.items():
            if asks & fixtures:
                item.add_marker(marker)


def brokers_required() -> bool:
    return os.environ.get("EVENTML_REQUIRE_BROKERS") == "1" or os.environ.get("CI", "") not in {"", "false"}


def without_broker(reason: str) -> NoReturn:
    """End the test that cannot have its broker: skipped, or failed where brokers are required."""
    if brokers_required():
        pytest.fail(f"a broker is required here, but {reason}", pytrace=False)
    pytest.skip(reason)


def _made(server: Callable[..., Server], **options: Any) -> Server:
    try:
        return server(**options)
    except NotInstalledError as exc:
        without_broker(str(exc))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Redis server for all tests that leave it as it is; they choose topics of their own."""
    with _made(RedisServer) as server:
        yield server


@pytest.fixture
def start_redis() -> Iterator[StartRedis]:
    """Start a Redis server for this test alone, to kill or flush or fill: takes what `RedisServer` takes."""
    with ExitStack() as servers:
        yield lambda **options: servers.enter_context(_made(RedisServer, **options))


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[KafkaCluster]:
    """One Kafka node for all tests that leave it as it is; they choose topics of their own."""
    with _made(KafkaCluster, quick=True) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def _kafka_cluster() -> Iterator[KafkaCluster]:
    with _made(KafkaCluster, nodes=3, quick=True) as cluster:
        yield cluster


@pytest.fixture
def kafka_cluster(_kafka_cluster: KafkaCluster) -> KafkaCluster:
    """Three Kafka nodes, shared; a test may stop, kill and restart them. All are up when it begins."""
    for node in _kafka_cluster.nodes:
        if node.running:
            node.process.send(signal.SIGCONT)
    _kafka_cluster.start()
    return _kafka_cluster


@pytest.fixture
def start_kafka() -> Iterator[StartKafka]:
    """Start Kafka for this test alone: takes what `KafkaCluster` takes."""
    with ExitStack() as clusters:
        yield lambda **options: clusters.enter_context(_made(KafkaCluster, **{"quick": True, **options}))


@pytest.fixture
def foreign_client() -> Callable[[str], str]:
    """Find a client that is not ours (`redis-cli`, `kcat`) on PATH; without it, as without a broker."""

    def find(program: str) -> str:
        path = shutil.which(program)
        if path is None:
            without_broker(f"{program} is not installed")
        return path

    return find
