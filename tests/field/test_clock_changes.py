"""A job that was scheduled for 04:30 in Berlin ran at 03:30 and 04:30 in autumn, and at 05:30 in spring."""

from __future__ import annotations

import itertools
import sys
import zoneinfo
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventml.cli import score
from eventml.cli.score import find_zone, next_times
from eventml.errors import ConfigError, TargetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import tzinfo
    from pathlib import Path

CHANGES: Final = {
    ("Europe/Berlin", "2025-03-30"),
    ("Europe/Berlin", "2025-10-26"),
    ("America/New_York", "2025-03-09"),
    ("America/New_York", "2025-11-02"),
    ("America/Sao_Paulo", "2018-11-04"),  # at midnight
    ("Australia/Lord_Howe", "2025-10-05"),  # by 30 minutes
    ("Australia/Lord_Howe", "2025-04-06"),
    ("Pacific/Apia", "2011-12-30"),  # a day that there was not
    ("Asia/Kolkata", "2025-03-30"),  # none
}
MINUTE: Final = timedelta(minutes=1)


def runs(expression: str, zone: str, day: str, days: int = 1) -> list[str]:
    """The runs on these days, as the zone's clock shows them, with its offset."""
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
    end = (start + timedelta(days=days)).astimezone(UTC)
    next_time = next_times(expression, ZoneInfo(zone))
    found, now = [], start - timedelta(seconds=1)
    while (now := next_time(now)).astimezone(UTC) < end:
        found.append(now.strftime("%d %H:%M %z"))
    return found


@pytest.mark.parametrize(
    ("expression", "zone", "day", "expected"),
    [
        ("30 4 * * *", "Europe/Berlin", "2025-03-30", ["30 04:30 +0200"]),
        ("30 4 * * *", "Europe/Berlin", "2025-10-26", ["26 04:30 +0100"]),
        ("30 2 * * *", "Europe/Berlin", "2025-03-30", ["30 03:00 +0200"]),
        ("30 2 * * *", "Europe/Berlin", "2025-10-26", ["26 02:30 +0200"]),
        ("0,30 2,3 * * *", "Europe/Berlin", "2025-03-30", ["30 03:00 +0200", "30 03:30 +0200"]),
        ("30 1 * * *", "America/New_York", "2025-11-02", ["02 01:30 -0400"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2025-04-06", ["06 01:45 +1100"]),
        ("15 2 * * *", "Australia/Lord_Howe", "2025-10-05", ["05 02:30 +1100"]),
        ("@daily", "America/Sao_Paulo", "2018-11-04", ["04 01:00 -0200"]),
        ("0 4 30 12 *", "Pacific/Apia", "2011-12-29", ["31 00:00 +1400"]),
    ],
)
def test_a_time_of_the_day_comes_once_a_day(
    expression: str, zone: str, day: str, expected: list[str]
) -> None:
    days = 3 if zone == "Pacific/Apia" else 1
    assert runs(expression, zone, day, days) == expected


def test_a_job_of_every_hour_follows_the_clock() -> None:
    spring = runs("0 * * * *", "Europe/Berlin", "2025-03-30")
    autumn = runs("0 * * * *", "Europe/Berlin", "2025-10-26")
    assert (len(spring), len(autumn)) == (23, 25)
    assert autumn[1:4] == ["26 01:00 +0200", "26 02:00 +0200", "26 02:00 +0100"]
    assert len(runs("*/15 * * * *", "Australia/Lord_Howe", "2025-04-06")) == 98


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(sorted(CHANGES)),
    st.sets(st.integers(0, 59), min_size=1, max_size=3),
    st.none() | st.sets(st.integers(0, 4) | st.integers(0, 23), min_size=1, max_size=3),
    st.integers(-(36 * 60), 36 * 60),
)
def test_the_next_run_is_that_of_a_clock_that_is_watched_each_minute(
    change: tuple[str, str], minutes: set[int], hours: set[int] | None, start: int
) -> None:
    name, day = change
    zone = ZoneInfo(name)
    begin = datetime.fromisoformat(day).replace(tzinfo=UTC) + start * MINUTE
    watched = [begin + n * MINUTE for n in range(-24 * 60, 2 * 24 * 60)]
    expected = [t for t in watch(watched, zone, minutes, hours) if t > begin]
    in_cron = ",".join(map(str, minutes)), "*" if hours is None else ",".join(map(str, hours))
    next_time = next_times(f"{in_cron[0]} {in_cron[1]} * * *", zone)
    found = [begin]
    for _ in expected:
        found.append(next_time(found[-1]).astimezone(UTC))
    assert found[1:] == expected
    assert all(before < after for before, after in itertools.pairwise(found))


def watch(
    times: Iterable[datetime], zone: tzinfo, minutes: set[int], hours: set[int] | None
) -> list[datetime]:
    """When a job runs, by looking at a zone's clock each minute."""
    found = []
    last = None  # what the clock showed last, and never showed before
    for time in times:
        shown = time.astimezone(zone).replace(tzinfo=None, fold=0)
        if hours is None:
            new = [shown]
        elif last is None:
            new, last = [], shown
        else:
            new = [last + n * MINUTE for n in range(1, (shown - last) // MINUTE + 1)]
            last = max(last, shown)
        if any(one.minute in minutes and (hours is None or one.hour in hours) for one in new):
            found.append(time)
    return found


def test_the_zone_is_that_of_the_option_else_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", ":America/New_York")
    assert find_zone(None) == ZoneInfo("America/New_York")
    assert find_zone("Europe/Berlin") == ZoneInfo("Europe/Berlin")
    monkeypatch.delenv("TZ")
    summer = datetime(2025, 7, 1, 12, tzinfo=UTC)
    assert summer.astimezone(find_zone(None)).utcoffset() == summer.astimezone().utcoffset()


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "../etc/passwd", "Europe", "CET-1CEST"])
def test_a_zone_that_is_not_known_is_refused(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=f"{zone}.*such as Europe/Berlin"):
        find_zone(zone)
    monkeypatch.setenv("TZ", zone)
    with pytest.raises(ConfigError, match="such as Europe/Berlin"):
        find_zone(None)


def test_an_image_without_time_zones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("tzdata", "tzdata.zoneinfo", "tzdata.zoneinfo.Europe"):
        monkeypatch.setitem(sys.modules, name, None)
    zoneinfo.reset_tzpath([str(tmp_path)])
    try:
        with pytest.raises(ConfigError, match="pip install tzdata"):
            find_zone("Europe/Vaduz")
        assert find_zone("UTC") is UTC
    finally:
        zoneinfo.reset_tzpath()


class Clock:
    """A clock that the test sets, in place of waiting; it notes the runs of a job."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, start: str) -> None:
        self.now = datetime.fromisoformat(start)
        self.runs: list[str] = []
        self.during: list[Callable[[], None]] = []
        self.waits: list[float] = []
        monkeypatch.setattr(score, "utc_now", lambda: self.now)
        monkeypatch.setattr(anyio, "move_on_after", self._wait)

    def _wait(self, seconds: float) -> Any:
        assert seconds > 0
        self.waits.append(seconds)
        self.now += timedelta(seconds=seconds)
        return anyio.CancelScope(deadline=-float("inf"))

    async def repeat(self, expression: str, count: int) -> list[str]:
        """Run a job by a schedule so often."""
        command: Any = object.__new__(score._Command)
        command._stop = anyio.Event()

        async def run() -> None:
            self.runs.append(self.now.strftime("%d %H:%M"))
            if len(self.runs) == count:
                command._stop.set()
            elif self.during:
                self.during.pop(0)()

        command._run = run
        assert await command._repeat(next_times(expression, UTC)) == 0
        return self.runs

    def set(self, time: str) -> None:
        self.now = datetime.fromisoformat(time)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch, "2025-05-01T04:00+00:00")


def test_a_clock_that_is_set_back_a_little_repeats_no_run(clock: Clock) -> None:
    clock.during = [lambda: clock.set("2025-05-01T04:29:30+00:00")]
    assert anyio.run(clock.repeat, "30 4 * * *", 2) == ["01 04:30", "02 04:30"]


def test_a_clock_that_was_days_ahead_does_not_stop_the_job(clock: Clock) -> None:
    clock.during = [lambda: clock.set("2025-04-20T04:00:00+00:00")]
    assert anyio.run(clock.repeat, "30 4 * * *", 2) == ["01 04:30", "20 04:30"]


def test_a_machine_that_slept_runs_the_job_within_a_minute(clock: Clock) -> None:
    anyio.run(clock.repeat, "30 4 * * *", 2)
    assert max(clock.waits) <= 60


def test_a_run_that_takes_longer_than_the_interval(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    clock.during = [lambda: clock.set("2025-05-01T04:50:00+00:00")]
    assert anyio.run(clock.repeat, "*/15 * * * *", 3) == ["01 04:15", "01 05:00", "01 05:15"]
    assert "longer than until the next one, which is skipped" in caplog.text


def test_a_run_that_fails_is_followed_by_the_next_one(clock: Clock) -> None:
    def fail() -> None:
        raise TargetError("the disk is full")

    clock.during = [fail]
    assert anyio.run(clock.repeat, "@daily", 2) == ["02 00:00", "03 00:00"]
