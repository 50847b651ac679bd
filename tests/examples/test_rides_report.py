"""What is made of the rides' predictions afterwards: a page with the worst of them, and an alarm."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sqlalchemy as sa

from eventml.testing import TestBus
from examples.rides import demo, export, report, watch
from examples.rides.folder import ENVIRONMENT
from examples.rides.generator import generate
from examples.rides.trips import ride_events

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from examples.monitoring.alarms import Crossing

RAISED: list[Crossing] = []


def record_alarm(crossings: Sequence[Crossing]) -> None:
    """Alarm function of these tests."""
    RAISED.extend(crossings)


ALARM = f"{__name__}:record_alarm"


@pytest.fixture(autouse=True)
def _models(rides_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(rides_models))
    RAISED.clear()


def test_demo_writes_a_report_with_the_errors_of_the_scoreboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    assert demo.main(["--json", "--events", "400", "--report", str(page)]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert f"{models['duration']['rmse']:.2f} minutes" in page.read_text()


@pytest.fixture
def predictions(tmp_path: Path) -> str:
    """A table as `eventml score` writes it: true values as predictions, except one with a large error."""
    trips = generate(500, part="live")
    minutes = np.where(trips.is_ride, trips.minutes, 1.0).tolist()
    minutes[7] += 90
    assert trips.is_ride[7]
    engine = sa.create_engine(f"sqlite:///{tmp_path}/scored.db")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE minutes (ride_id TEXT, minutes REAL)"))
        rows = [{"ride": r, "minutes": m} for r, m in zip(trips.ride_ids(), minutes, strict=True)]
        connection.execute(sa.text("INSERT INTO minutes VALUES (:ride, :minutes)"), rows)
    engine.dispose()
    return f"{engine.url}#minutes"


def test_report_of_a_table_shows_the_worst_error_first(predictions: str, tmp_path: Path) -> None:
    page = tmp_path / "pages" / "report.html"
    assert report.main(["--predictions", predictions, "--events", "500", "--to", str(page)]) == 0
    text = page.read_text()
    worst = text[text.index("Largest errors") :]
    assert worst.index("live-0-7<") < worst.index("<td>live-0-", worst.index("live-0-7<"))
    assert "<td>90</td>" in worst
    assert "No alarm" in text


def test_report_of_other_rides_raises_the_alarm(predictions: str, tmp_path: Path) -> None:
    header = (
        "pickup_datetime,dropoff_datetime,pickup_location_id,dropoff_location_id,trip_distance,tip_amount\n"
    )
    far = "2019-01-01 08:00:00,2019-01-01 09:30:00,132,265,45.5,0\n"
    trips = tmp_path / "far.csv"
    trips.write_text(header + far * 300)
    arguments = ["--predictions", predictions, "--trips", str(trips), "--to", str(tmp_path / "r.html")]
    assert report.main([*arguments, "--alarm", ALARM]) == 0
    assert {"trip_distance", "pickup zone", "dropoff zone"} <= {crossing.what for crossing in RAISED}
    for crossing in RAISED:
        assert crossing.message in (tmp_path / "r.html").read_text().replace("&#39;", "'")


def test_predictions_worse_than_the_baseline_raise_the_alarm() -> None:
    trips = generate(300, part="live")
    wrong = dict(zip(trips.ride_ids(), (100 - trips.minutes).tolist(), strict=True))
    right = dict(zip(trips.ride_ids(), trips.minutes.tolist(), strict=True))
    assert [crossing.what for crossing in report.examine(trips, wrong, "wrong").crossings] == ["RMSE"]
    assert report.examine(trips, right, "right").crossings == []


@pytest.mark.parametrize(
    "table", ["sqlite:///{}/scored.db#nothing", "nonsense", "sqlite:////nowhere/x.db#minutes"]
)
def test_missing_predictions_are_an_error_with_the_option(
    predictions: str, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main(["--predictions", table.format(tmp_path), "--to", str(tmp_path / "r.html")]) == 2
    assert "--predictions" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_export_writes_the_events_that_the_demo_streams(tmp_path: Path) -> None:
    assert export.main([str(tmp_path / "rides" / "rides.jsonl"), "--events", "50"]) == 0
    lines = (tmp_path / "rides" / "rides.jsonl").read_text().splitlines()
    expected = [{**ride, "pickup_datetime": ride["pickup_datetime"].isoformat()} for ride in live(50)]
    assert [json.loads(line) for line in lines] == expected


def live(count: int) -> list[dict[str, Any]]:
    return list(ride_events(generate(count, part="live")))


@pytest.mark.anyio
async def test_rides_like_the_training_sample_are_no_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(watch.ALARM, ALARM)
    async with TestBus(watch.bus, raise_failures=True) as t:
        await t.publish_many("rides.started", live(2 * watch.RIDES))
        assert t.published("rides.drift") == []
    assert RAISED == []


@pytest.mark.anyio
async def test_drift_is_an_event_and_an_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(watch.ALARM, ALARM)
    longer = [{**ride, "trip_distance": ride["trip_distance"] * 3} for ride in live(2 * watch.RIDES)]
    async with TestBus(watch.bus, raise_failures=True) as t:
        await t.publish_many("rides.started", longer)
        events = t.published("rides.drift")
    assert events
    assert {crossing.what for event in events for crossing in event.crossings} == {"trip_distance"}
    assert len(RAISED) == len(events)
