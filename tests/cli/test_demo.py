"""`eventml demo`: the rides example in a temporary folder, on a Redis of its own or in memory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.brokers import program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Invoke, Start


def demo(*options: str) -> tuple[str, str]:
    """Run the command; it must succeed. Returns its standard output and its standard error."""
    command = [sys.executable, "-m", "eventml", "demo", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)  # noqa: S603 - ours
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.redis
def test_a_worker_is_killed_and_no_ride_is_lost(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    program("redis-server", package="redis-server")
    monkeypatch.setenv("EVENTML_CONSUMER_ELSEWHERE_MAX_BATCH", "1")  # a setting of an app of the user's
    counted, shown = demo("--rides", "2000", "--rate", "500")
    assert counted == "2,000 rides, 0 lost, 10 dead letters\n"
    assert "killed worker-1 without notice" in shown
    assert "worker-1 ended: killed by SIGKILL" in shown
    assert "from now on one ride in 200 has no distance" in shown
    assert list(folder.iterdir()) == []


@pytest.mark.redis
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_redis_and_no_folder(
    number: signal.Signals, start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("redis-server", package="redis-server")
    monkeypatch.setenv("TMPDIR", str(folder))
    process = start("demo", "--rate", "100")
    assert process.stderr is not None
    assert "training" in process.stderr.readline()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(next(folder.glob("eventml-*/redis.sock"))))
        process.send_signal(number)
        assert client.recv(1) == b"", "the server has ended"
    assert process.wait(30) == 128 + number
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_a_redis_that_does_not_start_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "redis-server"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    counted, shown = demo("--rides", "100", "--rate", "1000")
    assert counted.startswith("100 rides, 0 lost")
    assert "running in memory instead" in shown


@pytest.mark.slow
def test_in_memory_it_says_that_no_worker_can_be_killed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(folder))  # without a redis-server
    counted, shown = demo("--rides", "1000", "--rate", "1000")
    assert counted == "1,000 rides, 0 lost, 6 dead letters\n"
    assert "no worker can be killed" in shown


@pytest.mark.parametrize(("module", "extra"), [("skops", "sklearn")])
def test_a_missing_extra_is_named(
    module: str, extra: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventml.cli.demo.find_spec", lambda name: None if name == module else object())
    refused = invoke("demo")
    assert refused.exit_code == 1
    assert f"`eventml demo` needs the extra {extra!r}" in refused.stderr
