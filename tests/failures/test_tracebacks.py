"""The traceback in a dead letter."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from eventml.errors import DecodeError
from eventml.runtime.failures.exceptions import summarise_traceback
from tests.failures.scenario import Duration, Ride, Scenario

ZONES: dict[int, float] = {}


def look_up(ride: Ride) -> float:
    return ZONES[ride.ride_id]


def deeper(levels: int) -> None:
    if levels:
        deeper(levels - 1)
    raise ValueError("deep")


def error_of(function: Any, *args: Any) -> Exception:
    try:
        function(*args)
    except Exception as exc:  # noqa: BLE001 - any will do
        return exc
    raise AssertionError("it did not fail")


@pytest.mark.anyio
@pytest.mark.parametrize("style", ["batch", "single", "single, with a timeout", "coroutine"])
async def test_dead_letter_has_the_frames_of_the_handler_and_none_of_the_library(style: str) -> None:
    scenario = Scenario("memory://traces")

    def batch(rides: list[Ride]) -> list[Duration]:
        return [Duration(ride.ride_id, look_up(ride)) for ride in rides]

    def single(ride: Ride) -> Duration:
        return Duration(ride.ride_id, look_up(ride))

    async def coroutine(ride: Ride) -> Duration:
        await anyio.lowlevel.checkpoint()
        return Duration(ride.ride_id, look_up(ride))

    function: Any = {"batch": batch, "coroutine": coroutine}.get(style, single)
    timeout = 10.0 if "timeout" in style else None
    scenario.bus.predictor(scenario.topic, to=scenario.to, retries=1, backoff=0.0, timeout=timeout)(function)
    await scenario.run([Ride(0, 1.0)])
    [letter] = scenario.dead_letters["0"]
    lines = letter.headers["eventml-dlq-traceback"].splitlines()
    assert [line.partition(":")[0] for line in lines] == [__name__] * len(lines)
    assert f" in {function.__name__}: " in lines[0]
    assert lines[-1].endswith(" in look_up: return ZONES[ride.ride_id]")


def test_an_error_that_no_handler_raised_has_no_traceback() -> None:
    assert summarise_traceback(DecodeError("bad"), 1_000) == ""


def test_a_deep_stack_keeps_its_ends() -> None:
    lines = summarise_traceback(error_of(deeper, 50), 1_000).splitlines()
    assert lines[0].endswith("in error_of: function(*args)")
    assert lines[1] == "…"
    assert lines[-1].endswith('in deeper: raise ValueError("deep")')
    assert len(lines) <= 7


def test_a_traceback_that_is_too_long_keeps_its_end() -> None:
    text = summarise_traceback(error_of(deeper, 3), 60)
    assert len(text) == 60
    assert text.startswith("…")
    assert text.endswith('raise ValueError("deep")')
