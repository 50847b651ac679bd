"""Finding the bus at `MODULE:BUS`, and saying what is there instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Invoke

APP = """
import eventml

bus = eventml.Bus("app")
other = 7

@bus.consumer("numbers")
def count(number: int) -> None: ...
"""


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("nosuch:bus", "no module is named 'nosuch'"),
        ("app.deeper:bus", "no module is named 'app.deeper'"),
        ("package.nosuch:bus", "no module is named 'package.nosuch'"),
        ("app:nosuch", "app:nosuch: it has no such attribute; did you mean app:bus?"),
        ("app:buss", "did you mean app:bus?"),
        ("app:other", "app:other: that is a int, not a Bus"),
        ("package.app:bus", "package.app:bus: it has no such attribute"),
        ("app", "'app': expected MODULE:BUS"),
        (":bus", "':bus': expected MODULE:BUS"),
        ("package/app.py:bus", "expected a module's name, not a file: package.app:bus"),
        ("./app.py:bus", "expected a module's name, not a file: app:bus"),
    ],
)
@pytest.mark.parametrize("command", [("run",), ("check",), ("lag",), ("topics", "create")])
def test_no_bus_is_there(
    invoke: Invoke, folder: Path, command: tuple[str, ...], place: str, reason: str
) -> None:
    (folder / "app.py").write_text(APP)
    (folder / "package").mkdir()
    (folder / "package" / "app.py").write_text("")
    result = invoke(*command, place)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("code", "where", "error"),
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
def test_a_module_that_fails_shows_its_own_traceback_and_none_of_ours(
    invoke: Invoke, folder: Path, code: str, where: str, error: str
) -> None:
    (folder / "app.py").write_text(code)
    result = invoke("check", "app:bus")
    assert result.exit_code == 1
    assert str(folder / "app.py") in result.stderr
    assert where in result.stderr
    assert error in result.stderr
    assert "cli/" not in result.stderr
    assert "importlib" not in result.stderr
    assert result.stderr.splitlines()[-1] == "error: the module 'app' failed while it was imported"


def test_the_current_directory_comes_first_as_for_python_m(invoke: Invoke, folder: Path) -> None:
    (folder / "one_hub.py").write_text(APP)  # a module of that name is further down the path
    assert invoke("check", "one_hub:bus").exit_code == 0
