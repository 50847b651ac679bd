"""The commands together, in processes of their own, over a broker that they share."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from backends.kafka.cluster import KafkaCluster
    from backends.redis.server import RedisServer
    from tests.cli.conftest import Start

APP = """
import msgspec
import eventml

bus = eventml.Bus("{name}")

class Ride(msgspec.Struct):
    ride: str
    distance: float

@bus.predictor("{name}.rides", to="{name}.minutes")
def minutes(rides: list[Ride]) -> list[dict]:
    return [{{"ride": ride.ride, "minutes": 3 * ride.distance}} for ride in rides]
"""


def eventml(*args: str, stdin: str = "", code: int = 0) -> str:
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "eventml", *args],
        check=False,
        capture_output=True,
        input=stdin,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def write_app(folder: Path) -> str:
    """Write an app whose name and topics no other test uses. Returns the name."""
    name = f"cli-{uuid4().hex[:8]}"
    (folder / "app.py").write_text(APP.format(name=name))
    return name


@pytest.fixture
def name(folder: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of an app on a Redis server."""
    monkeypatch.setenv("EVENTML_BACKEND", redis_server.url)
    return write_app(folder)


def test_publish_run_lag_and_tail(name: str) -> None:
    rides = "ride,distance\n" + "".join(f"r{n},{n}\n" for n in range(50)) + "bad,far\n"
    eventml("publish", f"{name}.rides", "--id", "ride", stdin=rides)
    [group] = json.loads(eventml("lag", "app:bus", "--json"))["groups"]
    assert group["lag"] in {None, 51}  # the consumer group does not exist yet
    eventml("run", "app:bus", "--until-idle", "0.2")
    [group] = json.loads(eventml("lag", "app:bus", "--json"))["groups"]
    assert group["lag"] == 0
    lines = eventml("tail", f"{name}.minutes", "--from", "earliest", "-n", "50").splitlines()
    found = {line["value"]["ride"]: (line["id"], line["value"]["minutes"]) for line in map(json.loads, lines)}
    assert found == {f"r{n}": (f"r{n}/minutes", 3.0 * n) for n in range(50)}
    assert len(eventml("tail", f"{name}.minutes", "--from", "1h", "--until-end").splitlines()) == 50
    assert eventml("tail", f"{name}.minutes", "--until", "1h") == ""
    report = json.loads(eventml("replay", "app:minutes", "--json"))
    [then, now] = report["models"]
    assert (report["events"], then["answered"], now["answered"]) == (51, 50, 50)
    assert (then["dead_letters"], now["dead_letters"]) == (1, 1)
    assert all(field["equal"] == 1.0 for field in report["comparison"]["fields"])
    [letter] = eventml(
        "tail", f"{name}.rides.{name}.minutes.dlq", "--from", "earliest", "-n", "1"
    ).splitlines()
    assert json.loads(letter)["value"] == {"ride": "bad", "distance": "far"}


def test_tail_prints_new_records_until_a_signal(name: str, start: Start) -> None:
    tail = start("tail", f"{name}.rides", "--from", "earliest")
    run = start("run", "app:bus")
    publish = start("publish", f"{name}.rides")
    assert publish.stdin is not None
    assert tail.stdout is not None
    for number in range(3):  # the pipe stays open: each line is published at once
        publish.stdin.write(f'{{"ride": "r{number}", "distance": 1}}\n')
        publish.stdin.flush()
        assert json.loads(tail.stdout.readline())["value"]["ride"] == f"r{number}"
    output, _ = publish.communicate(timeout=30)
    assert (publish.returncode, output) == (0, f"3 events published to {name}.rides\n")
    assert len(eventml("tail", f"{name}.minutes", "--from", "earliest", "-n", "3").splitlines()) == 3
    for process in (tail, run):
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0


def test_check_connects_to_redis(name: str) -> None:
    found = json.loads(eventml("check", "app:bus", "--connect", "--json"))
    assert (found["bus"], found["problems"]) == (name, [])
    assert found["guarantees"]["shared"] is True
    assert "needs no topics created" in eventml("topics", "create", "app:bus")


def test_topics_on_kafka_must_be_created_first(
    folder: Path, kafka_broker: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTML_BACKEND", kafka_broker.url)
    name = write_app(folder)
    [problem] = json.loads(eventml("check", "app:bus", "--connect", "--json", code=1))["problems"]
    assert f"these topics do not exist: {name}.minutes, {name}.rides" in problem
    eventml("run", "app:bus", code=1)
    created = json.loads(eventml("topics", "create", "app:bus", "--partitions", "2", "--json"))
    assert created["created"] == [f"{name}.minutes", f"{name}.rides", f"{name}.rides.{name}.minutes.dlq"]
    assert json.loads(eventml("check", "app:bus", "--connect", "--json"))["problems"] == []
    rides = "ride,distance\n" + "".join(f"r{n},{n}\n" for n in range(50))
    eventml("publish", f"{name}.rides", "--id", "ride", "--key", "ride", stdin=rides)
    eventml("run", "app:bus", "--until-idle", "0.2")
    [group] = json.loads(eventml("lag", "app:bus", "--json"))["groups"]
    assert (group["lag"], group["partitions"]) == (0, {"0": 0, "1": 0})
    lines = eventml("tail", f"{name}.minutes", "--from", "earliest", "-n", "50").splitlines()
    assert {json.loads(line)["id"] for line in lines} == {f"r{n}/minutes" for n in range(50)}
    report = json.loads(eventml("replay", "app:minutes", "--json"))
    assert (report["events"], report["comparison"]["pairs"]) == (50, 50)
    assert all(field["equal"] == 1.0 for field in report["comparison"]["fields"])
