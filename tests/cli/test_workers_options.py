"""Options of `run` and `serve` that limit the health of their workers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

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


@pytest.mark.parametrize("command", ["run", "serve"])
@pytest.mark.parametrize("options", [{}, OPTIONS])
def test_each_option_sets_the_limit_of_its_name(
    command: str, options: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "limited.py").write_text(APP)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    plans: list[Any] = []
    monkeypatch.setattr("anyio.run", lambda _run, _bus, plan, _pages: plans.append(plan))
    args = [str(part) for option in options.items() for part in option]
    result = CliRunner().invoke(app, [command, "limited:bus", "--workers", "2", *args])
    sys.modules.pop("limited", None)
    assert result.exit_code == 0, result.output
    [plan] = plans
    expected = {name.removeprefix("--").replace("-", "_"): seconds for name, seconds in options.items()}
    assert plan.limits == HealthLimits(**expected)
