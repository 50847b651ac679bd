"""`eventml topics create`: an app's topics, where somebody has to create them."""

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


def test_all_that_the_app_has_to_do_with_is_created_once(invoke: Invoke) -> None:
    found = json.loads(invoke("topics", "create", "app:bus", "--json", *CREATING).stdout)
    assert found == {"backend": "onehub://", "created": TOPICS, "existed": []}
    again = invoke("topics", "create", "app:bus", *CREATING)
    assert again.exit_code == 0
    assert [line.split(maxsplit=1) for line in again.stdout.splitlines()[1:]] == [
        [topic, "was there"] for topic in TOPICS
    ]


def test_what_is_said_of_a_topic_goes_with_it(invoke: Invoke, app: Path, hubs: Hubs) -> None:
    (app / "eventml.toml").write_text("[topic.doubles]\npartitions = 3\nretention = 60.0\n[topic.extra]\n")
    assert invoke("topics", "create", "app:bus", "--replication", "2", *CREATING).exit_code == 0
    created = cast("Creating", hubs["onehub://"]).created
    said = {name: (topic.partitions, topic.replication, topic.retention) for name, topic in created.items()}
    assert said == dict.fromkeys(TOPICS, (None, 2, None)) | {"doubles": (3, 2, 60.0)}


def test_the_command_line_is_stronger_than_configuration(invoke: Invoke, app: Path, hubs: Hubs) -> None:
    (app / "eventml.toml").write_text("[topic.doubles]\npartitions = 3\n")
    assert invoke("topics", "create", "app:bus", "--partitions", "8", *CREATING).exit_code == 0
    assert {topic.partitions for topic in cast("Creating", hubs["onehub://"]).created.values()} == {8}


@pytest.mark.parametrize("backend", ["memory://", "onehub://"])
def test_where_none_have_to_be_created_it_says_so(invoke: Invoke, backend: str) -> None:
    result = invoke("topics", "create", "app:bus", "--backend", backend)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{backend} needs no topics created")
