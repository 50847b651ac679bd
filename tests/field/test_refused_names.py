"""A group or topic has a name that the broker refuses, which shows only at the first dead letter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from eventml import Bus
from eventml.backends.kafka import refused_topics
from eventml.backends.memory.hub import Hub
from eventml.cli.app import app
from eventml.errors import UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

APP = """
import eventml
bus = eventml.Bus("refused")
bus.consumer("rides", group="team:v2", name="audit")(lambda ride: None)
bus.predictor("rides", to="ride/minutes", name="minutes")(lambda ride: 1.0)
"""


@pytest.mark.parametrize(("url", "refused"), [("kafka://127.0.0.1:1", True), ("memory://", False)])
def test_check_names_the_setting_without_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, refused: bool
) -> None:
    (tmp_path / f"refused_{refused}.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["check", f"refused_{refused}:bus", "--backend", url])
    assert result.exit_code == refused, result.output
    for problem in ("audit: its topic 'rides.team:v2.dlq' is", "minutes: its topic 'ride/minutes' is"):
        assert (problem in result.output) is refused


class KafkasNames(Hub):
    refused_topics = staticmethod(refused_topics)


@pytest.mark.anyio
async def test_a_worker_does_not_start() -> None:
    bus = Bus("refused")
    bus.consumer("rides", group="team:v2", name="audit")(print)
    async with bus.open(KafkasNames()):
        with pytest.raises(UnsupportedError, match=r"rides\.team:v2\.dlq.* 249 characters"):
            async with bus.worker():
                pass


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        (["rides.started", "a-b_c.D9", "x" * 249], []),
        (["x" * 250], ["x" * 250]),
        (["", ".", "..", "ü", "a b", "a\n"], ["", ".", "..", "a\n", "a b", "ü"]),
        (["a.b", "a_b", "a-b"], ["a_b"]),
    ],
)
def test_names_that_kafka_refuses(names: list[str], refused: list[str]) -> None:
    assert sorted(refused_topics(names)) == refused
