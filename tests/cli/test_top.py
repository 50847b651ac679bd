"""`eventml top`: rates and latencies from metrics, and the view of a service."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import subprocess
import sys
import termios
import time
from pathlib import Path
from select import select
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml import Bus
from eventml.cli.output import redraw
from eventml.cli.top import format_row, render, sparkline
from eventml.deploy.console import (
    Snapshot,
    format_bound,
    handler_numbers,
    open_console,
    quantile,
    worker_numbers,
)
from eventml.deploy.workers import HostPort, serve_status
from eventml.deploy.workers.reports import HandlerReport, ServiceStatus, WorkerStatus
from eventml.runtime.stats import SECONDS_BUCKETS, SIZE_BUCKETS, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cli.conftest import Invoke

ROOT = Path(__file__).parents[2]
COLUMNS = ("handler", "lag", "in flight", "in/s", "p50", "p99")
WORKER = ("worker", "state", "up", "restarts", "in flight", "oldest", "models")


def handler_cells(before: Snapshot, now: Snapshot) -> list[str]:
    """The cells of the only handler."""
    [numbers] = handler_numbers(before, now)
    return format_row(msgspec.to_builtins(numbers), COLUMNS)


def worker_cells(now: Snapshot) -> list[str]:
    """The cells of the only worker."""
    [numbers] = worker_numbers(now.status)
    return format_row(msgspec.to_builtins(numbers), WORKER)


def status(completed: int, waits: list[float]) -> ServiceStatus:
    """Return the status of a worker that completed this many events, with these latencies in seconds."""
    latency, batch = Histogram(SECONDS_BUCKETS), Histogram(SIZE_BUCKETS)
    for wait in waits:
        latency.add(wait)
    batch.add(completed)
    handler = HandlerReport(
        group="rides.tip",
        totals={
            **{name: [completed] for name in ("received", "completed", "published")},
            "latency": [*latency.counts, latency.sum],
            "batch": [*batch.counts, batch.sum],
        },
        in_flight=7,
        oldest=0.5,
        lag=12,
        model=("tip", "abc"),
    )
    worker = WorkerStatus(name="worker-1", pid=1, state="ready", restarts=2, handlers={"tip": handler})
    return ServiceStatus(bus="rides", workers=[worker])


def test_rates_are_those_between_two_snapshots() -> None:
    before = Snapshot(10.0, status(100, [0.02] * 100))
    now = Snapshot(12.0, status(500, [0.02] * 100 + [0.2] * 400))
    name, lag, in_flight, received, p50, p99 = handler_cells(before, now)
    assert (name, lag, in_flight, received) == ("tip", "12", "7", "200")
    assert (p50, p99) == ("≤250ms", "≤250ms"), "the hundred quick ones came before the first snapshot"
    assert worker_cells(now) == [
        "worker-1",
        "ready",
        "0:00:00",
        "2",
        "7",
        "500ms",
        "tip abc",
    ]


def test_a_worker_is_shown_with_the_handlers_that_its_broker_refuses() -> None:
    refused = status(100, [0.02])
    [worker] = refused.workers
    tip = worker.handlers["tip"]
    worker.handlers = {
        "tip": msgspec.structs.replace(tip, failing={"receive": (45.0, "NOPERM")}),
        "fare": tip,
    }
    now = Snapshot(10.0, refused)
    assert worker_cells(now)[1] == "ready, tip fails for 45.0s"


def test_rates_of_a_restarted_service_are_not_negative() -> None:
    before = Snapshot(10.0, status(500, [0.02] * 500))
    now = Snapshot(11.0, status(30, [0.02] * 30))
    assert handler_cells(before, now)[3:] == ["30", "≤25ms", "≤25ms"]


@given(st.lists(st.floats(0, 400), min_size=1), st.sampled_from([0.0, 0.01, 0.5, 0.75, 0.99, 1.0]))
def test_a_quantile_is_shown_as_the_bound_of_its_bucket(values: list[float], share: float) -> None:
    histogram = Histogram(SECONDS_BUCKETS)
    for value in values:
        histogram.add(value)
    exact = sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]
    found = quantile([*histogram.counts, histogram.sum], share)
    assert found == next(bound for bound in [*SECONDS_BUCKETS, math.inf] if exact <= bound)


def test_a_bound_says_on_which_side_of_it_the_latency_is() -> None:
    shown = [format_bound(bound) for bound in (0.025, 10.0, math.inf, None)]
    assert shown == ["≤25ms", "≤10.0s", ">300s", "-"]


def test_empty_histogram_has_no_quantile() -> None:
    assert quantile([], 0.5) is None
    assert quantile([0.0] * (len(SECONDS_BUCKETS) + 2), 0.5) is None


@pytest.fixture
def service(folder: Path) -> Iterator[str]:
    """Serve the operations port of the bus "rides", and write its app. Gives the address of the port."""
    (folder / "app.py").write_text(
        'import eventml\nbus = eventml.Bus("rides")\nother = eventml.Bus("other")\n'
    )
    pages = open_console(Bus("rides"))
    with serve_status(lambda: status(100, [0.02] * 100), HostPort(port=0), open_pages=pages) as address:
        yield str(address)


def test_view_shows_handlers_and_workers(invoke: Invoke, service: str) -> None:
    result = invoke("top", "app:bus", "--once", "--at", service, "--every", "0.2")
    assert result.exit_code == 0, result.output
    assert f"rides at {service}: 1 of 1 workers ready" in result.stdout
    assert re.search(r"^tip +12 +7 +0 +0 +0 +\? ", result.stdout, re.MULTILINE)
    assert re.search(r"^worker-1 +ready .* 2 +7 +500ms +\? +tip abc", result.stdout, re.MULTILINE)


def test_json_has_the_numbers(invoke: Invoke, service: str) -> None:
    found = json.loads(invoke("top", "app:bus", "--json", "--at", service, "--every", "0.2").stdout)
    assert (found["bus"], found["unready"]) == ("rides", [])
    [handler], [worker] = found["handlers"], found["workers"]
    assert (handler["handler"], handler["lag"], handler["in/s"], handler["p50"]) == ("tip", 12, 0, None)
    assert (worker["state"], worker["oldest"], worker["models"]) == ("ready", 0.5, ["tip abc"])


def test_a_service_whose_broker_is_gone_is_not_ready(folder: Path, invoke: Invoke, service: str) -> None:
    del service  # it has written the app
    gone = status(100, [0.02])
    gone.workers[0].connected = False
    with serve_status(lambda: gone, HostPort(port=0), open_pages=open_console(Bus("rides"))) as address:
        result = invoke("top", "app:bus", "--once", "--at", str(address), "--every", "0.2")
    title, reason, *_, worker = result.stdout.splitlines()
    assert f"rides at {address}: 0 of 1 workers ready" in title
    assert reason == "not ready: worker-1 does not reach its broker"
    assert "ready, no broker" in worker


@pytest.mark.parametrize("width", [60, 80, 160])
def test_a_terminal_is_used_to_its_width(width: int) -> None:
    before, busy = status(100, [0.02] * 100), status(1_234_500, [0.2] * 1_000_000)
    now = Snapshot(12.0, busy)
    view = render("rides", HostPort(), Snapshot(10.0, before), now, width)
    _, handlers, counted, workers = view.split("\n\n")
    assert max(map(len, [*handlers.splitlines(), *workers.splitlines()])) <= width
    assert {"handler", "lag", "dead", "lost", "p50", "p99"} <= set(handlers.split())
    assert {"skipped", "complete"} <= set(handlers.split()) or width < 160
    assert "since the start: dead, lost, retries" in counted
    assert "in the last 2.0 s: in/s" in counted


def test_the_example_in_the_docs_has_the_columns_of_today() -> None:
    shown = (ROOT / "docs" / "captures" / "top-160.txt").read_text()
    view = render("rides", HostPort(), now := Snapshot(1.0, status(1, [0.1])), now)
    headers = [line for line in view.splitlines() if line.startswith(("handler ", "worker "))]
    found = [line for line in shown.splitlines() if line.startswith(("handler ", "worker "))]
    assert [line.split() for line in found] == [line.split() for line in headers]


def test_service_of_another_bus_is_a_usage_error(invoke: Invoke, service: str) -> None:
    result = invoke("top", "app:other", "--once", "--at", service)
    assert result.exit_code == 2
    assert f"{service} belongs to the bus 'rides', not 'other'" in result.stderr


def test_service_that_does_not_answer_is_an_error(invoke: Invoke, folder: Path) -> None:
    (folder / "app.py").write_text('import eventml\nbus = eventml.Bus("rides")\n')
    result = invoke("top", "app:bus", "--once", "--at", "127.0.0.1:1")
    assert result.exit_code == 1
    assert "no service answers at 127.0.0.1:1" in result.stderr


def test_what_is_not_known_is_a_question_mark() -> None:
    unknown = status(100, [0.02])
    [worker] = unknown.workers
    worker.handlers["tip"] = msgspec.structs.replace(worker.handlers["tip"], lag=None)
    now = Snapshot(10.0, unknown)
    [numbers] = handler_numbers(now, now)
    shown = format_row(msgspec.to_builtins(numbers), ("lag", "left", "in/s", "p50"))
    assert shown == ["?", "?", "?", "-"]


def test_dead_letters_that_are_left_are_shown() -> None:
    counted = msgspec.structs.replace(status(100, [0.02]), dead_letters={"tip": 12})
    [numbers] = handler_numbers(now := Snapshot(10.0, counted), now)
    assert numbers.left == 12


def test_a_sparkline_has_a_full_bar_for_the_highest_rate() -> None:
    assert sparkline([0, 50, 100]) == "▁▅█"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([]) == ""


def test_without_termios_the_view_waits_for_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "termios", None)
    shown = list[int]()

    def show(width: int) -> str:
        if shown:
            raise KeyboardInterrupt
        shown.append(width)
        return "text"

    redraw(show, 0.01)
    assert shown


class OnTerminal:
    """A command that runs on a terminal, and what that shows."""

    def __init__(self, *args: str) -> None:
        self._terminal, writing = pty.openpty()
        termios.tcsetwinsize(writing, (40, 160))
        command, env = [sys.executable, "-m", "eventml", *args], {**os.environ, "TERM": "xterm"}
        self.process = subprocess.Popen(command, stdin=writing, stdout=writing, stderr=writing, env=env)  # noqa: S603
        os.close(writing)
        self.shown = ""

    def send(self, keys: str) -> None:
        """Press keys."""
        self.shown = ""
        os.write(self._terminal, keys.encode())

    def until(self, text: str) -> None:
        """Wait until a text has been shown since the last key."""
        deadline = time.monotonic() + 30
        while text not in self.shown:
            assert select([self._terminal], [], [], deadline - time.monotonic())[0], self.shown
            self.shown += os.read(self._terminal, 65_536).decode(errors="replace")


@pytest.fixture
def on_terminal() -> Iterator[Callable[..., OnTerminal]]:
    started: list[OnTerminal] = []

    def start(*args: str) -> OnTerminal:
        started.append(OnTerminal(*args))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait(timeout=10)


def test_q_quits_on_a_terminal(service: str, on_terminal: Callable[..., OnTerminal]) -> None:
    top = on_terminal("top", "app:bus", "--at", service, "--every", "0.2")
    top.until("q: quit")
    top.send("x")
    top.until("q: quit")
    top.send("q")
    assert top.process.wait(timeout=30) == 0


def test_a_service_that_ends_is_red_and_the_last_numbers_stay(
    folder: Path, on_terminal: Callable[..., OnTerminal]
) -> None:
    (folder / "app.py").write_text('import eventml\nbus = eventml.Bus("rides")\n')
    pages = open_console(Bus("rides"))
    with serve_status(lambda: status(100, [0.02]), HostPort(port=0), open_pages=pages) as address:
        top = on_terminal("top", "app:bus", "--at", str(address), "--every", "0.2")
        top.until("1 of 1 workers ready")
    top.shown = ""
    top.until("\x1b[1;31mnot ready: no service answers at")
    top.until("worker-1")
