"""`eventml run`: what it runs, what stops it, and its exit status."""

from __future__ import annotations

import logging
import os
import pty
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Invoke, Start

APP = """
import asyncio, time
import eventml

bus = eventml.Bus("app")

@bus.lifespan
async def numbers():
    await bus.publish_many("numbers", range(4))
    yield
    print("lifespan left", flush=True)

def report(text, n):
    print(text, n, flush=True)

"""
SLOW = """
@bus.consumer("numbers", max_batch=2)
def slow(batch: list[int], numbers) -> None:
    report("begun", len(batch))
    time.sleep(1)
    report("done", len(batch))
"""
HUNG = """
@bus.consumer("numbers")
def hung(batch: list[int], numbers) -> None:
    report("begun", len(batch))
    while True:
        time.sleep(60)
"""
HUNG_DEEPER = """
@bus.consumer("numbers")
async def hung(batch: list[int], numbers) -> None:
    report("begun", len(batch))
    await asyncio.to_thread(time.sleep, 1e6)
"""
COUNTING = """
@bus.predictor("numbers", to="doubles")
def double(n: int, numbers) -> dict:
    if n == 3:
        raise eventml.Reject("three")
    return {"double": 2 * n}

@bus.consumer("doubles")
def show(event: dict) -> None:
    report("double", event["double"])
"""


def write(folder: Path, handlers: str, settings: str = "") -> None:
    (folder / "app.py").write_text(APP + handlers)
    (folder / "eventml.toml").write_text(settings)


def read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"it ended before it said {text!r}: {process.stderr and process.stderr.read()}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_completes_events_in_flight_and_exits_0(
    start: Start, folder: Path, number: signal.Signals
) -> None:
    write(folder, SLOW)
    process = start("run", "app:bus")
    read_until(process, "begun")
    process.send_signal(number)
    output, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output.splitlines()[-1] == "lifespan left"
    assert output.count("begun") + 1 == output.count("done")  # one begun had been read before
    assert re.search(r"stopping: \d events in flight have 30 s to finish", log)
    assert "INFO slow: 4 received, 0 published, 0 dead letters, 0 retries, 0 still in flight" in log


def test_second_signal_abandons_events_in_flight(start: Start, folder: Path) -> None:
    write(folder, HUNG)
    process = start("run", "app:bus")
    read_until(process, "begun")
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    while "stopping" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=25)  # `drain` is 30 s
    assert process.returncode == 1
    assert "second signal: abandoning 4 events in flight" in log


@pytest.mark.parametrize("handler", [HUNG, HUNG_DEEPER])
def test_hung_handler_does_not_keep_the_process_after_its_drain_time(
    start: Start, folder: Path, handler: str
) -> None:
    write(folder, handler, "drain = 0.5")
    process = start("run", "app:bus")
    read_until(process, "begun")
    process.send_signal(signal.SIGTERM)
    output, log = process.communicate(timeout=30)
    assert process.returncode == 1
    assert output.splitlines() == ["lifespan left"]
    assert "hung: 4 received, 0 published, 0 dead letters, 0 retries, 4 still in flight" in log
    assert "still running and cannot be stopped" in log


def test_call_that_timed_out_does_not_keep_the_process(start: Start, folder: Path) -> None:
    write(folder, HUNG, "[consumer.hung]\ntimeout = 0.1\nretries = 0\nmax_batch = 1")
    process = start("run", "app:bus", "--until-idle", "0.3")
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "4 dead letters" in log


def test_it_stops_when_idle_and_logs_counts(
    invoke: Invoke, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(folder, COUNTING)
    caplog.set_level(logging.INFO, "eventml")
    result = invoke("run", "app:bus", "--until-idle", "0.3")
    assert result.exit_code == 0
    assert sorted(result.stdout.splitlines()) == ["double 0", "double 2", "double 4", "lifespan left"]
    expected = [
        "double: numbers -> doubles, group app.double",
        "show: doubles, group app.show",
        "running double, show on memory://",
        "memory:// lives in this process: only this process can publish to it",
        "idle for 0.3 s: stopping",
        "double: 4 received, 3 published, 1 dead letters, 0 retries, 0 still in flight",
        "show: 3 received, 0 published, 0 dead letters, 0 retries, 0 still in flight",
    ]
    assert [message for message in caplog.messages if message in expected] == expected


@pytest.mark.parametrize("only", [["double"], ["double", "show"], ["double,show"]])
def test_only_runs_the_handlers_named(invoke: Invoke, folder: Path, only: list[str]) -> None:
    write(folder, COUNTING)
    chosen = [arg for name in only for arg in ("--only", name)]
    result = invoke("run", "app:bus", *chosen, "--until-idle", "0.1", "--backend", "onehub://")
    assert result.exit_code == 0
    assert ("double 2" in result.stdout) == ("show" in ",".join(only))


def test_backend_of_the_command_line_is_used_and_its_password_hidden(invoke: Invoke, folder: Path) -> None:
    write(folder, COUNTING, '[backend]\nurl = "memory://"')
    result = invoke("run", "app:bus", "--backend", "onehub://user:secret@here", "--until-idle", "0")
    assert result.exit_code == 0
    assert "secret" not in result.output


@pytest.mark.parametrize(
    ("handlers", "args", "reason"),
    [
        (
            COUNTING.replace("to=", 'model="nosuch.skops", to=').replace("numbers)", "numbers, model)"),
            (),
            "no model at",
        ),
        (COUNTING, ("--backend", "nosuch://"), "no backend is registered for nosuch://"),
        (
            COUNTING.replace("to=", "ordered=True, to="),
            ("--backend", "onehub://?ordering=none"),
            "keeps no order",
        ),
        (
            COUNTING.replace("event: dict)", "event: dict, database)"),
            (),
            "'database' has no value",
        ),
    ],
)
def test_bus_that_cannot_run_is_an_error_without_traceback(
    invoke: Invoke, folder: Path, handlers: str, args: tuple[str, ...], reason: str
) -> None:
    write(folder, handlers)
    result = invoke("run", "app:bus", *args)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "refused"),
    [
        (
            ("run", "--only", "doubel"),
            "there are: double, show; did you mean double?",
        ),
        (("run", "--only", "doubel", "--workers", "2"), "did you mean double?"),
        (("run", "--workers", "doubel=2"), "did you mean double?"),
        (
            ("serve", "--only", "doubel"),
            "there are: double; did you mean double?",
        ),
        (("run", "--only", "nobody"), "no handler is named 'nobody'; there are: double, show\n"),
    ],
)
def test_an_unknown_handler_is_a_usage_error_with_a_suggestion(
    invoke: Invoke, folder: Path, args: tuple[str, ...], refused: str
) -> None:
    write(folder, COUNTING)
    command, *options = args
    result = invoke(command, "app:bus", *options, "--backend", "onehub://")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert refused in result.stderr


def test_invalid_setting_is_an_error_without_traceback(invoke: Invoke, folder: Path) -> None:
    write(folder, COUNTING, "[consumer.double]\nmax_bacth = 7")
    result = invoke("run", "app:bus")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: consumer.double.max_bacth: unknown, did you mean max_batch?")


MODELS = {
    "a file": 'model = "nowhere.skops"',
    "a function": 'def model():\n    return open("nowhere.bin")',
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("workers", [(), ("--workers", "1", "--operations", "off")], ids=["one", "workers"])
def test_a_model_that_is_not_there_ends_a_service_at_once(
    start: Start, folder: Path, workers: tuple[str, ...], model: str
) -> None:
    write(folder, f'{model}\n@bus.consumer("n", model=model)\ndef use(n: int, model) -> None: ...\n')
    process = start("run", "app:bus", *workers)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "nowhere." in log.splitlines()[-1]
    assert "Traceback" not in log
    assert "restarting" not in log


OTHER = """
def model():
    import logging
    logging.getLogger("sqlalchemy").warning("of another library")
    return 1

@bus.consumer("n", model=model)
def use(n: int, model) -> None: ...
"""


@pytest.mark.parametrize("workers", [(), ("--workers", "1", "--operations", "off")], ids=["one", "workers"])
@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_all_lines_of_the_log_have_one_format(folder: Path, workers: tuple[str, ...], terminal: bool) -> None:
    write(folder, OTHER)
    reading, writing = pty.openpty() if terminal else os.pipe()
    command = [sys.executable, "-m", "eventml", "run", "app:bus", "--until-idle", "0", *workers]
    with os.fdopen(reading, "rb", buffering=0) as log:
        env = {**os.environ, "TERM": "xterm", "TZ": "America/New_York"}
        subprocess.run(command, stderr=writing, env=env, check=True, timeout=60)  # noqa: S603 - ours
        lines = re.sub(r"\x1b\[[0-9;]*m", "", os.read(log.fileno(), 65_536).decode()).splitlines()
        os.close(writing)
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert [line for line in lines if not re.match(rf"([\w-]+ +\| )?{time} (INFO|WARNING) \S", line)] == []
    [other] = [line for line in lines if "of another library" in line]
    [written] = re.findall(time, other)
    assert abs(datetime.fromisoformat(written) - datetime.now(UTC)) < timedelta(minutes=2), "UTC"


def test_logging_configured_by_the_app_is_kept(start: Start, folder: Path) -> None:
    write(folder, "import logging\nlogging.basicConfig(level='INFO', format='APP %(message)s')\n" + COUNTING)
    _, log = start("run", "app:bus", "--until-idle", "0").communicate(timeout=60)
    assert "APP running double, show on memory://" in log
    assert all(line.startswith("APP ") for line in log.splitlines())
