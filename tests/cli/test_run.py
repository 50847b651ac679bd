"""`eventml run` in a process of its own: what ends it, and how."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess
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

def say(what, n):
    print(what, n, flush=True)

"""
SLOW = """
@bus.consumer("numbers", max_batch=2)
def slow(batch: list[int], numbers) -> None:
    say("begun", len(batch))
    time.sleep(1)
    say("done", len(batch))
"""
HUNG = """
@bus.consumer("numbers")
def hung(batch: list[int], numbers) -> None:
    say("begun", len(batch))
    while True:
        time.sleep(60)
"""
HUNG_DEEPER = """
@bus.consumer("numbers")
async def hung(batch: list[int], numbers) -> None:
    say("begun", len(batch))
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
    say("double", event["double"])
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
def test_a_signal_finishes_what_is_in_hand_and_exits_0(
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
    assert f"{number.name}: finishing" in log
    assert "INFO slow: 4 received, 0 published, 0 dead letters, 0 retries, 0 left in hand" in log


def test_a_second_signal_gives_up_on_what_is_in_hand(start: Start, folder: Path) -> None:
    write(folder, HUNG)
    process = start("run", "app:bus")
    read_until(process, "begun")
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    while "finishing" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=25)  # `drain` is 30 s
    assert process.returncode == 1
    assert "SIGTERM again: giving up on 4 events" in log


@pytest.mark.parametrize("handler", [HUNG, HUNG_DEEPER])
def test_a_handler_that_hangs_does_not_keep_the_process_past_its_deadline(
    start: Start, folder: Path, handler: str
) -> None:
    write(folder, handler, "drain = 0.5")
    process = start("run", "app:bus")
    read_until(process, "begun")
    process.send_signal(signal.SIGTERM)
    output, log = process.communicate(timeout=30)
    assert process.returncode == 1
    assert output.splitlines() == ["lifespan left"]
    assert "hung: 4 received, 0 published, 0 dead letters, 0 retries, 4 left in hand" in log
    assert "cannot be stopped; leaving without" in log


def test_a_call_given_up_on_earlier_does_not_keep_a_clean_end_either(start: Start, folder: Path) -> None:
    write(folder, HUNG, "[consumer.hung]\ntimeout = 0.1\nretries = 0\nmax_batch = 1")
    process = start("run", "app:bus", "--until-idle", "0.3")
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "4 dead letters" in log


def test_it_ends_when_idle_and_counts_what_it_did(start: Start, folder: Path) -> None:
    write(folder, COUNTING)
    process = start("run", "app:bus", "--until-idle", "0.5")
    output, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert sorted(output.splitlines()) == ["double 0", "double 2", "double 4", "lifespan left"]
    for line in (
        "INFO double: numbers -> doubles, group app.double",
        "INFO show: doubles, group app.show",
        "INFO running double, show on memory://",
        "INFO idle for 0.5 s: stopping",
        "INFO double: 4 received, 3 published, 1 dead letters, 0 retries, 0 left in hand",
        "INFO show: 3 received, 0 published, 0 dead letters, 0 retries, 0 left in hand",
    ):
        assert line in log


@pytest.mark.parametrize("only", [["double"], ["double", "show"], ["double,show"]])
def test_only_the_handlers_that_one_names_run(invoke: Invoke, folder: Path, only: list[str]) -> None:
    write(folder, COUNTING)
    chosen = [arg for name in only for arg in ("--only", name)]
    result = invoke("run", "app:bus", *chosen, "--until-idle", "0.1", "--backend", "onehub://")
    assert result.exit_code == 0
    assert ("double 2" in result.stdout) == ("show" in ",".join(only))


def test_the_command_lines_backend_is_used_and_its_password_is_not_shown(
    invoke: Invoke, folder: Path
) -> None:
    write(folder, COUNTING, '[backend]\nurl = "memory://"')
    result = invoke("run", "app:bus", "--backend", "onehub://user:secret@here", "--until-idle", "0")
    assert result.exit_code == 0
    assert "secret" not in result.output


@pytest.mark.parametrize(
    ("handlers", "args", "reason"),
    [
        (COUNTING, ("--only", "nobody"), "no handler is named 'nobody'; there are: double, show"),
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
def test_what_cannot_run_has_a_reason_and_no_traceback(
    invoke: Invoke, folder: Path, handlers: str, args: tuple[str, ...], reason: str
) -> None:
    write(folder, handlers)
    result = invoke("run", "app:bus", *args)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_setting_that_is_wrong_has_a_reason_and_no_traceback(invoke: Invoke, folder: Path) -> None:
    write(folder, COUNTING, "[consumer.double]\nmax_bacth = 7")
    result = invoke("run", "app:bus")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: consumer.double.max_bacth: unknown, did you mean max_batch?")


def test_an_app_that_has_set_up_logging_by_itself_is_left_alone(start: Start, folder: Path) -> None:
    write(folder, "import logging\nlogging.basicConfig(level='INFO', format='OURS %(message)s')\n" + COUNTING)
    _, log = start("run", "app:bus", "--until-idle", "0").communicate(timeout=60)
    assert "OURS running double, show on memory://" in log
    assert all(line.startswith("OURS ") for line in log.splitlines())
