"""`eventml topics create`: create the topics of an app on a backend that needs them created."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Hubs, Invoke
    from tests.cli.one_hub import Creating

APP = """
import eventml

bus = eventml.Bus("app")
bus.topic("announced")

@bus.predictor("numbers", to="doubles")
def double(number: int) -> int: ...

@bus.consumer("doubles", group="watch")
def show(double: int) -> None: ...
"""
TOPICS = ["announced", "doubles", "doubles.watch.dlq", "numbers", "numbers.app.double.dlq"]
CREATING = ("--backend", "onehub://?creates=true")


@pytest.fixture(autouse=True)
def app(folder: Path) -> Path:
    (folder / "app.py").write_text(APP)
    return folder


def test_topics_of_the_app_are_created_once(invoke: Invoke) -> None:
    found = json.loads(invoke("topics", "create", "app:bus", "--json", *CREATING).stdout)
    assert found == {"backend": "onehub://", "created": TOPICS, "existed": []}
    again = invoke("topics", "create", "app:bus", *CREATING)
    assert again.exit_code == 0
    assert [line.split(maxsplit=1) for line in again.stdout.splitlines()[1:]] == [
        [topic, "existed"] for topic in TOPICS
    ]


def test_topic_settings_are_applied(invoke: Invoke, app: Path, hubs: Hubs) -> None:
    (app / "eventml.toml").write_text("[topic.doubles]\npartitions = 3\nretention = 60.0\n[topic.extra]\n")
    assert invoke("topics", "create", "app:bus", "--replication", "2", *CREATING).exit_code == 0
    created = cast("Creating", hubs["onehub://"]).created
    settings = {
        name: (topic.partitions, topic.replication, topic.retention) for name, topic in created.items()
    }
    assert settings == dict.fromkeys(TOPICS, (None, 2, None)) | {"doubles": (3, 2, 60.0)}


def test_command_line_overrides_the_configuration(invoke: Invoke, app: Path, hubs: Hubs) -> None:
    (app / "eventml.toml").write_text("[topic.doubles]\npartitions = 3\n")
    assert invoke("topics", "create", "app:bus", "--partitions", "8", *CREATING).exit_code == 0
    assert {topic.partitions for topic in cast("Creating", hubs["onehub://"]).created.values()} == {8}


@pytest.mark.parametrize("backend", ["memory://", "onehub://"])
def test_backend_that_creates_topics_itself(invoke: Invoke, backend: str) -> None:
    result = invoke("topics", "create", "app:bus", "--backend", backend)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{backend} needs no topics created")
