"""The option `start` as a time or an age: what it may be, where it may be set, and what it does."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from eventml import Bus, RegistrationError
from eventml.backends import memory
from eventml.config import load
from eventml.errors import UnsupportedError
from eventml.handler_options import HandlerOptions
from eventml.runtime import check_capabilities
from eventml.times import start_at
from tests.failures.scenario import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.failures.scenario import Scenario

MORNING = datetime(2026, 1, 5, 8, tzinfo=UTC)
REFUSED: tuple[Any, ...] = (
    "yesterday",
    "1 hour",
    datetime(2026, 1, 5),  # noqa: DTZ001 - refused for that
    "2026-01-05T08:00",
    datetime(2099, 1, 1, tzinfo=UTC),
    timedelta(seconds=-1),
    date(2026, 1, 5),
    3600,
    None,
)


@pytest.mark.parametrize("start", REFUSED, ids=str)
def test_no_start_is_refused_at_registration(start: Any) -> None:
    with pytest.raises(
        RegistrationError, match=r"^see: start: expected \"earliest\", \"latest\", a past time"
    ):

        @Bus("app").consumer("numbers", start=start)
        def see(number: int) -> None: ...


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("latest", "latest"),
        ("2026-01-05T08:00:00Z", MORNING),
        ("2026-01-05T08:00+00:00", MORNING),
        ("PT1H30M", timedelta(minutes=90)),
        ("P1D", timedelta(days=1)),
        ("90s", timedelta(seconds=90)),
        ("1.5h", timedelta(minutes=90)),
        ("1h30m", timedelta(minutes=90)),
        ("2d", timedelta(days=2)),
    ],
)
def test_settings_say_it_as_the_command_line_does(
    tmp_path: Path, monkeypatch: Any, text: str, start: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eventml.toml").write_text(f'[consumer.a]\nstart = "{text}"')
    found = load(environ={"EVENTML_CONSUMER_B_START": text}, known_handlers=("a", "b"))
    assert found.consumer == {"a": {"start": start}, "b": {"start": start}}
    assert structs.replace(HandlerOptions(group="g"), start=start).start == start


def test_a_datetime_of_toml_is_one(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eventml.toml").write_text("[consumer.a]\nstart = 2026-01-05T09:00:00+01:00")
    assert load(environ={}).consumer == {"a": {"start": MORNING}}


@given(
    st.datetimes(datetime(1970, 1, 2), datetime(2026, 1, 1)),  # noqa: DTZ001 - the zone is drawn
    st.integers(-14, 14),
)
def test_zones_are_kept(moment: datetime, hours: int) -> None:
    zoned = moment.replace(tzinfo=timezone(timedelta(hours=hours)))
    assert start_at(zoned) == zoned.timestamp()


def test_a_backend_that_cannot_start_at_a_time_refuses_the_handler() -> None:
    bus = Bus("app")

    @bus.consumer("numbers", start=timedelta(hours=1))
    def see(number: int) -> None: ...

    able = memory.capabilities(memory.Settings())
    check_capabilities(bus.handlers["see"], able)
    with pytest.raises(UnsupportedError, match=r"consumer\.see\.start: this backend cannot start at a time"):
        check_capabilities(bus.handlers["see"], structs.replace(able, start_at_time=False))


@pytest.mark.anyio
async def test_an_age_counts_from_when_the_group_is_created_and_only_then(scenario: Scenario) -> None:
    bus, seen = scenario.bus, list[int]()

    @bus.consumer(scenario.topic, start=timedelta(seconds=0.5))
    def see(number: int) -> None:
        seen.append(number)

    @bus.consumer(scenario.topic, start=datetime.now(UTC) - timedelta(hours=1))
    def all_of_them(number: int) -> None: ...

    async with scenario.connect() as backend:
        async with bus.open(backend):
            await bus.publish(scenario.topic, 1)
            await anyio.sleep(0.7)
            await bus.publish(scenario.topic, 2)
        async with scenario.working(backend) as worker:
            await until(lambda: worker.stats["all_of_them"].completed == 2 and len(seen) == 1)
        async with bus.open(backend):
            await bus.publish(scenario.topic, 3)
        await anyio.sleep(0.7)
        async with scenario.working(backend) as worker:
            await until(lambda: worker.stats["all_of_them"].completed == 1 and len(seen) == 2)
    assert seen == [2, 3]


@pytest.mark.anyio
async def test_a_topic_is_read_from_a_time_to_its_end(scenario: Scenario) -> None:
    bus = scenario.bus
    async with scenario.connect() as backend, bus.open(backend):
        await bus.publish_many(scenario.topic, range(700))
        await anyio.sleep(0.01)
        middle = datetime.now(UTC)
        await bus.publish_many(scenario.topic, range(700, 800))
        with anyio.fail_after(30):
            for limits, wanted in (
                ({"until": "end"}, range(800)),
                ({"start": middle, "until": "end"}, range(700, 800)),
                ({"until": middle}, range(700)),
                ({"start": "latest", "until": "end"}, range(0)),
            ):
                found = [delivery.event async for delivery in bus.read(scenario.topic, **limits)]
                assert sorted(found) == [*wanted]
        assert [delivery async for delivery in bus.read(scenario.to, until="end")] == []
