"""What the supervisors of `run` and `serve` are told of their patience: each option what it says."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from eventml.cli import run, serve
from eventml.cli.app import app
from eventml.deploy.workers import HealthLimits

if TYPE_CHECKING:
    from pathlib import Path

APP = """
import eventml

bus = eventml.Bus("app")

@bus.predictor("numbers", to="doubles")
def double(number: int) -> int:
    return 2 * number
"""
OPTIONS = {"--boot-grace": 1.0, "--stuck-after": 2.0, "--silent-after": 3.0, "--hung-after": 4.0}


@pytest.mark.parametrize("command", [run, serve])
@pytest.mark.parametrize("said", [{}, OPTIONS])
def test_each_limit_is_the_one_that_was_named(
    command: Any, said: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "patient.py").write_text(APP)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    plans: list[Any] = []
    monkeypatch.setattr(command, "run_workers", lambda _bus, plan, *_: plans.append(plan))
    name = command.__name__.rpartition(".")[2]
    asked = [str(part) for option in said.items() for part in option]
    result = CliRunner().invoke(app, [name, "patient:bus", "--workers", "2", *asked])
    sys.modules.pop("patient", None)
    assert result.exit_code == 0, result.output
    [plan] = plans
    known = {name.removeprefix("--").replace("-", "_"): seconds for name, seconds in said.items()}
    assert plan.limits == HealthLimits(**known)
