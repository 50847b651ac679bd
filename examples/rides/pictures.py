"""Makes the pictures of the docs: a recording of `eventml top`, and pages of the web service and the console.

Run it as `python -m examples.rides.pictures` after a change of what they show, with `top`, `web` or `console`
for some of them. It needs redis-server, chromium and chromedriver, on PATH. It takes some minutes.
"""

from __future__ import annotations

import io
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.request import urlopen

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from backends.process import free_ports
from backends.redis.server import RedisServer
from examples.rides.capture import BUS, EVENTML, is_ready, until
from examples.rides.recording import Frame, record, render, text

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGES = Path(__file__).parents[2] / "docs" / "images"
COLUMNS, LINES = 100, 22
AT_FIRST, AT_LAST = 4, 5
"""Seconds with all workers ready, before one is killed and after another has taken its place."""
WIDTHS = {1280: 900, 390: 844}
"""Widths of the browser and the heights that go with them."""
COLOURS = 64  # of a picture; a page has few


def record_top(env: dict[str, str], folder: Path) -> None:
    """Record a service of four workers, of which one is killed."""
    rides = folder / "rides.jsonl"
    export = [sys.executable, "-m", "examples.rides.export", str(rides), "--events", "90000"]
    subprocess.run(export, env=env, check=True)  # noqa: S603 - ours
    port = str(next(free_ports()))
    workers = ("--workers", "duration=2,tip=1,alarm=1", "--operations", port)
    publish = [*EVENTML, "publish", "rides.started", str(rides), "--rate", "1500"]
    top = [*EVENTML, "top", BUS, "--at", port]
    quiet = subprocess.DEVNULL
    with subprocess.Popen([*EVENTML, "run", BUS, *workers], env=env, stderr=quiet) as service:  # noqa: S603 - ours
        until(lambda: is_ready(port))

        killed = False

        def over(frames: list[Frame]) -> bool:
            nonlocal killed
            complete = ["4 of 4 workers ready" in text(frame) for frame in frames]
            if not killed and sum(complete) == AT_FIRST:
                children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
                os.kill(int(children[0]), signal.SIGKILL)
                killed = True
            return complete[-AT_LAST:] == [True] * AT_LAST and not all(complete[AT_FIRST:])

        with subprocess.Popen(publish, env=env, stderr=quiet, stdout=quiet) as publisher:  # noqa: S603 - ours
            frames = record(top, env, size=(COLUMNS, LINES), over=over)
            publisher.terminate()
        service.terminate()
    (IMAGES / "top.svg").write_text(render(frames, COLUMNS, "eventml top: one of four workers is killed"))


@contextmanager
def browser(folder: Path) -> Iterator[Any]:
    """Open a browser without a window."""
    options = webdriver.ChromeOptions()
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'chromium'}",
    ):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or ""
    with webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver"))) as opened:
        yield opened


def photograph(page: Any, url: str, name: str, text: str) -> None:
    """Take pictures of a page once it has a text, in two widths and two themes."""
    for width, height in WIDTHS.items():
        for theme in ("light", "dark"):
            feature = {"name": "prefers-color-scheme", "value": theme}
            page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            page.get(url)
            WebDriverWait(page, 20).until(lambda page: text in page.page_source)
            picture = Image.open(io.BytesIO(page.get_screenshot_as_png())).convert("RGB")
            picture.quantize(COLOURS).save(IMAGES / f"{name}-{width}-{theme}.png", optimize=True)


def photograph_web(env: dict[str, str], folder: Path) -> None:
    """Take pictures of the page of the web service."""
    port = next(free_ports())
    serve = [*EVENTML, "serve", BUS, "--port", str(port)]
    with subprocess.Popen(serve, env=env, stderr=subprocess.DEVNULL) as service, browser(folder) as page:  # noqa: S603 - ours
        url = f"http://127.0.0.1:{port}"
        until(lambda: answers(f"{url}/readyz"))
        photograph(page, f"{url}/docs", "web-docs", "/predict/duration")
        service.terminate()


def photograph_console(env: dict[str, str], folder: Path) -> None:
    """Take pictures of the console of a service that gets bad rides and loses a worker."""
    rides, token = folder / "console.jsonl", secrets.token_hex(8)
    export = [sys.executable, "-m", "examples.rides.export", str(rides), "--events", "240000"]
    subprocess.run(export, env=env, check=True)  # noqa: S603 - ours
    port = str(next(free_ports()))
    run = [*EVENTML, "run", BUS, "--workers", "2", "--operations", port]
    publish = [*EVENTML, "publish", "rides.started", "--id", "ride_id"]
    steady = [*publish, str(rides), "--rate", "1500"]
    bad = b"".join(b'{"ride_id": "r-%d"}\n' % number for number in range(40))
    quiet, url = subprocess.DEVNULL, f"http://127.0.0.1:{port}"
    with (
        subprocess.Popen(run, env=env | {"EVENTML_TOKEN": token}, stderr=quiet) as service,  # noqa: S603 - ours
        browser(folder) as page,
    ):
        until(lambda: is_ready(port))
        with subprocess.Popen(steady, env=env, stderr=quiet, stdout=quiet) as publisher:  # noqa: S603 - ours
            time.sleep(40)
            subprocess.run(publish, env=env, check=True, capture_output=True, input=bad)  # noqa: S603 - ours
            children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
            os.kill(int(children[0]), signal.SIGKILL)
            time.sleep(40)
            page.get(url)
            time.sleep(15)  # the dead letters are counted once somebody looks
            photograph(page, url, "console", "dead letters")
            page.get(f"{url}/dead-letters")
            page.find_element(By.NAME, "token").send_keys(token)
            page.find_element(By.CSS_SELECTOR, "main form button").click()
            photograph(page, f"{url}/dead-letters", "console-dead-letters", "Dead letters by cause")
            publisher.terminate()
        service.terminate()


def answers(url: str) -> bool:
    """Return whether a URL answers with status 200."""
    try:
        with urlopen(url) as answer:  # noqa: S310 - ours
            return bool(answer.status == 200)
    except OSError:
        return False


PICTURES: Final = {"top": record_top, "web": photograph_web, "console": photograph_console}


def main() -> None:
    """Make all pictures, or those that are named."""
    IMAGES.mkdir(exist_ok=True)
    with RedisServer() as server, tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "EVENTML_BACKEND": server.url, "RIDES_MODELS": str(Path(folder, "models"))}
        subprocess.run([sys.executable, "-m", "examples.rides.train"], env=env, check=True)
        for name in sys.argv[1:] or PICTURES:
            PICTURES[name](env, Path(folder))


if __name__ == "__main__":
    main()
