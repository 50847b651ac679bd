"""The broker is killed and comes back: a service logs a line when that begins, and a line when it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

APP = """
import eventml
bus = eventml.Bus("trio")
@bus.predictor("n", to="a")
def one(n: int) -> int: return n
@bus.predictor("n", to="b")
def two(n: int) -> int: return n
@bus.consumer("a")
def three(n: int) -> None: ...
"""


@pytest.fixture(params=["redis", pytest.param("kafka", marks=pytest.mark.slow)])
def broker(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(f"start_{request.param}")()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 80
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("workers", [(), ("--workers", "2", "--operations", "off")], ids=["one", "workers"])
def test_an_outage_is_two_lines_of_the_log(broker: Any, workers: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    log = tmp_path / "log.txt"
    env = {**os.environ, "EVENTML_BACKEND": broker.url}
    command = [sys.executable, "-m", "eventml"]
    subprocess.run([*command, "topics", "create", "app:bus"], env=env, cwd=tmp_path, check=True)  # noqa: S603 - ours
    ready, count = ("INFO ready:", 2) if workers else ("INFO running", 1)
    with (
        log.open("wb") as written,
        subprocess.Popen(  # noqa: S603 - ours
            [*command, "run", "app:bus", *workers], env=env, cwd=tmp_path, stderr=written
        ) as service,
    ):
        try:
            until(lambda: log.read_text().count(ready) == count)
            before = len(log.read_text().splitlines())
            broker.kill()
            until(lambda: "reaching the broker fails" in log.read_text())
            broker.start()
            until(lambda: "reaching the broker succeeds" in log.read_text())
            lines = log.read_text().splitlines()[before:]
        finally:
            service.kill()
    begun, ended = lines
    assert " WARNING reaching the broker fails and is repeated until it succeeds: " in begun
    assert " INFO reaching the broker succeeds again, after " in ended
