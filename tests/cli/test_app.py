"""The command line as a whole: help, version, and what is imported."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Invoke

COMMANDS = ["run", "serve", "publish", "score", "tail", "check", "lag", "top", "topics", "dlq"]


def test_help_names_every_command(invoke: Invoke) -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    assert all(f"  {command} " in result.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_is_plain_text(invoke: Invoke, command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert result.stdout.isascii()


def test_version_option(invoke: Invoke) -> None:
    assert invoke("--version").stdout == f"eventml {version('eventml')}\n"


def test_command_line_is_also_a_module() -> None:
    command = [sys.executable, "-m", "eventml", "--version"]
    found = subprocess.run(  # noqa: S603 - this Python
        command, capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout == f"eventml {version('eventml')}\n"


def test_unknown_command_is_a_usage_error(invoke: Invoke) -> None:
    result = invoke("nosuch")
    assert result.exit_code == 2
    assert "nosuch" in result.stderr


def test_optional_packages_are_not_imported() -> None:
    code = (
        "import sys, eventml.cli.app; "
        "print(sorted({'numpy', 'sklearn', 'skops', 'redis', 'aiokafka', 'trio'} & set(sys.modules)))"
    )
    found = subprocess.run(  # noqa: S603 - this Python
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout == "[]\n"
