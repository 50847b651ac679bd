"""`eventml run --reload`: what starts the app anew, and what ends it."""

from __future__ import annotations

import signal
import sys
from typing import IO, TYPE_CHECKING
from unittest import mock

import pytest

from eventml.bus import import_bus
from eventml.cli.run import model_files, run_reloading

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Invoke, Start

APP = """
import eventml
import pathlib

bus = eventml.Bus("app")

@bus.lifespan
async def announce():
    print("VERSION", pathlib.Path("models/m.skops").read_text(), flush=True)
    yield
    print("left", flush=True)

@bus.consumer("numbers")
def one(n: int, announce) -> None: ...
"""
BUSY = """
import anyio
import eventml

bus = eventml.Bus("app")

@bus.lifespan
async def publisher():
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bus.publish, "numbers", 1)
        yield

@bus.consumer("numbers")
async def one(n: int, publisher) -> None:
    print("busy", flush=True)
    await anyio.sleep_forever()
"""
MODELS = """
import eventml

bus = eventml.Bus("app")

@bus.predictor("a", to="b", model="models/a.skops")
def by_path(n: list[int], model) -> list[int]: ...

@bus.predictor("a", to="c", model=eventml.Artefact("/elsewhere/c.onnx"))
def by_artefact(n: list[int], model) -> list[int]: ...

@bus.predictor("a", to="d", model=dict)
def by_function(n: list[int], model) -> list[int]: ...

@bus.consumer("b")
def none(n: int) -> None: ...
"""


def until(text: str, stream: IO[str]) -> str:
    """The first line of a stream that contains a text."""
    return next(line for line in stream if text in line)


def test_changes_of_source_and_mistakes_in_it(folder: Path, start: Start) -> None:
    pytest.importorskip("watchfiles")
    app, model = folder / "app.py", folder / "models" / "m.skops"
    model.parent.mkdir()
    model.write_text("1")
    app.write_text(APP)
    process = start("run", "app:bus", "--reload")
    assert process.stdout is not None
    assert process.stderr is not None

    assert process.stdout.readline() == "VERSION 1\n"
    app.write_text(APP.replace("VERSION", "CHANGED"))
    assert process.stdout.readline() == "left\n", "the old process finishes before the new one starts"
    assert process.stdout.readline() == "CHANGED 1\n"

    app.write_text("def (")
    assert process.stdout.readline() == "left\n"
    until("ended with status 1; the next change starts it anew", process.stderr)
    app.write_text(APP.replace("VERSION", "MENDED"))
    assert process.stdout.readline() == "MENDED 1\n"

    process.send_signal(signal.SIGTERM)
    assert process.stdout.read() == "left\n"
    assert "changed: app.py; starting anew" in process.stderr.read()
    assert process.wait(30) == 0


def test_a_terminal_that_closes_ends_the_app_too(folder: Path, start: Start) -> None:
    pytest.importorskip("watchfiles")
    (folder / "models").mkdir()
    (folder / "models" / "m.skops").write_text("1")
    (folder / "app.py").write_text(APP)
    process = start("run", "app:bus", "--reload")
    assert process.stdout is not None
    assert process.stdout.readline() == "VERSION 1\n"
    process.send_signal(signal.SIGHUP)
    assert process.wait(30) == 0
    assert process.stdout.read() == "left\n"


def test_a_second_signal_abandons_the_events_in_flight(folder: Path, start: Start) -> None:
    pytest.importorskip("watchfiles")
    (folder / "app.py").write_text(BUSY)
    process = start("run", "app:bus", "--reload")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "busy\n"
    process.send_signal(signal.SIGINT)
    until("a second signal abandons", process.stderr)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 1
    assert "abandon" in process.stderr.read()


def test_the_app_ends_where_files_cannot_be_watched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watchfiles = pytest.importorskip("watchfiles")
    (folder / "app.py").write_text(MODELS)
    app = mock.Mock(wait=lambda: 0)
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: app)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(watchfiles, "watch", mock.Mock(side_effect=OSError("watch limit reached")))
    bus = import_bus("app:bus")
    bus.configure(bus.read_settings())
    with pytest.raises(OSError, match="watch limit"):
        run_reloading(bus)
    assert app.terminate.called


def test_a_new_model_starts_the_app_anew(folder: Path, start: Start) -> None:
    """The model is refused both times, as it is a pickle: nothing that loads models need be installed."""
    pytest.importorskip("watchfiles")
    (folder / "models").mkdir()
    (folder / "models" / "a.pkl").write_text("1")
    (folder / "app.py").write_text(MODELS.partition('@bus.predictor("a", to="c"')[0].replace("skops", "pkl"))
    process = start("run", "app:bus", "--reload")
    assert process.stderr is not None
    until("ended with status 1", process.stderr)
    (folder / "notes.txt").write_text("no source of the app")
    (folder / "models" / "a.pkl").write_text("2")
    assert "changed: models/a.pkl; starting anew" in until("changed", process.stderr)
    until("ended with status 1", process.stderr)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 1


def test_the_models_that_are_watched(folder: Path) -> None:
    (folder / "app.py").write_text(MODELS)
    bus = import_bus("app:bus")
    bus.configure(bus.read_settings())
    assert {str(path) for path in model_files(bus)} == {str(folder / "models/a.skops"), "/elsewhere/c.onnx"}
    settings = {"consumer": {"by_path": {"model": "models/b.skops"}, "by_function": {"model": "/d.onnx"}}}
    bus.configure(bus.read_settings(settings))
    files = {str(folder / "models/b.skops"), "/elsewhere/c.onnx", "/d.onnx"}
    assert {str(path) for path in model_files(bus)} == files


def test_without_watchfiles_the_remedy_is_named(
    folder: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "app.py").write_text(MODELS)
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    refused = invoke("run", "app:bus", "--reload")
    assert refused.exit_code == 1
    assert "--reload needs the extra 'reload'" in refused.stderr
    assert "pip install 'eventml[reload]'" in refused.stderr
