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
"""How long each storm lasts: short in CI, 60 by `make chaos`."""

BATCH = 64
WORKERS = 3
IN_HAND = 5 * BATCH
"""What a worker holds at most: two batches ahead of the call, one in it, two completions behind it."""

REDIS = "lease=2&timeout=2"
KAFKA = "session_timeout=2&heartbeat_interval=0.25&rebalance_timeout=4&drain=1&commit_interval=0.05"
NOTICES_SOON = {"group.min.session.timeout.ms": "500"}
"""Where a group takes longer to notice a death than the next one takes to come, it never comes to work."""


class Broker(NamedTuple):
    """A backend to run on.

    Attributes:
        kind: Which.
        url: Where, with the settings that make its recovery quick.
        server: What can be stopped and started.
    """

    kind: str
    url: str
    server: Any

    def repeats_allowed(self, deaths: int) -> int:
        """How often an input may be answered again after so many workers died: on Redis, never."""
        return 0 if self.kind == "redis" else deaths * IN_HAND


def _broker(kind: str, server: RedisServer | KafkaCluster) -> Broker:
    return Broker(kind, f"{server.url}?{REDIS if kind == 'redis' else KAFKA}", server)


@pytest.fixture(params=["redis", "kafka"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """One that the test leaves as it is."""
    if request.param == "redis":
        return _broker("redis", request.getfixturevalue("redis_server"))
    return _broker("kafka", request.getfixturevalue("start_kafka")(settings=NOTICES_SOON))


@pytest.fixture(params=["redis", "kafka"])
def own_broker(request: pytest.FixtureRequest) -> Broker:
    """One that the test may kill: what it has acknowledged, its disk has."""
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
