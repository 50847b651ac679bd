"""`eventml canary` on what workers have reported."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Hubs, Invoke

APP = """
import eventml

bus = eventml.Bus("app", backend="onehub://")


@bus.predictor("numbers", to="sums", model=eventml.Model(1, "adding", "one"))
def add(numbers: list[dict], model) -> list[dict]:
    return numbers


bus.canary("add", model=eventml.Model(2, "adding", "new"), share=0.25)
"""


@pytest.fixture
def app(folder: Path, hubs: Hubs) -> str:
    del hubs
    (folder / "app.py").write_text(APP)
    return "app:add"


def test_the_newest_canary_is_that_of_the_worker_that_started_last(invoke: Invoke, app: str) -> None:
    """The last report is that of an older version, by a worker that a rolling restart has stopped since."""
    reports = [
        {"version": "old", "worker": "a"},
        {"version": "new", "worker": "b"},
        {"version": "old", "worker": "a", "sums": {"seconds": [3, -3.0, 3.0]}},
    ]
    lines = "\n".join(map(json.dumps, reports))
    topic = "numbers.app.add.canary"
    assert invoke("publish", topic, "--format", "jsonl", "--backend", "onehub://", stdin=lines).exit_code == 0
    for options, share in (((), 0.25), (("--share", "0.5"), 0.5), ((), 0.5)):
        result = invoke("canary", app, *options)
        assert result.exit_code == 0, result.output
        shown = json.loads(result.stdout)
        assert (shown["version"], shown["share"]) == ("new", share)


def test_a_canary_that_no_worker_knows_has_no_share(invoke: Invoke, app: str) -> None:
    result = invoke("canary", app, "--share", "1")
    assert result.exit_code == 2
    assert "no worker has started with the canary of add; start one first" in result.stderr
