"""The process that replaces a dead worker takes over what that one had in flight, on Redis and on Kafka.

Leases and sessions are longer than any of these tests may take: nothing here waits for one to end.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from backends.kafka.cluster import KafkaCluster
    from tests.deploy.conftest import Serve
    from tests.deploy.oracle import Oracle
    from tests.deploy.service import Service

SLOW = {"MAX_BATCH": "8", "SLEEP": "0.05"}
"""Slow enough that a worker that dies has events in flight."""


@pytest.fixture(params=["redis", "kafka"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "redis":
        return f"{request.getfixturevalue('redis_server').url}?lease=600"
    return f"{request.getfixturevalue('kafka_broker').url}?session_timeout=600&heartbeat_interval=0.5"


def in_flight(service: Service) -> float:
    return service.metric("eventml_events_in_flight")


def test_the_next_worker_handles_what_a_killed_one_had_in_flight(serve: Serve, oracle: Oracle) -> None:
    oracle.publish(0)  # creates the topics
    service = serve("--workers", "2", env=SLOW)
    service.until_ready()
    for _ in range(3):
        oracle.publish(200)
        service.until(lambda: in_flight(service) > 0)
        os.kill(service.workers[0], signal.SIGKILL)
        oracle.collect(within=60)
    assert service.stop() == 0
    oracle.collect()
    assert oracle.lost == []


def test_a_poison_event_is_found_and_costs_one_event(serve: Serve, oracle: Oracle) -> None:
    """What replaces a process that it killed counts the attempt. The events read beside it are answered."""
    oracle.publish(0)
    service = serve("--workers", "2", env={"MAX_BATCH": "16", "MAX_DELIVERIES": "3"})
    service.until_ready()
    oracle.publish(60)
    oracle.publish(1, do="die")
    oracle.publish(60)
    service.until(lambda: service.metric("eventml_dead_letters_total") == 1)
    oracle.collect(120, within=60)
    assert service.stop() == 0
    assert oracle.lost == [60]
    assert 2 <= service.text.count("restarting in") <= 4


def test_a_worker_is_killed_after_a_rolling_restart(serve: Serve, oracle: Oracle) -> None:
    """A process that replaces a running one has another name, and so has the one that takes over from it."""
    oracle.publish(0)
    service = serve("--workers", "2", env=SLOW)
    service.until_ready()
    oracle.publish(200)
    service.send(signal.SIGHUP)
    service.until_logged("all workers have been replaced")
    oracle.publish(200)
    service.until(lambda: in_flight(service) > 0)
    os.kill(service.workers[-1], signal.SIGKILL)
    oracle.collect(within=60)
    assert service.stop() == 0
    assert oracle.lost == []


def test_a_service_that_stops_leaves_its_groups(serve: Serve, oracle: Oracle) -> None:
    """The next service, whose workers have other names, gets all partitions and all that was in flight."""
    oracle.publish(0)
    for _ in range(2):
        service = serve("--workers", "2", env=SLOW)
        service.until_ready()
        oracle.publish(200)
        time.sleep(0.2)
        assert service.stop() == 0
    last = serve("--workers", "1", env=SLOW)
    last.until_ready()
    oracle.publish(50)
    oracle.collect(within=60)
    assert oracle.lost == []


@pytest.mark.kafka
def test_a_name_that_all_workers_would_have_is_refused(serve: Serve, kafka_broker: KafkaCluster) -> None:
    url = f"{kafka_broker.url}?group_instance_id=one"
    service = serve("--workers", "2", env={"EVENTML_BACKEND": url})
    assert service.wait() == 1
    assert "backend.group_instance_id: leave it out with --workers" in service.text
