"""A stranger's first hour: what README and `eventml init` offer, from an empty folder, with each step's time.

    python -m tests.first_hour              installs the wheel and its extras from the package index
    python -m tests.first_hour --beside     installs the wheel beside the packages of this environment

The steps on Redis need a redis-server on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from redis import Redis

from backends.process import NotInstalledError, free_ports
from backends.redis.server import RedisServer
from tests.docs import wheel
from tests.docs.printed import ROOT, blocks_of

if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST_PREDICTION: Final = 180.0  # seconds, including the installation
LIMIT: Final = 600.0  # seconds for one command
PROJECT: Final = "ride_times"
EVENT: Final = {"ride_id": "r-1", "trip_distance": 4.2}


class Hour:
    """An empty folder, the programs of the installed wheel, and the time that each step took."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ: dict[str, str] = {}
        self.steps: list[tuple[str, float]] = []
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since the installation began."""
        return time.monotonic() - self.began

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step, and print it when it has succeeded."""
        start = time.monotonic()
        yield
        self.steps.append((name, time.monotonic() - start))
        print(f"{self.steps[-1][1]:7.1f} s  {name}", flush=True)  # noqa: T201 - a script

    def run(self, command: str, **variables: str) -> str:
        """Run a command in the folder and return its output. It must succeed."""
        done = subprocess.run(  # noqa: S603 - our own commands
            ["bash", "-ec", command],  # noqa: S607 - wherever it is
            cwd=self.folder,
            env={**self.environ, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def running(self, command: str, ready: str, **variables: str) -> Iterator[None]:
        """Run a service in the folder; it must log `ready`, and end with status 0 when it is stopped."""
        log = self.folder / "service.log"
        with log.open("wb") as output:
            service = subprocess.Popen(  # noqa: S603 - our own commands
                command.split(),
                cwd=self.folder,
                env={**self.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            deadline = time.monotonic() + LIMIT
            while ready not in log.read_text():
                assert service.poll() is None, f"{command}\n{log.read_text()}"
                assert time.monotonic() < deadline, f"{command}\n{log.read_text()}"
                time.sleep(0.05)
            yield
        finally:
            service.terminate()
            status = service.wait(LIMIT)
        assert status == 0, f"{command}\n{log.read_text()}"


def main(*, beside: bool) -> list[tuple[str, float]]:
    """Go through the hour, and return each step with its time in seconds."""
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as servers:
        folder = Path(temporary)
        hour = Hour(folder / "empty")
        hour.folder.mkdir()
        install(hour, folder, beside=beside)
        hour.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        readme(hour)
        try:
            redis = servers.enter_context(RedisServer()).url
        except NotInstalledError as exc:
            print(f"without Redis: {exc}")  # noqa: T201 - a script
            redis = ""
        if redis:
            with hour.step("a stream on Redis"):
                stream(hour, "rides:bus", "rides.duration", redis)
        with hour.step("web service: a prediction over HTTP, and its page"):
            serve(hour, "rides:bus", EVENT)
        with hour.step("batch job"):
            (hour.folder / "rides.csv").write_text("ride_id,trip_distance\nr-1,4.2\n")
            hour.run("eventml score rides:duration --from rides.csv --to minutes.csv --id ride_id")
            assert "r-1" in (hour.folder / "minutes.csv").read_text()
        if "init" in hour.run("eventml --help").split():
            project(hour, redis)
        return hour.steps


def install(hour: Hour, folder: Path, *, beside: bool) -> None:
    """Build the wheel, and install it."""
    with hour.step("build the wheel"):
        built = wheel.build_wheel(folder)
    hour.began = time.monotonic()  # a stranger finds the wheel on the index
    with hour.step("install it" + (" beside the packages of this environment" if beside else "")):
        if beside:
            programs = wheel.install_beside(built, folder / "venv")
        else:
            venv.create(folder / "venv", with_pip=True, symlinks=True)
            programs = folder / "venv" / "bin"
            extras = re.findall(
                r"^pip install 'eventml\[(.*)\]'$", (ROOT / "README.md").read_text(), re.MULTILINE
            )
            wanted = f"{built}[{extras[0]}]"
            command = [str(programs / "python"), "-m", "pip", "install", "--quiet", wanted, "pytest"]
            subprocess.run(command, check=True, timeout=LIMIT)  # noqa: S603 - our own command
    hour.environ = wheel.environment(programs)


def readme(hour: Hour) -> None:
    """Write the files of the README, and get the first prediction."""
    for block in blocks_of(ROOT / "README.md"):
        if block.file:
            (hour.folder / block.file).write_text(block.text)
    with hour.step("README: the first prediction, in memory"):
        assert "predicted: 18.8 minutes" in hour.run("python once.py")
    print(f"{hour.seconds:7.1f} s  from the install to the first prediction")  # noqa: T201 - a script
    assert hour.seconds < FIRST_PREDICTION


def stream(hour: Hour, bus: str, topic: str, redis: str, source: str = "") -> None:
    """Run a bus on Redis, publish an event or a file to it, and read a prediction."""
    backend = {"EVENTML_BACKEND": redis}
    publish = f"echo '{json.dumps(EVENT)}' | eventml publish rides.started"
    with hour.running(f"eventml run {bus}", " running ", **backend):
        hour.run(f"eventml publish rides.started {source} --for {bus}" if source else publish, **backend)
        predicted = json.loads(hour.run(f"eventml tail {topic} --from earliest -n 1", **backend))
    assert predicted["value"]["minutes"] > 0


def serve(hour: Hour, bus: str, event: Any) -> None:
    """Serve a bus, and send the event, or if it is None the example of the service's own document."""
    port = next(free_ports())
    url = f"http://127.0.0.1:{port}"
    with hour.running(f"eventml serve {bus} --port {port}", "serving on "):
        assert b"swagger-ui" in get(f"{url}/")
        if event is None:
            operation = json.loads(get(f"{url}/openapi.json"))["paths"]["/predict/duration"]["post"]
            event = operation["requestBody"]["content"]["application/json"]["example"]
        body, kind = json.dumps(event).encode(), {"content-type": "application/json"}
        answer = json.loads(get(urllib.request.Request(f"{url}/predict/duration", body, kind)))  # noqa: S310 - ours
        assert answer["prediction"]["minutes"] > 0


def get(request: str | urllib.request.Request) -> bytes:
    with urllib.request.urlopen(request, timeout=LIMIT) as answer:  # noqa: S310 - on this machine
        body: bytes = answer.read()
        return body


def project(hour: Hour, redis: str) -> None:
    """Go through the project that `eventml init` writes."""
    with hour.step("eventml init"):
        hour.run(f"eventml init {PROJECT} --with docker,kubernetes")
    hour.folder /= PROJECT
    with hour.step("project: train"):
        hour.run("python train.py")
    with hour.step("project: test"):
        hour.run("python -m pytest -q -p no:cacheprovider")
    with hour.step("project: check"):
        hour.run(f"eventml check {PROJECT}.app:bus")
    with hour.step("project: in memory"):
        hour.run("python simulate.py")
    if redis:
        with hour.step("project: on Redis"):
            with Redis.from_url(redis) as client:
                client.flushall()
            stream(hour, f"{PROJECT}.app:bus", "rides.duration", redis, "data/rides.csv")
    with hour.step("project: web service"):
        serve(hour, f"{PROJECT}.app:bus", None)
    with hour.step("project: batch job"):
        hour.run(f"eventml score {PROJECT}.app:duration --from data/rides.csv --to data/durations.csv")
    with hour.step("project: files of the image and of the cluster"):
        check_deployment(hour)


def check_deployment(hour: Hour) -> None:
    """Check that the image copies files that are there, and that the tools accept what is theirs."""
    copies = re.findall(r"^COPY (?!--from)(.*) \S+$", (hour.folder / "Dockerfile").read_text(), re.MULTILINE)
    for name in " ".join(copies).split():
        assert name.startswith("--") or list(hour.folder.glob(name.rstrip("/"))), f"Dockerfile: no {name}"
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    if hadolint := shutil.which("hadolint", path=beside):
        hour.run(f"{hadolint} Dockerfile")
    assert (hour.folder / "compose.yaml").exists()
    assert (hour.folder / "kubernetes" / "kustomization.yaml").exists()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beside", action="store_true")
    main(**vars(parser.parse_args()))
