"""`eventml top`: what it makes of metrics, and what it shows of a service."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.cli.top import duration, seconds, short
from eventml.cli.watching import handler_lines, quantile, read_look, worker_lines
from eventml.deploy.workers.liveness import Progress
from eventml.deploy.workers.metrics import render
from eventml.deploy.workers.reports import Counts, HandlerReport, ModelInUse, Tally
from eventml.deploy.workers.status import Status, WorkerStatus
from eventml.runtime.stats import SECONDS_BUCKETS, SIZE_BUCKETS, Histogram
from tests.deploy.service import APPS

if TYPE_CHECKING:
    from tests.deploy.conftest import Serve
    from tests.deploy.events import Oracle


def status(completed: int, waits: list[float]) -> Status:
    """A worker that has finished so many events, which waited so long."""
    latency, batch = Histogram(SECONDS_BUCKETS), Histogram(SIZE_BUCKETS)
    for wait in waits:
        latency.add(wait)
    batch.add(completed)
    handler = HandlerReport(
        group="rides.tip",
        topic="rides",
        to="tips",
        tally=Tally(
            received=completed,
            completed=completed,
            published=completed,
            latency=Counts(latency.counts, latency.sum),
            batch=Counts(batch.counts, batch.sum),
        ),
        progress=Progress(handler="tip", in_flight=7, quiet=0, oldest=0.5),
        lag=12,
        model=ModelInUse("tip", "abc"),
    )
    worker = WorkerStatus(name="worker-1", pid=1, state="ready", restarts=2, handlers={"tip": handler})
    return Status(bus="rides", workers=[worker])


def test_two_looks_make_rates() -> None:
    before = read_look(render(status(100, [0.02] * 100))[0].decode(), at=10.0)
    now = read_look(render(status(500, [0.02] * 100 + [0.2] * 400))[0].decode(), at=12.0)
    [line] = handler_lines(before, now)
    assert (line.name, line.lag, line.in_flight, line.received) == ("tip", 12, 7, 200)
    assert line.p50 is not None
    assert 0.1 < line.p50 < 0.25  # of the time between the looks: the hundred quick ones were before
    [worker] = worker_lines(now)
    assert (worker.name, worker.state, worker.restarts, worker.models) == (
        "worker-1",
        "ready",
        2,
        ["tip abc"],
    )


def test_a_service_started_anew_has_no_negative_rates() -> None:
    before = read_look(render(status(500, [0.02] * 500))[0].decode(), at=10.0)
    now = read_look(render(status(30, [0.02] * 30))[0].decode(), at=11.0)
    [line] = handler_lines(before, now)
    assert line.received == 30
    assert line.p99 is not None


@given(st.lists(st.floats(0, 400), min_size=1), st.floats(0, 1))
def test_a_quantile_lies_in_the_bucket_of_its_value(values: list[float], share: float) -> None:
    bounds = [*SECONDS_BUCKETS, math.inf]
    buckets = [(bound, float(sum(value <= bound for value in values))) for bound in bounds]
    found = quantile(buckets, share)
    assert found is not None
    exact = sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]
    above = next(bound for bound in bounds if exact <= bound)
    below = max([0.0, *(bound for bound in SECONDS_BUCKETS if bound < exact)])
    assert found <= above
    if share * len(values) >= 1:
        assert found >= below - 1e-9


def test_no_values_have_no_quantile() -> None:
    assert quantile([], 0.5) is None
    assert quantile([(1.0, 0.0), (math.inf, 0.0)], 0.5) is None


@given(st.floats(0, 1e12))
def test_numbers_stay_short(value: float) -> None:
    assert len(short(value)) <= 7
    assert len(seconds(value if value < 1e6 else None)) <= 7


@pytest.mark.parametrize(("value", "said"), [(5, "5s"), (65, "1m05s"), (3_700, "1h01m"), (90_000, "1d01h")])
def test_durations(value: float, said: str) -> None:
    assert duration(value) == said


def top(*options: str, name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "eventml", "top", "plain:bus", "--once", *options],
        cwd=APPS,
        env={**os.environ, "APP": name},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_shows_a_service_in_80_columns(serve: Serve, oracle: Oracle, name: str) -> None:
    service = serve("--workers", "2")
    service.until_ready()
    oracle.publish(100)
    service.until(lambda: service.metric("eventml_events_completed_total") == 100)
    found = re.search(r"http://([0-9.:]+)/readyz", service.text)
    assert found is not None
    shown = top("--at", found[1], "--every", "0.3", name=name)
    assert shown.returncode == 0, shown.stderr
    assert "2 of 2 workers ready" in shown.stdout
    assert re.search(r"^ answer +0 +0 ", shown.stdout, re.MULTILINE)
    assert max(map(len, shown.stdout.splitlines())) <= 80
    other = top("--at", found[1], name="other")
    assert other.returncode == 2
    assert f"is the bus '{name}', not 'other'" in other.stderr


def test_nobody_there_is_said(name: str) -> None:
    shown = top("--at", "127.0.0.1:1", name=name)
    assert shown.returncode == 1
    assert "no service answers at 127.0.0.1:1" in shown.stderr
    assert "Traceback" not in shown.stderr
