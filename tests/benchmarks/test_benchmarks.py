"""Every benchmark runs to its end with little work, so that none can rot. No figure is asserted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]

# With `--rounds 0` the first round is the only one; it warms up otherwise.
SMALL: Final = {
    "memory": "--events 2000 --rounds 0",
    "redis": "--events 2000 --rounds 0 --seconds 0.2 --models no-op",
    "kafka": "--events 2000 --rounds 0 --only no-op --quick",
    "web": "--seconds 0.2 --rounds 0 --clients 1 --models linear",
    "batch": "--rows 2000 --forest-rows 500 --rounds 0 --only sqlite --models linear",
    "engines": "--rows 2000 --kills 1 --engines none,dask",
    "frames": "--events 500 --rounds 0",
    "handlers": "--events 1000 --calls 200 --rounds 0",
    "failures": "--events 500 --rounds 2 --processes 1 --models no-op",
    "models": "--events 1000 --rounds 0 --models linear",
    "swaps": "--swaps 1 --seconds 2 --quick",
    "forecast": "--events 2000 --rounds 1 --models linear",
    "replay": "--rows 2000 --rounds 0 --models linear",
    "console": "--pages 5 --rate 2000 --seconds 1 --rounds 0 --paints 1",
    "scaling": "--events 6000 --rounds 0 --workers 1",
    "simulation": "--events 20000 --rounds 0",
}
HELPERS: Final = {"batch_app", "web_litserve", "web_load"}
"""Modules that a benchmark starts in a process of their own."""

BROKERS: Final = {
    "redis": "redis_server",
    "replay": "redis_server",
    "scaling": "redis_server",
    "simulation": "redis_server kafka_broker",
    "console": "redis_server",
    "models": "redis_server",
    "forecast": "redis_server",
    "swaps": "kafka_broker",
    "handlers": "redis_server",
    "kafka": "kafka_broker",
}


def is_benchmark(module: Path) -> bool:
    """Whether the module can be run by itself; the others hold what benchmarks share."""
    return '__name__ == "__main__"' in module.read_text(encoding="utf-8")


def test_every_benchmark_has_a_smoke_run() -> None:
    found = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if is_benchmark(path)}
    assert found - HELPERS == set(SMALL)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs(name: str, request: pytest.FixtureRequest) -> None:
    for broker in BROKERS.get(name, "").split():
        request.getfixturevalue(broker)  # skips, or fails, where the broker cannot run
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", f"benchmarks.{name}", *SMALL[name].split()],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "120", "BENCHMARK_TREES": "5"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "│" in done.stdout, f"it printed no table: {done.stdout[-2000:]}"
