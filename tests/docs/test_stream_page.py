"""The settings and the check on the page of streams, and the metrics that it names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from eventml.deploy.workers import ServiceStatus
from eventml.deploy.workers.metrics import render_metrics

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "deployment" / "stream.md").read_text("utf-8")
APP = """
from eventml import Bus

bus = Bus("rides")

@bus.predictor("rides.started", to="rides.duration")
def duration(ride: dict) -> float:
    return 5 * ride["miles"]
"""


def test_the_check_of_the_page_passes_with_its_settings(tmp_path: Path) -> None:
    [settings] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "eventml.toml").write_text(settings)
    (tmp_path / "rides.py").write_text(APP)
    [line] = re.findall(r"^eventml (check .*)$", PAGE, re.MULTILINE)
    done = subprocess.run(  # noqa: S603 - our own page
        [sys.executable, "-m", "eventml", *line.split()],
        cwd=tmp_path,
        env={**os.environ, "REDIS_PASSWORD": "a-secret"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "redis://:***@redis:6379/0" in done.stdout
    assert "a-secret" not in done.stdout + done.stderr


def test_the_metrics_of_the_page_are_those_of_operations() -> None:
    metrics = set(re.findall(r"`(eventml_\w+)`", PAGE))
    assert metrics
    assert metrics <= metrics_of_operations()


def test_operations_has_every_metric_of_the_port() -> None:
    printed = render_metrics(ServiceStatus(bus="rides", workers=[]))
    assert set(re.findall(r"^# HELP (\w+)", printed, re.MULTILINE)) == metrics_of_operations()


def metrics_of_operations() -> set[str]:
    """The metrics in the table of the page about operations."""
    page = (DOCS / "operations.md").read_text("utf-8")
    cells = re.findall(r"^\| (`eventml_[^|]*)", page, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", " ".join(cells)))
