"""The command line as a whole: how it starts, and what it says of itself."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from eventml.cli.tables import plain_table

if TYPE_CHECKING:
    from tests.cli.conftest import Invoke

COMMANDS = ["run", "publish", "tail", "check", "lag", "topics"]


def test_help_names_every_command(invoke: Invoke) -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    assert all(f"  {command} " in result.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_in_plain_text(invoke: Invoke, command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert result.stdout.isascii()


def test_version(invoke: Invoke) -> None:
    assert invoke("--version").stdout == f"eventml {version('eventml')}\n"


def test_it_is_a_module_too() -> None:
    command = [sys.executable, "-m", "eventml", "--version"]
    found = subprocess.run(  # noqa: S603 - this Python
        command, capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout == f"eventml {version('eventml')}\n"


def test_an_unknown_command_is_refused(invoke: Invoke) -> None:
    result = invoke("serve")
    assert result.exit_code == 2
    assert "serve" in result.stderr


def test_what_only_some_apps_need_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys, eventml.cli.app; "
        "print(sorted({'numpy', 'sklearn', 'skops', 'redis', 'aiokafka', 'trio'} & set(sys.modules)))"
    )
    found = subprocess.run(  # noqa: S603 - this Python
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout == "[]\n"


def test_a_plain_table_is_aligned_and_cuts_nothing() -> None:
    assert plain_table(["a", "name"], [["long" * 40, "x"], ["b", ""]]).splitlines() == [
        f"a{' ' * 161}name",
        f"{'long' * 40}  x",
        "b",
    ]
