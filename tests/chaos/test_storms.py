"""Workers and brokers that die under load, checked by an oracle that knows every id published.

No event may be lost. None may be repeated on Redis; on Kafka at most those in flight when a worker dies.
"""

from __future__ import annotations

import os
import random
import signal
import time
from typing import TYPE_CHECKING

import msgspec

from eventml import records
from tests.chaos.conftest import BATCH, SECONDS, WORKERS
from tests.deploy.model_files import train
from tests.deploy.service import alive

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.conftest import Broker
    from tests.chaos.load import Load
    from tests.deploy.conftest import Serve
    from tests.deploy.service import Service

ENV = {"MAX_BATCH": str(BATCH), "SLEEP": "0.02"}
"""Slow enough that a worker that dies has events in flight."""


def start(serve: Serve, *options: str, **env: str) -> Service:
    service = serve("--workers", str(WORKERS), *options, env={**ENV, **env})
    service.until_ready()
    return service


def check(load: Load, broker: Broker, storm: str, deaths: int, **more: object) -> None:
    """Check that nothing was lost, and no more repeated than the broker allows after that many deaths."""
    result = load.result(f"{storm} on {broker.kind}", deaths=deaths, **more)
    assert result["lost"] == 0, result
    repeated = result["repeated"]
    assert isinstance(repeated, int)
    assert repeated <= broker.repeats_allowed(deaths), result


def test_a_random_worker_is_killed_every_two_seconds(serve: Serve, broker: Broker, load: Load) -> None:
    service, deaths = start(serve), 0
    end = time.monotonic() + SECONDS
    with load.running():
        while time.monotonic() < end:
            time.sleep(2)
            if workers := service.workers:
                os.kill(random.choice(workers), signal.SIGKILL)
                deaths += 1
    check(load, broker, "SIGKILL of a worker every 2 s", deaths)
    assert service.stop() == 0


def test_stopped_and_started_again_under_load(serve: Serve, broker: Broker, load: Load) -> None:
    stops, slowest = 0, 0.0
    end = time.monotonic() + SECONDS
    with load.running():
        while time.monotonic() < end or not stops:
            service = start(serve)
            time.sleep(1)
            begun = time.monotonic()
            assert service.stop() == 0, service.text
            slowest = max(slowest, time.monotonic() - begun)
            stops += 1
    start(serve)
    check(load, broker, "SIGTERM under load", 0, stops=stops, slowest_stop_s=round(slowest, 2))
    assert slowest < 30


def test_a_handler_hangs_when_the_service_is_stopped(serve: Serve, broker: Broker, load: Load) -> None:
    service = start(serve, EVENTML_DRAIN="1")
    with load.running():
        time.sleep(1)
        load.publish(1, do="hang")
        time.sleep(1)
        begun = time.monotonic()
        assert service.stop() == 1
        assert time.monotonic() - begun < 1 + 5 + 5
        start(serve, FORGIVING="1")
        time.sleep(1)
    check(load, broker, "a hung handler at SIGTERM", 1)


def test_a_killed_supervisor(serve: Serve, broker: Broker, load: Load) -> None:
    service = start(serve)
    with load.running():
        time.sleep(1)
        workers = service.workers
        service.send(signal.SIGKILL)
        service.wait()
        deadline = time.monotonic() + 2
        while any(map(alive, workers)):
            assert time.monotonic() < deadline, "a worker outlived its supervisor"
            time.sleep(0.02)
        start(serve)
        time.sleep(1)
    check(load, broker, "SIGKILL of the supervisor", WORKERS)


def test_a_worker_is_stopped_past_its_lease(serve: Serve, broker: Broker, load: Load) -> None:
    """It resumes with events in flight that other workers have answered meanwhile."""
    service = start(serve, "--silent-after", "60")
    with load.running():
        time.sleep(1)
        victim = service.workers[0]
        os.kill(victim, signal.SIGSTOP)
        time.sleep(8)  # the lease is 2 s on Redis, the session on Kafka too
        os.kill(victim, signal.SIGCONT)
        time.sleep(1)
    check(load, broker, "SIGSTOP past the lease", 1)
    assert service.stop() == 0


def test_the_broker_is_restarted(serve: Serve, own_broker: Broker, load: Load) -> None:
    service = start(serve)
    with load.running():
        time.sleep(1)
        own_broker.server.kill()
        time.sleep(1)
        own_broker.server.start()
        time.sleep(SECONDS / 2)
        own_broker.server.stop()
        own_broker.server.start()
        time.sleep(2)
    check(load, own_broker, "the broker killed and restarted", WORKERS)
    assert service.stop() == 0


def test_all_at_once(serve: Serve, own_broker: Broker, load: Load) -> None:
    service, deaths = start(serve), WORKERS
    end = time.monotonic() + SECONDS
    with load.running():
        own_broker.server.kill()
        time.sleep(0.5)
        own_broker.server.start()
        while time.monotonic() < end:
            if workers := service.workers:
                os.kill(
                    random.choice(workers), random.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
                )
                deaths += 1
            time.sleep(1)
            for worker in service.workers:
                os.kill(worker, signal.SIGCONT)
        service.send(signal.SIGKILL)
        service.wait()
        service = start(serve)
    check(load, own_broker, "all at once", deaths + WORKERS)
    assert service.stop() == 0


def test_the_model_is_replaced(serve: Serve, broker: Broker, load: Load, tmp_path: Path) -> None:
    model = tmp_path / "model.skops"
    train(model, 1.0)
    service = start(serve, MODEL=str(model))
    with load.running():
        time.sleep(1)
        train(model, 2.0)
        service.send(signal.SIGHUP)
        service.until_logged("all workers have been replaced")
        time.sleep(1)
    check(load, broker, "a rolling restart with a new model", 0)
    made: dict[str, set[float]] = {}
    for answers in load.answers.values():
        for answer in answers:
            value = round(msgspec.json.decode(answer.value)["value"], 6)
            made.setdefault(answer.headers[records.MODEL_VERSION], set()).add(value)
    assert sorted(made.values(), key=min) == [{1.0}, {2.0}]  # each answer names the version that made it
    assert service.stop() == 0
