"""A rollout stopped a pod whose model was loading: the signal was lost, or its resources not released."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.field.starting import LOADING, PATIENCE, start, wait_for

if TYPE_CHECKING:
    from pathlib import Path

WORK = ("run", "app:bus")
SCORE = ("score", "app:duration", "--from", "in.jsonl", "--to", "out.jsonl", "--id", "id")


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (WORK, 0),
        ((*WORK, "--until-idle", "1"), 0),
        ((*WORK, "--workers", "1", "--operations", "off"), 0),
        (("serve", "app:bus", "--port", "0"), 0),
        (SCORE, 130),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else None,
)
def test_sigterm_while_a_model_loads_stops_the_command(
    tmp_path: Path, command: tuple[str, ...], status: int
) -> None:
    (tmp_path / "app.py").write_text(LOADING)
    (tmp_path / "in.jsonl").write_text('{"id":"1"}\n')
    with start(tmp_path, *command) as process:
        wait_for(tmp_path / "loading", process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)  # loading takes longer
        assert process.returncode == status, errors
        assert "Traceback" not in errors
        assert (tmp_path / "left").exists()
