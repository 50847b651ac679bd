"""The bus of a command: errors in `MODULE:BUS`, and apps that fail while they are imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Hubs, Invoke

APP = """
import eventml

bus = eventml.Bus("app")

@bus.consumer("numbers")
def count(number: int) -> None: ...
"""


@pytest.mark.parametrize("command", [("run",), ("serve",), ("check",), ("lag",), ("topics", "create")])
def test_target_without_a_bus_is_a_usage_error(
    invoke: Invoke, folder: Path, command: tuple[str, ...]
) -> None:
    (folder / "app.py").write_text(APP)
    result = invoke(*command, "app:buss")
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line == "error: app:buss: the module has no Bus named 'buss'; did you mean app:bus?"


@pytest.mark.parametrize(
    ("code", "location", "error"),
    [
        ("import nosuch", "line 1", "ModuleNotFoundError: No module named 'nosuch'"),
        ("x = 1\n1 / 0", "line 2", "ZeroDivisionError"),
        ("x = 1\ndef f(:", "line 2", "SyntaxError"),
        (
            "import eventml\nbus = eventml.Bus('a')\n@bus.consumer('t')\ndef f(): ...",
            "line 3",
            "RegistrationError",
        ),
    ],
)
def test_module_that_fails_shows_its_traceback_without_frames_of_eventml(
    invoke: Invoke, folder: Path, code: str, location: str, error: str
) -> None:
    (folder / "app.py").write_text(code)
    result = invoke("check", "app:bus")
    assert result.exit_code == 1
    assert str(folder / "app.py") in result.stderr
    assert location in result.stderr
    assert error in result.stderr
    assert "eventml/cli" not in result.stderr
    assert "importing.py" not in result.stderr
    assert "importlib" not in result.stderr
    assert result.stderr.splitlines()[-1] == "error: importing the module 'app' failed"


FACTORY = """
import eventml

def make_bus():
    bus = eventml.Bus("made")
    bus.consumer("numbers", name="count")(print)
    return bus

def fails():
    return 1 / 0
"""


def test_every_command_takes_a_bus_that_a_function_makes(invoke: Invoke, folder: Path) -> None:
    (folder / "app.py").write_text(FACTORY)
    for command in (
        ("check",),
        ("lag",),
        ("dlq", "list"),
        ("topics", "create"),
        ("run", "--until-idle", "0"),
    ):
        result = invoke(*command, "app:make_bus()", "--backend", "onehub://")
        assert result.exit_code == 0, result.output


def test_a_function_that_fails_shows_its_traceback(invoke: Invoke, folder: Path) -> None:
    (folder / "app.py").write_text(FACTORY)
    result = invoke("check", "app:fails()")
    assert result.exit_code == 1
    assert "return 1 / 0" in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last == "error: importing the module 'app', or calling 'fails()', failed"


SETTINGS = """
backend = "onehub://"
[profile.prod]
backend = "onehub://prod"
"""


def test_a_file_and_a_profile_are_chosen_on_the_command_line(
    invoke: Invoke, folder: Path, hubs: Hubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "app.py").write_text(FACTORY)
    (folder / "shop.toml").write_text(SETTINGS)
    monkeypatch.setenv("EVENTML_CONFIG", "nosuch.toml")
    monkeypatch.setenv("EVENTML_PROFILE", "nosuch")
    chosen = ("--config", "shop.toml", "--profile", "prod")
    for command in (("lag", "app:make_bus()"), ("dlq", "list", "app:make_bus()"), ("publish", "t")):
        result = invoke(*command, *chosen, stdin="a\n1\n")
        assert result.exit_code == 0, result.output
    assert set(hubs) == {"onehub://prod"}
    result = invoke("lag", "app:make_bus()", "--config", "shop.toml", "--profile", "dev")
    assert result.exit_code == 1
    assert result.stderr == "error: EVENTML_PROFILE: no profile 'dev' in shop.toml, which has: prod\n"


def test_a_file_that_does_not_exist_is_refused(invoke: Invoke) -> None:
    result = invoke("tail", "t", "--config", "nosuch.toml")
    assert result.exit_code == 2
    assert "nosuch.toml" in result.stderr
