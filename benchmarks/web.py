"""The web service against FastAPI, LitServe and BentoML, in one interleaved run.

    python -m benchmarks.web [--seconds S] [--rounds N] [--clients 1 16 64] [--models linear forest]
        [--litserve PYTHON] [--bentoml PYTHON]

Every server is one worker process with one thread for numeric libraries. A request holds one ride of 250
bytes, and connections are kept alive. Servers that can batch requests do so. LitServe and BentoML conflict
with the dependencies of this project, so each needs an environment of its own, whose Python is named here
(`python -m venv peer && peer/bin/pip install litserve scikit-learn`); without one it is left out. Below 16
clients one process sends the requests, from 16 on two; they share the machine's cores with the server.
All servers run for the whole time.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import skops.io
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import machine, rides
from benchmarks.web_models import MODELS, train

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[1]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
REFERENCE = "FastAPI"
EVENTML = "eventml serve"


class Figures(msgspec.Struct):
    """Figures of one server, with a value for each round."""

    rates: list[float] = []
    medians: list[float] = []
    tails: list[float] = []


def commands(litserve: str | None, bentoml: str | None, port: int) -> dict[str, list[str]]:
    """Return the command that starts each server on a port."""
    here = [sys.executable, "-m"]
    found = {
        EVENTML: [*here, "eventml", "serve", "benchmarks.web_app:bus", "--port", str(port)],
        REFERENCE: [
            *(*here, "uvicorn", "benchmarks.web_fastapi:app", "--port", str(port)),
            *("--no-access-log", "--log-level", "warning"),
        ],
    }
    if litserve:
        found["LitServe"] = [litserve, "-m", "benchmarks.web_litserve", str(port)]
    if bentoml:
        found["BentoML"] = [
            *(bentoml, "-m", "bentoml", "serve", "benchmarks.web_bentoml:Minutes"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]
    return found


@contextmanager
def serving(command: Sequence[str], port: int, model: str, folder: Path) -> Iterator[None]:
    """Start a server and wait until it listens; stop it in the end."""
    env = {**os.environ, **ONE_THREAD, "WEB_MODELS": str(folder), "WEB_MODEL": model}
    env |= {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "BENTOML_DO_NOT_TRACK": "True"}
    with (folder / f"{port}.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own commands
            command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 60
        while not answers(port):
            assert process.poll() is None, (folder / f"{port}.log").read_text()
            assert time.monotonic() < deadline, f"{command} does not come up"
            time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def load(rides_file: Path, port: int, clients: int, seconds: float, wrap: str) -> tuple[float, list[float]]:
    """Return the requests a second, and the latency of each in seconds."""
    parts = 1 if clients < 16 else 2
    started = [
        subprocess.Popen(  # noqa: S603 - our own command
            [
                sys.executable,
                "-m",
                "benchmarks.web_load",
                *map(str, (rides_file, port, clients // parts, seconds, wrap)),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        for _ in range(parts)
    ]
    results = [msgspec.json.decode(process.communicate()[0]) for process in started]
    rate = sum(len(one["latencies"]) / one["seconds"] for one in results)
    return rate, sorted(latency for one in results for latency in one["latencies"])


def measure(
    figures: Figures, rides_file: Path, port: int, clients: int, seconds: float, *, wrap: str, counts: bool
) -> None:
    rate, latencies = load(rides_file, port, clients, seconds, wrap)
    if counts:
        figures.rates.append(rate)
        figures.medians.append(1000 * latencies[len(latencies) // 2])
        figures.tails.append(1000 * latencies[len(latencies) * 99 // 100])


def show(title: str, figures: dict[str, Figures]) -> None:
    base = statistics.median(figures[REFERENCE].rates)
    table = Table(title=title, title_justify="left")
    for column in ("server", "requests/s", "min", "max", f"ratio to {REFERENCE}", "p50 ms", "p99 ms"):
        table.add_column(column, justify="left" if column == "server" else "right")
    for name, one in figures.items():
        rate = statistics.median(one.rates)
        table.add_row(
            *(name, f"{rate:,.0f}", f"{min(one.rates):,.0f}", f"{max(one.rates):,.0f}", f"{rate / base:.3g}"),
            *(f"{statistics.median(values):.2f}" for values in (one.medians, one.tails)),
        )
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--litserve", metavar="PYTHON", help="of an environment that has litserve")
    parser.add_argument("--bentoml", metavar="PYTHON", help="of an environment that has bentoml")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are ended too
    print(machine("uvicorn", "httptools", "starlette", "fastapi", "scikit-learn", "msgspec"))
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        for model, trained in train(folder).items():
            skops.io.dump(trained, folder / f"{model}.skops")
        lines = map(msgspec.json.encode, rides(8 * max(chosen.clients)))
        (folder / "rides").write_bytes(b"\n".join(lines))
        ports: dict[tuple[str, str], int] = {}
        for model in chosen.models:
            for server in commands(chosen.litserve, chosen.bentoml, 0):
                port = ports[model, server] = free_port()
                command = commands(chosen.litserve, chosen.bentoml, port)[server]
                stack.enter_context(serving(command, port, model, folder))
        for model in chosen.models:
            for clients in chosen.clients:
                figures = {server: Figures() for of, server in ports if of == model}
                for turn in range(chosen.rounds + 1):  # the first warms up
                    for server, one in figures.items():
                        wrap, port = "rides" if server == "BentoML" else "", ports[model, server]
                        measure(
                            one,
                            folder / "rides",
                            port,
                            clients,
                            chosen.seconds,
                            wrap=wrap,
                            counts=turn > 0 or not chosen.rounds,
                        )
                show(f"{model}, {clients} clients", figures)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


if __name__ == "__main__":
    main()
