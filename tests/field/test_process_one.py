"""`eventml run` was process 1 of a container without an init: signals were lost, and zombies piled up."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.field.starting import PATIENCE, start, wait_for

UNSHARE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")

ORPHANING = """
import subprocess, sys, time
from pathlib import Path
from eventml import Bus

bus = Bus("app")

def states():
    texts = [path.read_text().rsplit(")", 1)[1].split() for path in Path("/proc").glob("[0-9]*/stat")]
    return [(state, parent) for state, parent, *_ in texts]

@bus.lifespan
def resource():
    subprocess.run(["sh", "-c", "sleep 60 & echo $! > orphan"], check=True)
    own = subprocess.Popen(["sleep", "0"])
    end = time.monotonic() + 20
    while ("Z", "1") not in states() and time.monotonic() < end:
        Path("orphan").exists() and subprocess.run(["kill", Path("orphan").read_text().strip()])
        if len([1 for _, parent in states() if parent == "1"]) == 1:  # the orphan is gone
            break
        time.sleep(0.02)
    Path("states").write_text(f"{('Z', '1') in states()} {own.wait()}")
    yield 1

@bus.consumer("rides")
def look(ride: dict, resource: int) -> None: ...
"""


def only_child(pid: int) -> int:
    """The only child of a process."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


@pytest.fixture(autouse=True)
def namespaces() -> None:
    try:
        subprocess.run([*UNSHARE, "true"], check=True, capture_output=True)  # noqa: S603 - a constant
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a process namespace cannot be made here")


def test_orphans_are_reaped_and_children_are_left_to_their_parents(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(ORPHANING)
    with start(tmp_path, "run", "app:bus", before=UNSHARE) as process:
        wait_for(tmp_path / "states", process)
        os.kill(only_child(process.pid), signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
    assert (tmp_path / "states").read_text() == "False 0"


def test_sigterm_while_the_app_is_imported_ends_it(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import time\nfrom pathlib import Path\nPath('importing').touch()\ntime.sleep(60)\n"
    )
    with start(tmp_path, "run", "app:bus", before=UNSHARE) as process:
        wait_for(tmp_path / "importing", process)
        os.kill(only_child(process.pid), signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 128 + signal.SIGTERM
