"""Workers replaced one at a time: by SIGHUP, and when their model changes."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LinearRegression

from eventml import records

if TYPE_CHECKING:
    from pathlib import Path

    from tests.deploy.conftest import Serve
    from tests.deploy.events import Oracle
    from tests.deploy.service import Service


def train(path: Path, slope: float) -> None:
    """Write a model, as whoever deploys one should: in one step."""
    x = np.arange(10.0).reshape(-1, 1)
    new = path.with_suffix(".new")
    skops.io.dump(LinearRegression().fit(x, slope * x[:, 0]), new)
    new.replace(path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.skops"
    train(path, 1.0)
    return path


def versions(oracle: Oracle) -> set[str]:
    return {r.headers[records.MODEL_VERSION] for answers in oracle.answers.values() for r in answers}


def publish_until(service: Service, oracle: Oracle, pattern: str) -> None:
    """Keep the service busy until its log says so."""

    def publish_more() -> bool:
        oracle.publish(20)
        return pattern in service.text

    service.until(publish_more)


def test_sighup_replaces_every_worker_without_a_gap(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "2")
    service.until_ready()
    before = service.workers
    service.send(signal.SIGHUP)
    publish_until(service, oracle, "all workers have been replaced")
    after = service.workers
    assert not set(before) & set(after)
    assert len(after) == 2
    oracle.collect()
    oracle.check()
    assert service.metric("eventml_rolls_total") == 1
    # Those of the old ones count too.
    service.until(lambda: service.metric("eventml_events_completed_total") == oracle.published)
    assert service.stop() == 0


def test_the_new_one_is_ready_before_the_old_one_stops(serve: Serve) -> None:
    service = serve("--workers", "1", env={"BOOT": "1"})
    service.until_ready()
    service.send(signal.SIGHUP)
    while "all workers have been replaced" not in service.text:
        assert service.metric("eventml_worker_state", state="ready") >= 1
        assert service.get("/readyz")[0] == 200


def test_a_changed_model_is_taken_up(serve: Serve, oracle: Oracle, model: Path) -> None:
    service = serve("--workers", "2", env={"MODEL": str(model)})
    service.until_ready()
    oracle.publish(20)
    oracle.collect()
    [old] = versions(oracle)
    train(model, 2.0)
    publish_until(service, oracle, "all workers have been replaced")
    first_after = oracle.published
    oracle.publish(100)
    oracle.collect()
    oracle.check()
    [new] = versions(oracle) - {old}
    assert {oracle.answers[str(n)][0].headers[records.MODEL_VERSION] for n in range(20)} == {old}
    late = range(first_after, oracle.published)
    assert {oracle.answers[str(n)][0].headers[records.MODEL_VERSION] for n in late} == {new}
    assert service.metric("eventml_model_info", version=new) == 2
    assert service.metric("eventml_model_info", version=old) == 0


def test_a_broken_model_leaves_the_old_one_at_work(serve: Serve, oracle: Oracle, model: Path) -> None:
    service = serve("--workers", "2", env={"MODEL": str(model)})
    service.until_ready()
    workers = service.workers
    model.write_bytes(b"no model at all")
    service.until_logged("its successor did not start: ModelError")
    service.until_logged("the other workers go on as they are")
    assert set(service.workers) == set(workers)
    oracle.publish(50)
    oracle.collect()
    oracle.check()
    train(model, 3.0)
    service.until_logged("all workers have been replaced")


def test_a_worker_killed_while_it_is_replaced(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "1", env={"BOOT": "2"})
    service.until_ready()
    [old] = service.workers
    service.send(signal.SIGHUP)
    service.until(lambda: len(service.workers) == 2)
    os.kill(old, signal.SIGKILL)
    service.until_logged("its successor is on its way")
    oracle.publish(50)
    oracle.collect()
    oracle.check()
    assert len(service.workers) == 1
    assert service.stop() == 0


def test_the_service_is_stopped_while_a_worker_is_replaced(serve: Serve, oracle: Oracle) -> None:
    service = serve("--workers", "2", env={"MAX_BATCH": "16", "SLEEP": "0.3"})
    service.until_ready()
    oracle.publish(64)
    service.send(signal.SIGHUP)
    service.until_logged("takes over from")
    assert service.stop() == 0, service.text  # the old one was draining: to be told twice is to give up
    serve("--workers", "1").until_ready()
    oracle.collect()
    oracle.check()
