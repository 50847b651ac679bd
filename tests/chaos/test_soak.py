"""An hour of load, with a web service and batch jobs beside, while everything fails: `make soak`.

Nothing may be lost, repeated (but on Kafka at least once) or reordered (on Kafka), and memory, file handles
and threads stay where they are. A seed repeats the choice and the length of the faults (SOAK_SEED).
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

import httpx
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.chaos.conftest import BATCH, IN_FLIGHT, SECONDS, WORKERS
from tests.chaos.failover import sentinel_scene
from tests.chaos.faults import Clock, Fault, Workers, plan
from tests.chaos.history import check
from tests.chaos.scenes import kafka_scene, redis_scene
from tests.chaos.traffic import Traffic
from tests.deploy.service import Service, alive
from tests.web.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.chaos.faults import Step
    from tests.chaos.scenes import Scene

SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS") or max(SECONDS, 30))
SEED = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(1, 10**6))
TESTS = Path(__file__).parents[1]
MIB = 1 << 20
ROWS = 20_000
pytestmark = pytest.mark.timeout(SOAK_SECONDS + 900)


class Applied(NamedTuple):
    """A fault that happened, and when it began and ended."""

    fault: Fault
    began: float
    ended: float


class Usage(NamedTuple):
    """What a process uses: memory in MiB, file handles, threads."""

    memory: int
    handles: int
    threads: int


def usage(pid: int) -> Usage:
    process = Path(f"/proc/{pid}")
    resident = int((process / "statm").read_text().split()[1]) * 4096
    return Usage(
        resident // MIB, len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))
    )


def is_ready(service: Service) -> bool:
    return service.get("/readyz")[0] == 200


@pytest.mark.redis
def test_redis(tmp_path: Path, name: str) -> None:
    with redis_scene(tmp_path / "redis") as scene:
        soak("Redis", scene, tmp_path, name)


@pytest.mark.redis
def test_sentinel(tmp_path: Path, name: str) -> None:
    with sentinel_scene(tmp_path / "redis") as scene:
        soak("Redis with a Sentinel", scene, tmp_path, name)


@pytest.mark.kafka
@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_kafka(tmp_path: Path, name: str, delivery: str) -> None:
    with kafka_scene(tmp_path / "kafka", delivery) as scene:
        soak(f"Kafka, {delivery.replace('_', ' ')}", scene, tmp_path, name)


def soak(title: str, scene: Scene, folder: Path, name: str) -> None:  # noqa: PLR0915 - the run, from top to bottom
    print(f"\n{title}: {SOAK_SECONDS:g} s, SOAK_SEED={SEED}", flush=True)  # noqa: T201 - it is what the run is for
    journal = folder / "journal"
    journal.mkdir()
    clock = Clock(folder)
    traffic = Traffic(scene.url, scene.direct, name, journal, scene.rate)
    traffic.create()
    env = {
        "APP": name,
        "EVENTML_BACKEND": scene.url,
        "JOURNAL": str(journal),
        "MAX_BATCH": str(BATCH),
        **clock.env,
    }
    options = ("--workers", str(WORKERS), "--operations", "0")
    apps = TESTS / "chaos" / "apps"
    service = Service(folder / "service.log", *options, app="journal:bus", env=env, apps=apps)
    web = Server(folder / "web.log", "--workers", "2", "--operations", "0", app="doubling:bus", env={})
    try:
        for process in (service, web.process):
            process.until_logged("operations port: ")
            process.until(partial(is_ready, process), 180)
        workers = Workers(service, random.Random(SEED), scene.stopped)
        watched = {"worker": workers.eldest, "supervisor": service.pid, "web": web.process.pid}
        of_workers = [*workers.faults, *clock.faults(), kill_of(web)]
        of_broker = scene.faults(traffic.topic, random.Random(SEED + 1))
        applied: list[Applied] = []
        beside: Counter[str] = Counter()
        stop = Event()
        with ThreadPoolExecutor() as pool, traffic.running():
            try:
                if stop.wait(5):  # buffers fill
                    return
                before = {role: usage(pid) for role, pid in watched.items()}
                lanes = [
                    pool.submit(
                        fail, plan(of_workers, random.Random(SEED + 2), scene.worker_pauses), stop, applied
                    ),
                    pool.submit(fail, plan(of_broker, random.Random(SEED + 3), scene.pauses), stop, applied),
                    pool.submit(ask, web, stop, beside),
                    pool.submit(score, folder / "batch", stop, beside),
                ]
                end = time.monotonic() + SOAK_SECONDS
                while time.monotonic() < end and not any(lane.done() for lane in lanes):
                    assert alive(service.pid), service.text[-4000:]
                    time.sleep(0.2)
            finally:
                stop.set()
            for lane in lanes:
                lane.result()
            time.sleep(1)  # events after the last fault
        history = traffic.history()
        (folder / "history.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, history)))
        verdict = check(history, ordered=scene.ordered)
        after = {role: usage(pid) for role, pid in watched.items()}
        allowed = 0 if scene.exact else IN_FLIGHT * sum(fault.workers for fault, _, _ in applied)
        repeated = sum(verdict.repeated.values())
        facts: dict[str, object] = {
            "published": traffic.published,
            **Counter(f"publish {op.outcome}" for op in history if op.kind == "publish"),
            "lost": len(verdict.lost),
            "repeated": repeated,
            "reordered": len(verdict.reordered) if scene.ordered else "not promised",
            "dead letters": len(verdict.dead),
            **beside,
            "seed": SEED,
        }
        report(title, facts, applied, traffic.recoveries([one.ended for one in applied]), before, after)
        log = service.text
        faults = verdict._replace(repeated={} if repeated <= allowed else verdict.repeated)
        assert str(faults) == "valid"
        assert not verdict.dead, "no handler fails here, and no event kills a worker"
        assert not re.findall(r".*(?:has lost them|are lost).*", log), "nothing was lost"
        for role, early in before.items():
            late = after[role]
            assert late.memory <= early.memory + 24, (role, early, late)
            assert late.handles <= early.handles + 12, (role, early, late)
            assert late.threads <= early.threads + 8, (role, early, late)
        pids = [*service.workers, *web.process.workers]
        assert service.stop() == 0, log
        assert web.process.stop() == 0
        assert not any(map(alive, pids))
    finally:
        service.kill()
        web.kill()
        print(service.text[-4000:])  # noqa: T201 - shown where the test fails


def kill_of(web: Server) -> Fault:
    def kill() -> None:
        if pids := web.process.workers:
            os.kill(pids[0], signal.SIGKILL)

    return Fault("SIGKILL of a web worker", kill, workers=0)


def fail(steps: Iterator[Step], stop: Event, applied: list[Applied]) -> None:
    """Apply the faults of a plan one after the other."""
    for pause, fault, lasts in steps:
        if stop.wait(pause):
            return
        began = time.monotonic()
        try:
            fault.apply()
            stop.wait(lasts)
        finally:
            fault.undo()
        applied.append(Applied(fault, began, time.monotonic()))
        fault.settle()


def ask(web: Server, stop: Event, beside: Counter[str]) -> None:
    """Ask the web service for predictions; every answer must be right, and there must be one at the end."""
    number = 0
    with web.client() as client:
        while True:
            number += 1
            try:
                answer = client.post("/predict/double", json={"name": str(number), "number": number})
            except httpx.HTTPError:
                beside["web requests failed"] += 1  # its worker was killed
            else:
                assert answer.status_code == 200, answer.text
                assert answer.json()["prediction"] == {"name": str(number), "twice": 2.0 * number}
                beside["web requests answered"] += 1
                if stop.is_set():
                    return
            stop.wait(0.1)


def score(folder: Path, stop: Event, beside: Counter[str]) -> None:
    """Run batch jobs that are killed and run again; each must write every row once."""
    folder.mkdir()
    chance = random.Random(SEED + 4)
    rides = {
        "ride_id": [f"r-{n:07d}" for n in range(ROWS)],
        "zone": [1] * ROWS,
        "distance": [n / 10 for n in range(ROWS)],
    }
    pq.write_table(pa.table(rides), folder / "rides.parquet")
    while not stop.wait(min(15, SOAK_SECONDS / 10)):
        target = folder / f"out-{beside['batch jobs']}.parquet"
        if _score(folder, target, kill_after=chance.uniform(1, 6)):
            beside["batch jobs killed"] += 1
            assert not _score(folder, target, kill_after=120)
        assert pq.read_table(target)["id"].to_pylist() == rides["ride_id"]
        target.unlink()
        beside["batch jobs"] += 1


def _score(folder: Path, target: Path, kill_after: float) -> bool:
    """Run a job; return whether it was killed."""
    command = [sys.executable, "-m", "eventml", "score", "killed_app:slow", "--chunk", "1024"]
    path = os.pathsep.join([str(TESTS / "batch"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(  # noqa: S603 - our own command
        [*command, "--from", str(folder / "rides.parquet"), "--to", str(target)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "SLOW": "0.1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        _, errors = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    assert process.returncode == 0, errors
    return False


def report(
    title: str,
    facts: dict[str, object],
    applied: Sequence[Applied],
    recoveries: Sequence[float],
    before: dict[str, Usage],
    after: dict[str, Usage],
) -> None:
    """Print the table of results."""
    longest: dict[str, float] = {}
    for (fault, _, _), seconds in zip(applied, recoveries, strict=True):
        longest[fault.name] = max(longest.get(fault.name, 0.0), seconds)
    counts = Counter(one.fault.name for one in applied)
    lines = [f"| {title}, {SOAK_SECONDS:g} s | times | longest recovery |", "| --- | --- | --- |"]
    lines += [f"| {name} | {count} | {longest[name]:.1f} s |" for name, count in sorted(counts.items())]
    lines.append("; ".join(f"{what}: {value}" for what, value in facts.items()))
    for role, early in before.items():
        late = after[role]
        lines.append(
            f"{role}: {early.memory} -> {late.memory} MiB, {early.handles} -> {late.handles} handles, "
            f"{early.threads} -> {late.threads} threads"
        )
    print("\n".join(lines), flush=True)  # noqa: T201 - it is what the run is for
