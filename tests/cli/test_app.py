"""The command line as a whole: help, version, and what is imported."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest
import typer.main

from eventml.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Invoke, Start

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


@pytest.mark.parametrize("group", [(), ("dlq",), ("topics",)])
def test_the_list_of_commands_is_not_cut_in_80_columns(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, group: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, *lines = invoke(*group, "--help").stdout.splitlines()
    assert [line for line in lines if line.endswith("...") or len(line) > 80] == []


@pytest.mark.parametrize("args", [(), ("run",), ("score",), ("topics", "create")])
def test_help_on_a_terminal_shows_every_word(on_terminal: Callable[..., str], args: tuple[str, ...]) -> None:
    """Brackets and colons too, which rich could take for its own markup: `[profile.NAME]`, `:bus:`."""
    command: Any = typer.main.get_command(app)
    for name in args:
        command = command.commands[name]
    shown = on_terminal(*args, "--help")
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    words = " ".join(re.sub("[\u2500-\u257f]", " ", shown).split())
    for text in (command.help, *(getattr(param, "help", "") for param in command.params)):
        assert [word for word in (text or "").replace("`", "").split() if word not in words] == []


def test_a_shell_completes_commands(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_EVENTML_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "eventml dlq re")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert start().communicate(timeout=60) == ("replay\n", "")


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
