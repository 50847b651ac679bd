"""Tests that would wait without an end are ended, whatever they wait for: see `tests/limits.py`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RERUN = """
import time
runs = 0

def test_hangs_when_it_is_run_again():
    global runs
    runs += 1
    assert runs > 1
    time.sleep(1000)
"""
TEARDOWN = """
import time
import pytest

@pytest.fixture
def hangs_afterwards():
    yield
    time.sleep(1000)

def test_fails(hangs_afterwards):
    assert False
"""
CAUGHT = """
import time

def test_goes_on():
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass
"""
WAITS = """
import subprocess
import sys

def test_leaves_a_process():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"]):
        raise AssertionError
"""
THREAD = """
import threading
import time

def test_leaves_a_thread():
    threading.Thread(target=time.sleep, args=(1000,)).start()
"""
LIMIT = "Timeout (>1.0s) from pytest-timeout"
STACKS = "Timeout (0:00:"


@pytest.mark.parametrize(
    ("code", "ended_by"),
    [
        pytest.param(RERUN, LIMIT, id="run again"),
        pytest.param(TEARDOWN, LIMIT, id="teardown after a failure"),
        pytest.param(WAITS, LIMIT, id="process"),
        pytest.param(CAUGHT, STACKS, id="the error is caught"),
        pytest.param(THREAD, STACKS, id="thread"),
    ],
)
def test_a_test_that_hangs_is_ended(code: str, ended_by: str, tmp_path: Path) -> None:
    done = run_tests(code, tmp_path, "--reruns", "1")
    assert done.returncode == 1
    assert ended_by in done.stdout + done.stderr


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_run_whose_process_is_ended_ends_too(processes: str, tmp_path: Path) -> None:
    """With the options of the Makefile, which name the test."""
    [line] = re.findall(r"^SHARED := (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (tmp_path / "test_other.py").write_text("def test_something_else():\n    pass\n")
    done = run_tests(CAUGHT, tmp_path, *line.replace("$(JOBS)", processes).split(), "--reruns", "1")
    assert "crashed while running 'test_hanging.py::test_goes_on'" in done.stdout
    assert done.returncode == 1


def run_tests(code: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a file of tests, with a limit of one second and one more until the process is ended."""
    (folder / "test_hanging.py").write_text(code)
    without = [f"-pno:{name}" for name in ("schemathesis", "cacheprovider", "asyncio")]
    limits = ["-p", "tests.limits", "--timeout", "1", "-o", "timeout_grace=1"]
    place = ["-c", os.devnull, f"--rootdir={folder}", str(folder)]
    return subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-W", "ignore", "-m", "pytest", *without, *limits, *options, *place],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
