"""The demo: its output, and equal predictions on every backend."""

from __future__ import annotations

import argparse
import json
import subprocess
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest
from rich.console import Console

from eventml.bus import create_topics
from eventml.records import Record
from examples.rides import demo
from examples.rides.app import bus
from examples.rides.folder import ENVIRONMENT
from examples.rides.generator import generate
from examples.rides.scoreboard import Scoreboard
from examples.rides.train import train

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


RIDES = 400


def test_json_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--json", "--events", str(RIDES), "--producers", "3", "--seed", "5"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"events", "seconds", "consumers", "models"}
    assert result["events"] == RIDES
    assert set(result["consumers"]) == {"duration", "tip", "alarm"}
    for name in ("duration", "tip"):
        consumer = result["consumers"][name]
        assert set(consumer) == {
            "received",
            "published",
            "dead_letters",
            "events_per_second",
            "p50_ms",
            "p99_ms",
        }
        assert (consumer["received"], consumer["published"], consumer["dead_letters"]) == (RIDES, RIDES, 0)
        model = result["models"][name]
        assert set(model) == {"version", "rmse", "baseline_rmse"}
        assert model["rmse"] < model["baseline_rmse"]


@pytest.mark.parametrize("rate", ["400", "2000"])
def test_a_paced_demo_ends_with_the_rates_of_the_whole_run(
    rate: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "console", Console(stderr=True, width=120))
    assert demo.main(["--events", str(RIDES), "--rate", rate, "--producers", "2"]) == 0
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert [line.strip() for line in lines].count("error on trips not trained on (RMSE)") == 1, (
        "a line of its own"
    )
    [duration] = [line.split() for line in lines if line.startswith("duration ") and "ms" in line]
    _, lag, in_flight, received, published, dead_letters, *_ = duration
    assert (lag, in_flight, dead_letters) == ("0", "0", "0")
    assert 0 < float(received.replace(",", "")) < 1.5 * float(rate)
    assert received == published
    assert f"published at {float(rate):,.0f} a second" in lines[-1]
    assert shown.out == "400 rides, 0 lost, 0 dead letters\n"


def test_bad_rides_become_dead_letters_of_both_predictors(capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--events",
        str(RIDES),
        "--rate",
        "0",
        "--bad",
        "50",
        "--workers",
        "2",
        "--backend",
        "memory://",
    ]
    assert demo.main(options) == 0
    shown = capsys.readouterr()
    assert shown.out == "400 rides, 0 lost, 8 dead letters\n"
    assert "no worker can be killed" in shown.err.replace("\n", " ")
    assert "Expected `float`, got `null` - at `$.trip_distance`" in shown.err


def test_lost_rides_are_counted() -> None:
    rides = generate(3, part="live")
    scoreboard = Scoreboard(rides)
    first, second, _ = rides.ride_ids()
    assert scoreboard.missing == 3
    for topic, name, number in (("rides.duration", "duration", "minutes"), ("rides.tip", "tip", "amount")):
        value = msgspec.json.encode({"ride_id": first, number: 1.0})
        scoreboard.add(Record(topic, value, id=f"{first}/{name}@1"))
    assert scoreboard.missing == 2
    scoreboard.add(Record("rides.duration", b'{"ride_id":"%s","minutes":1}' % second.encode(), id="x"))
    assert scoreboard.missing == 2, "the tip is missing"
    dead = {"eventml-dlq-group": "rides.tip", "eventml-dlq-message": "bad"}
    scoreboard.add(Record("rides.started.rides.tip.dlq", b"", id=second, headers=dead))
    assert scoreboard.missing == 1


@pytest.mark.parametrize("rate", ["-3", "nan", "inf", "fast"])
def test_an_impossible_rate_is_a_usage_error(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        demo.main([f"--rate={rate}"])
    assert caught.value.code == 2
    assert f"{rate} is not a number of rides a second" in capsys.readouterr().err


def test_impossible_rides_are_streamed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    past, live = tmp_path / "past.csv", tmp_path / "live.csv"
    header = "lpep_pickup_datetime,lpep_dropoff_datetime,PULocationID,DOLocationID,trip_distance,"
    header += "payment_type,fare_amount,tip_amount\n"
    good = [
        f"2019-01-{day:02} 08:00:00,2019-01-{day:02} 08:{10 + day % 7}:00,{day},9,{1 + day / 9},1,9,2\n"
        for day in range(1, 29)
    ]
    bad = "2019-02-01 08:00:00,2019-02-01 08:10:00,,7,2.5,1,9,2\n"  # without a pick-up zone
    past.write_text(header + "".join(good))
    live.write_text(header + "".join(good[:5]) + bad)
    assert demo.main(["--json", "--trips", str(past), str(live)]) == 0
    consumers = json.loads(capsys.readouterr().out)["consumers"]
    for name in ("duration", "tip"):
        counts = consumers[name]
        assert (counts["received"], counts["published"], counts["dead_letters"]) == (6, 5, 1)


def test_missing_file_of_trips_is_an_error_with_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(["--trips", str(tmp_path / "nowhere.csv")]) == 2
    assert "nowhere.csv" in capsys.readouterr().err.replace("\n", "")


@pytest.fixture(scope="module")
def in_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scoreboard]:
    """Predictions of the in-memory backend, to compare the other backends with."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("models")
        patch.setenv(ENVIRONMENT, str(folder))
        train(generate(5000), folder, trained_on="a test")
        yield predicted_on("memory://rides-demo")


def predicted_on(url: str) -> Scoreboard:
    bus.configure(bus.read_settings({"backend": url}))
    options = argparse.Namespace(json=True, rate=0, producers=2, bad=None, workers=None, backend=None)
    _, scoreboard = anyio.run(demo.stream, bus, generate(RIDES, part="live"), options)
    return scoreboard


def same(one: Scoreboard, other: Scoreboard) -> bool:
    return (one.predictions, one.ids, one.records) == (other.predictions, other.ids, other.records)


def test_memory_predicts_every_ride_once(in_memory: Scoreboard) -> None:
    assert in_memory.records == {"duration": RIDES, "tip": RIDES}
    assert len(in_memory.predictions["duration"]) == RIDES


def test_redis_gives_the_same_predictions_and_ids(in_memory: Scoreboard, start_redis: Any) -> None:
    assert same(predicted_on(start_redis().url), in_memory)


def test_kafka_gives_the_same_predictions_and_ids(in_memory: Scoreboard, kafka_broker: Any) -> None:
    assert same(predicted_on(kafka_broker.url), in_memory)


def test_foreign_redis_client_produces_rides_and_reads_predictions(
    in_memory: Scoreboard, start_redis: Any, foreign_client: Any
) -> None:
    server = start_redis()

    def cli(*words: str) -> str:
        command = [foreign_client("redis-cli"), "-u", server.url, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout  # noqa: S603 - ours

    ride = {
        "ride_id": "whole",
        "pickup_location_id": 132,
        "dropoff_location_id": 230,
        "trip_distance": 17.5,
        "pickup_datetime": "2019-06-01T08:30:00",
    }
    flat = [str(part) for pair in {**ride, "ride_id": "flat"}.items() for part in pair]
    entries = [
        cli("XADD", "rides.started", "*", "data", json.dumps(ride)).strip(),
        cli("XADD", "rides.started", "*", *flat).strip(),
    ]
    bus.configure(bus.read_settings({"backend": server.url}))
    assert anyio.run(run_until_idle)
    lines = cli("XRANGE", "rides.duration", "-", "+").splitlines()
    answers = [msgspec.json.decode(lines[i + 1]) for i, line in enumerate(lines) if line == "data"]
    ids = [lines[i + 1] for i, line in enumerate(lines) if line == "id"]
    assert [answer["ride_id"] for answer in answers] == ["whole", "flat"]
    assert answers[0]["minutes"] == answers[1]["minutes"] > 1
    assert [id_.split("/duration@")[0] for id_ in ids] == [f"rides.started/0/{entry}" for entry in entries]


def test_foreign_kafka_client_produces_a_ride_and_reads_the_prediction(
    in_memory: Scoreboard, kafka_broker: Any, foreign_client: Any
) -> None:
    kcat = [foreign_client("kcat"), "-b", kafka_broker.bootstrap, "-q"]
    ride = b'{"ride_id":"by kcat","pickup_location_id":132,"dropoff_location_id":230,"trip_distance":17.5,'
    ride += b'"pickup_datetime":"2019-06-01T08:30:00"}'
    bus.configure(bus.read_settings({"backend": kafka_broker.url}))
    anyio.run(make_topics)
    produce = [*kcat, "-P", "-t", "rides.started"]
    subprocess.run(produce, input=ride, check=True, timeout=30)  # noqa: S603 - ours
    assert anyio.run(run_until_idle)
    consume = [*kcat, "-C", "-t", "rides.duration", "-e", "-f", "%h %s\n"]
    read = subprocess.run(consume, check=True, capture_output=True, text=True, timeout=30)  # noqa: S603 - ours
    [answer] = [line for line in read.stdout.splitlines() if '"by kcat"' in line]
    assert "ce_specversion=1.0" in answer
    assert "ce_predictor=duration" in answer
    assert "ce_id=rides.started/" in answer


async def make_topics() -> None:
    async with bus:
        await create_topics(bus)


async def run_until_idle() -> bool:
    return await bus.run(until_idle=0.5)
