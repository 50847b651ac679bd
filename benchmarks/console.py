"""What open pages of the console cost a service on Redis, and how soon a page is painted.

    python -m benchmarks.console [--pages 50] [--rate 20000] [--seconds 10] [--rounds 5] [--paints 20]

A supervisor with one worker handles rides of 250 bytes that arrive at a fixed rate, or with `--rate 0` as
fast as they can be published, so that the worker has no rest. Rounds with so many open pages and with none
take turns; an open page is a connection that reads the live numbers of the overview. The rate counts between
the first and the last tenth of the predictions; the worker's CPU time is that of the whole round. Pages are
painted by Chromium, each from an empty cache; `--paints 0` leaves them out.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.request import urlopen

import msgspec
import redis

from backends.process import free_ports
from backends.redis.server import RedisServer
from benchmarks.measuring import DurationPredicted, RideStarted, interleave, machine, no_op, report, rides
from eventml import Bus

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[1]
SOURCE, TARGET = "console.rides", "console.minutes"
PART: Final = 500  # events in one write of the publisher
PATHS: Final = ("", "handler?name=minutes", "models")

bus = Bus("console")


@bus.predictor(SOURCE, to=TARGET)
def minutes(batch: list[RideStarted]) -> list[DurationPredicted]:
    return no_op(batch)


class Service:
    """The service under test: a supervisor, its worker and their operations port."""

    def __init__(self, url: str, port: int) -> None:
        self.at = f"127.0.0.1:{port}"
        command = ["eventml", "run", "benchmarks.console:bus", "--workers", "1", "--operations", str(port)]
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env={**os.environ, "EVENTML_BACKEND": url},
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Self:
        deadline = time.monotonic() + 60
        while not self._is_ready():
            assert time.monotonic() < deadline, "the service is not ready"
            time.sleep(0.1)
        [worker] = json.loads(self._get("status"))["workers"]
        self._worker = worker["pid"]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)

    def _get(self, path: str) -> bytes:
        with urlopen(f"http://{self.at}/{path}", timeout=10) as answer:
            return bytes(answer.read())

    def _is_ready(self) -> bool:
        with suppress(OSError):
            return bool(self._get("readyz"))
        return False

    @property
    def cpu(self) -> float:
        """CPU time of the worker so far, in seconds."""
        threads = Path(f"/proc/{self._worker}/task").glob("*/schedstat")
        return sum(int(one.read_text().split()[0]) for one in threads) / 1e9


@contextmanager
def open_pages(at: str, count: int) -> Iterator[None]:
    """Read the live numbers of so many pages, in one thread."""
    host, port = at.split(":")
    with ExitStack() as stack, selectors.DefaultSelector() as waiting:
        for _ in range(count):
            page = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            page.sendall(b"GET /live HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            waiting.register(page, selectors.EVENT_READ)
        stopped, received = threading.Event(), 0

        def read() -> None:
            nonlocal received
            while not stopped.is_set():
                for key, _ in waiting.select(0.2):
                    received += len(key.fileobj.recv(65_536))  # type: ignore[union-attr] # a socket

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield
        finally:
            stopped.set()
            reader.join()
        assert received or not count, "the pages show nothing"


def publish(client: redis.Redis, values: list[bytes], rate: float) -> None:
    """Publish at a rate, or as fast as possible."""
    begun = time.perf_counter()
    for done in range(0, len(values), PART):
        pipe = client.pipeline(transaction=False)
        for value in values[done : done + PART]:
            pipe.xadd(SOURCE, {"data": value})
        pipe.execute()
        if rate:
            time.sleep(max(begun + (done + PART) / rate - time.perf_counter(), 0))


def round_of(
    client: redis.Redis, service: Service, pages: int, values: list[bytes], rate: float, cpu: list[float]
) -> float:
    """Return the rate of predictions, in events a second; add the worker's CPU time of an event, in µs."""
    with open_pages(service.at, pages):
        before, marks = service.cpu, []
        publisher = threading.Thread(target=publish, args=(client, values, rate), daemon=True)
        publisher.start()
        deadline = time.monotonic() + 300
        for share in (0.1, 0.9, 1.0):
            while (done := int(client.xlen(TARGET))) < share * len(values):
                assert time.monotonic() < deadline, "the predictions do not come"
                time.sleep(0.005)
            marks.append((time.perf_counter(), done))
        publisher.join()
        cpu.append(1e6 * (service.cpu - before) / len(values))
    for topic in (SOURCE, TARGET):
        client.xtrim(topic, maxlen=0, approximate=False)
    (begun, first), (ended, last), _ = marks
    return (last - first) / (ended - begun)


def paints(at: str, path: str, count: int, driver: Any) -> list[float]:
    """Return the milliseconds until something of a page is painted, so many times."""
    found: list[float] = []
    asked = "return performance.getEntriesByName('first-contentful-paint').map(one => one.startTime)"
    while len(found) < count:
        driver.execute_cdp_cmd("Network.clearBrowserCache", {})
        driver.get(f"http://{at}/{path}")
        deadline = time.monotonic() + 30
        while not (painted := driver.execute_script(asked)):
            assert time.monotonic() < deadline, "nothing is painted"
            time.sleep(0.02)
        found += painted
    return found


def report_paints(at: str, count: int) -> None:
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(programs):
        print("first paint: not measured, chromium and chromedriver are not installed")
        return
    from selenium import webdriver  # noqa: PLC0415 - the worker, which imports this module, needs none

    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(programs[1])))
    try:
        figures = {f"/{path}": paints(at, path, count, driver) for path in PATHS}
    finally:
        driver.quit()
    report("First paint, milliseconds", figures, "/", "ms")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pages", type=int, default=50)
    parser.add_argument("--rate", type=float, default=20_000.0, help="events a second; 0: all at once")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a round, at 20,000 events a second")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--paints", type=int, default=20)
    chosen = parser.parse_args()
    print(machine("eventml", "redis", "hiredis"))
    encode = msgspec.json.Encoder().encode
    values = [encode(ride) for ride in rides(int((chosen.rate or 20_000.0) * chosen.seconds))]
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer(settings={"appendonly": "no", "save": ""}))
        client = stack.enter_context(redis.Redis.from_url(server.url))
        service = stack.enter_context(Service(server.url, next(free_ports())))
        cpu: dict[str, list[float]] = {}

        def case(name: str, pages: int) -> Any:
            used = cpu.setdefault(name, [])
            return lambda: round_of(client, service, pages, values, chosen.rate, used)

        cases = {"no page": case("no page", 0), (name := f"{chosen.pages} pages"): case(name, chosen.pages)}
        figures = interleave(cases, chosen.rounds)
        load = f"{chosen.rate:,.0f} events/s" if chosen.rate else "as many events as it can handle"
        report(f"A worker on Redis, {load}", figures, "no page")
        warm = {name: used[-len(figures[name]) :] for name, used in cpu.items()}
        report("CPU time of the worker for an event", warm, "no page", "µs")
        slower = 1 - statistics.median(figures[name]) / statistics.median(figures["no page"])
        print(f"with {name} the rate falls by {slower:.2%}")
        if chosen.paints:
            report_paints(service.at, chosen.paints)


if __name__ == "__main__":
    main()
