"""The same storms on Redis and on Kafka."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.chaos.load import Load
from tests.deploy.conftest import name, serve  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from backends.kafka.cluster import KafkaCluster
    from backends.redis.server import RedisServer

SECONDS = float(os.environ.get("CHAOS_SECONDS", "6"))
"""Seconds that each storm lasts; `make chaos` sets 60."""

BATCH = 64
WORKERS = 3
IN_FLIGHT = 5 * BATCH
"""Most events in flight in a worker: two batches before the call, one in it, two in completion."""

REDIS = "lease=2&timeout=2"
KAFKA = "session_timeout=2&heartbeat_interval=0.25&rebalance_timeout=4&drain=1&commit_interval=0.05"
NOTICES_SOON = {"group.min.session.timeout.ms": "500"}
"""A group must notice a death sooner than the next one happens, or it never gets to work."""


class Broker(NamedTuple):
    """A backend to run on.

    Attributes:
        kind: `redis` or `kafka`.
        url: Its URL, with settings for a quick recovery.
        server: The server, which can be stopped and started.
    """

    kind: str
    url: str
    server: Any

    def repeats_allowed(self, deaths: int) -> int:
        """Return how many answers may be repeated after that many deaths of workers: on Redis, none."""
        return 0 if self.kind == "redis" else deaths * IN_FLIGHT


def _broker(kind: str, server: RedisServer | KafkaCluster) -> Broker:
    return Broker(kind, f"{server.url}?{REDIS if kind == 'redis' else KAFKA}", server)


@pytest.fixture(params=["redis", "kafka"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """A broker that keeps running."""
    if request.param == "redis":
        return _broker("redis", request.getfixturevalue("redis_server"))
    return _broker("kafka", request.getfixturevalue("start_kafka")(settings=NOTICES_SOON))


@pytest.fixture(params=["redis", "kafka"])
def own_broker(request: pytest.FixtureRequest) -> Broker:
    """A broker that the test may kill: it has stored on disk what it has acknowledged."""
    if request.param == "redis":
        return _broker("redis", request.getfixturevalue("start_redis")(appendfsync="always"))
    return _broker("kafka", request.getfixturevalue("start_kafka")(settings=NOTICES_SOON))


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    chosen = "broker" if "broker" in request.fixturenames else "own_broker"
    return str(request.getfixturevalue(chosen).url)


@pytest.fixture
def load(url: str, name: str) -> Load:  # noqa: F811 - the fixture
    load = Load(url, name)
    load.create()
    return load
