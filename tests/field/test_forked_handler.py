"""A handler ended its `multiprocessing` child, and the whole worker stopped as if it had got the signal."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.field.starting import PATIENCE, start, wait_for

if TYPE_CHECKING:
    from pathlib import Path

APP = """
import multiprocessing, time
from pathlib import Path
from eventml import Bus

bus = Bus("app")

@bus.lifespan
async def first():
    await bus.publish("rides", {"id": 1})
    yield 1

@bus.consumer("rides")
def look(ride: dict, first: int) -> None:
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join(20)
    Path("ended").write_text(str(child.exitcode))
"""


@pytest.mark.filterwarnings("default:This process:DeprecationWarning")
def test_a_signal_for_a_child_of_a_handler_ends_the_child_only(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with start(tmp_path, "run", "app:bus") as process:
        wait_for(tmp_path / "ended", process)
        assert (tmp_path / "ended").read_text() == str(-signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert errors.count("stopping") == 1
    assert errors.index("stopping") > errors.index("running look")
