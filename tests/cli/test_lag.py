"""`eventml lag`: events that each consumer group has not completed."""

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

@bus.predictor("numbers", to="doubles")
def double(number: int) -> int:
    return 2 * number

@bus.consumer("doubles")
def show(double: int) -> None: ...
"""


@pytest.fixture(autouse=True)
def app(folder: Path) -> Path:
    (folder / "app.py").write_text(APP)
    return folder / "app.py"


def fill(invoke: Invoke) -> None:
    """Let one group complete 3 of 5 events; the other group does not exist."""
    for numbers in ("1\n2\n3\n", "4\n5\n"):
        assert (
            invoke(
                "publish", "numbers", "--format", "jsonl", "--backend", "onehub://", stdin=numbers
            ).exit_code
            == 0
        )
        if "3" in numbers:
            result = invoke("run", "app:bus", "--only", "double", "--until-idle", "0")
            assert result.exit_code == 0


def test_lag_as_json(invoke: Invoke, hubs: Hubs) -> None:
    fill(invoke)
    joined = len(hubs["onehub://"].groups)
    result = invoke("lag", "app:bus", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["bus"], found["backend"]) == ("app", "onehub://")
    double, show = found["groups"]
    assert (double["handler"], double["group"], double["topic"]) == ("double", "app.double", "numbers")
    assert double["lag"] == sum(double["partitions"].values()) == 2
    assert show == {
        "handler": "show",
        "group": "app.show",
        "topic": "doubles",
        "lag": None,
        "partitions": None,
    }
    assert len(hubs["onehub://"].groups) == joined


def test_lag_as_a_table(invoke: Invoke) -> None:
    fill(invoke)
    lines = [line.split() for line in invoke("lag", "app:bus").stdout.splitlines()]
    assert lines[0] == ["handler", "group", "topic", "partition", "lag"]
    assert sum(int(line[4]) for line in lines if line[0] == "double" and line[3] != "all") == 2
    assert ["double", "app.double", "numbers", "all", "2"] in lines
    assert lines[-1] == ["show", "app.show", "doubles", "all", "unknown"]


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_it_says_why_a_lag_is_unknown(invoke: Invoke, form: tuple[str, ...]) -> None:
    fill(invoke)
    said = invoke("lag", "app:bus", *form).stderr
    assert said.startswith(
        "note: the lag of show is unknown: a group does not exist before its handler first runs"
    )
    assert said.count("\n") == 1


def test_a_topic_of_one_partition_has_one_row(
    invoke: Invoke, hubs: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(invoke)

    async def lag(topic: str, *, group: str) -> dict[int, int]:
        return {0: 7}

    monkeypatch.setattr(hubs["onehub://"], "lag", lag)
    _, *lines = [line.split() for line in invoke("lag", "app:bus").stdout.splitlines()]
    assert lines == [
        ["double", "app.double", "numbers", "all", "7"],
        ["show", "app.show", "doubles", "all", "7"],
    ]


def test_bus_in_memory_is_a_usage_error(invoke: Invoke) -> None:
    result = invoke("lag", "app:bus", "--backend", "memory://")
    assert result.exit_code == 2
    assert "the backend memory:// lives in one process" in result.stderr
