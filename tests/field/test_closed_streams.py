"""`eventml check | head`, `<&-`, a full disk or an old locale ended in a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

APP = """
from eventml import Bus
bus = Bus("Zürich")
@bus.consumer("Fahrten → 東京")
def look(ride: dict) -> None: ...
"""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(autouse=True)
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


def shell(line: str, **env: str) -> tuple[int, str, str]:
    """The exit status, the output and the errors of a line of shell, in which $E is `eventml`."""
    result = subprocess.run(  # noqa: S603 - lines of the tests
        ["bash", "-o", "pipefail", "-c", line],  # noqa: S607 - any bash
        env={**os.environ, "E": f"{sys.executable} -W error -m eventml", **env},
        capture_output=True,
        check=False,
        timeout=60,
    )
    return result.returncode, result.stdout.decode(errors="replace"), result.stderr.decode()


@pytest.mark.parametrize(
    ("redirection", "status", "errors"),
    [
        ("<&-", 0, ""),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        ("| true", 1, ""),
        (">/dev/full", 1, "error: [Errno 28] No space left on device\n"),
        (">/dev/full 2>/dev/full", 1, ""),
    ],
)
@pytest.mark.parametrize("command", ["check app:bus", "--help"])
def test_closed_and_full_streams(command: str, redirection: str, status: int, errors: str) -> None:
    found, _, printed = shell(f"$E {command} {redirection}")
    assert (found, printed) == (status, errors)


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2> >(true)"])
def test_an_error_that_nobody_can_read_has_its_status(redirection: str) -> None:
    assert shell(f"$E check nothing:bus {redirection}")[0] == 2


def test_a_service_goes_on_without_its_log() -> None:
    status, _, _ = shell("$E run app:bus --workers 1 --operations off --until-idle 0.5 2>/dev/full")
    assert status == 0


def test_a_number_of_a_closed_stream_goes_to_nothing_else() -> None:
    status, printed, _ = shell("$E check app:bus 3>&1 >&- | cat")  # what goes to 1 must not come here
    assert (status, printed) == (0, "")


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "latin-1"}, ASCII], ids=["io", "locale"])
def test_text_that_the_encoding_lacks_ends_no_command(env: dict[str, str]) -> None:
    status, printed, errors = shell("$E check app:bus", **env)
    assert (status, errors) == (0, "")
    assert "Fahrten" in printed
    status, printed, errors = shell("$E check app:bus --json", **env)
    assert (status, errors) == (0, "")
    assert json.loads(printed)["bus"] == "Zürich"


def test_an_argument_that_is_not_text_is_refused() -> None:
    status, _, errors = shell("$E tail $'Z\\xfcrich'", LC_ALL="C.UTF-8")
    assert (status, errors) == (2, "error: 'Z\\udcfcrich' is not text in utf-8, the locale's encoding\n")


def test_an_argument_in_another_encoding_is_refused() -> None:
    status, _, errors = shell("$E tail Zürich", **ASCII)
    assert status == 2
    assert "not text in ascii" in errors
