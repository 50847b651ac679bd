"""One bad event costs one event: the others of its batch are answered."""

from __future__ import annotations

import math
import secrets
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np
import pytest

from eventml import Reject
from tests.failures.intercepting import InterceptingBackend
from tests.failures.scenario import Duration, Ride, Scenario

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio

GOOD = [Ride(number, 1.0) for number in range(20)]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        pytest.param(b'{"ride_id": 7', "truncated", id="truncated"),
        pytest.param(b"", "truncated", id="empty"),
        pytest.param(b'{"ride_id": "seven", "miles": 1}', "Expected `int`, got `str`", id="wrong type"),
        pytest.param(b'{"ride_id": 7}', "missing required field `miles`", id="missing field"),
        pytest.param(b"[1, 2]", "Expected `object`, got `array`", id="other shape"),
        pytest.param(b"\xff\xfe\x00", "malformed", id="not text"),
        pytest.param(b'{"ride_id": 7, "miles": 1e999}', "out of range", id="huge number"),
        pytest.param(b"[" * 100_000, "", id="deeply nested"),
    ],
)
async def test_undecodable_record_is_a_dead_letter_whole_and_alone(
    scenario: Scenario, value: bytes, says: str
) -> None:
    @scenario.bus.predictor(scenario.topic, to=scenario.to)
    def duration(rides: list[Ride]) -> list[Duration]:
        return [Duration(ride.ride_id, ride.miles * 3) for ride in rides]

    await scenario.run([*GOOD[:10], value, *GOOD[10:]])
    scenario.check(answered=set(range(21)) - {10}, dead_letters={10})
    [letter] = scenario.dead_letters["10"]
    assert letter.value == value
    assert says in scenario.reason(10)
    assert letter.headers["eventml-dlq-group"] == f"{scenario.bus.name}.duration"
    assert letter.headers["eventml-dlq-exception"] == "DecodeError"


def _raises(ride: Ride) -> Any:
    raise KeyError("no such zone")


def _rejects(ride: Ride) -> Any:
    raise Reject("not a ride")


BAD_ANSWERS: list[Any] = [
    pytest.param(_raises, "KeyError", id="raises"),
    pytest.param(_rejects, "Reject: not a ride", id="rejects"),
    pytest.param(lambda ride: Duration(ride.ride_id, math.nan), "minutes is not a finite number", id="NaN"),
    pytest.param(lambda ride: Duration(ride.ride_id, -math.inf), "not a finite number", id="infinite"),
    pytest.param(lambda ride: Duration(ride.ride_id, cast("Any", "long")), "not a finite number", id="text"),
    pytest.param(lambda ride: ride, "returned a Ride where its annotation says Duration", id="wrong type"),
    pytest.param(lambda ride: Duration(cast("Any", object()), 1.0), "cannot encode", id="unencodable"),
]


STYLES = ["batch", "batch coroutine", "single", "single coroutine"]


@pytest.mark.parametrize(("answer", "says"), BAD_ANSWERS)
@pytest.mark.parametrize("style", STYLES)
async def test_event_that_its_handler_cannot_answer_is_a_dead_letter_alone(
    answer: Callable[[Ride], Any], says: str, style: str
) -> None:
    """Which answers are bad is decided before any backend is asked: in memory for all of them."""
    await _check_that_it_is_a_dead_letter_alone(
        Scenario(f"memory://{secrets.token_hex(4)}"), answer, says, style
    )


@pytest.mark.parametrize(
    ("style", "answer", "says"),
    [(style, *one.values) for style, one in zip(STYLES, BAD_ANSWERS, strict=False)],
    ids=STYLES,
)
async def test_such_an_event_is_a_dead_letter_on_every_backend(
    scenario: Scenario, answer: Callable[[Ride], Any], says: str, style: str
) -> None:
    await _check_that_it_is_a_dead_letter_alone(scenario, answer, says, style)


async def _check_that_it_is_a_dead_letter_alone(
    scenario: Scenario, answer: Callable[[Ride], Any], says: str, style: str
) -> None:
    def one(ride: Ride) -> Any:
        return answer(ride) if ride.ride_id == 13 else Duration(ride.ride_id, ride.miles)

    register = scenario.bus.predictor(scenario.topic, to=scenario.to, retries=1, backoff=0.001)
    register(_handler(style, one))
    await scenario.run(GOOD)
    scenario.check(answered=set(range(20)) - {13}, dead_letters={13})
    assert says in scenario.reason(13)
    assert scenario.dead_letters["13"][0].value == msgspec.json.encode(GOOD[13])


def _handler(style: str, one: Callable[[Ride], Any]) -> Callable[..., Any]:
    def batch(rides: list[Ride]) -> list[Duration]:
        return [one(ride) for ride in rides]

    async def batch_coroutine(rides: list[Ride]) -> list[Duration]:
        return [one(ride) for ride in rides]

    def single(ride: Ride) -> Duration:
        return one(ride)  # type: ignore[no-any-return]  # a mistake may return anything

    async def single_coroutine(ride: Ride) -> Duration:
        return one(ride)  # type: ignore[no-any-return]  # a mistake may return anything

    styles: dict[str, Callable[..., Any]] = {
        "batch": batch,
        "batch coroutine": batch_coroutine,
        "single": single,
        "single coroutine": single_coroutine,
    }
    return styles[style]


@pytest.mark.parametrize("short", [True, False], ids=["one too few", "one too many"])
async def test_wrong_number_of_predictions_is_never_zipped_short(scenario: Scenario, short: bool) -> None:
    @scenario.bus.predictor(scenario.topic, to=scenario.to, retries=0)
    def duration(rides: list[Ride]) -> list[Duration]:
        answers = [Duration(ride.ride_id, ride.miles) for ride in rides]
        if any(ride.ride_id == 4 for ride in rides):
            return answers[:-1] if short else [*answers, answers[0]]
        return answers

    await scenario.run(GOOD)
    scenario.check(answered=set(range(20)) - {4}, dead_letters={4})
    for number, [record] in scenario.outputs.items():
        assert msgspec.json.decode(record.value, type=Duration).ride_id == int(number)


async def test_nan_in_an_array_of_numbers_costs_its_own_event(scenario: Scenario) -> None:
    @scenario.bus.predictor(scenario.topic, to=scenario.to, retries=0)
    def minutes(rides: list[Ride]) -> np.ndarray[Any, Any]:
        return np.array([math.nan if ride.ride_id == 2 else ride.miles for ride in rides])

    await scenario.run(GOOD)
    scenario.check(answered=set(range(20)) - {2}, dead_letters={2})
    assert msgspec.json.decode(scenario.outputs["3"][0].value) == {"input": "3", "value": 1.0}


@pytest.mark.parametrize("bad", [{100}, {3, 100, 101, 255}, set(range(256))], ids=["one", "four", "all"])
async def test_bad_events_among_256_are_found_with_few_calls(scenario: Scenario, bad: set[int]) -> None:
    calls: list[int] = []

    @scenario.bus.predictor(scenario.topic, to=scenario.to, max_batch=256, retries=0, breaker_window=0)
    def duration(rides: list[Ride]) -> list[Duration]:
        calls.append(len(rides))
        if bad & {ride.ride_id for ride in rides}:
            raise ValueError("a bad one")
        return [Duration(ride.ride_id, ride.miles) for ride in rides]

    whole = partial(InterceptingBackend, at_least=256)
    await scenario.run([Ride(number, 1.0) for number in range(256)], wrap=whole)
    scenario.check(answered=set(range(256)) - bad, dead_letters=bad)
    assert calls[0] == 256
    if len(bad) == 1:
        assert len(calls) <= 17
    assert len(calls) <= 511


async def test_events_that_fail_once_are_answered(scenario: Scenario) -> None:
    failed: set[int] = set()

    @scenario.bus.predictor(scenario.topic, to=scenario.to, backoff=0.001)
    async def duration(ride: Ride) -> Duration:
        if ride.ride_id not in failed:
            failed.add(ride.ride_id)
            raise RuntimeError("not yet")
        return Duration(ride.ride_id, ride.miles)

    await scenario.run(GOOD)
    scenario.check(answered=set(range(20)), dead_letters=set())


async def test_infrastructure_failure_causes_no_dead_letters(scenario: Scenario) -> None:
    attempts = 0

    @scenario.bus.predictor(scenario.topic, to=scenario.to, backoff=0.01, retries=0, max_batch=8)
    def duration(rides: list[Ride]) -> list[Duration]:
        nonlocal attempts
        attempts += 1
        if attempts <= 6:
            raise ConnectionError("the database is down")
        return [Duration(ride.ride_id, ride.miles) for ride in rides]

    await scenario.run(GOOD)
    scenario.check(answered=set(range(20)), dead_letters=set())


async def test_retry_keeps_the_order_of_its_key_and_delays_no_other(scenario: Scenario) -> None:
    seen: list[int] = []
    failures = 0

    @scenario.bus.consumer(scenario.topic, backoff=0.05, retries=3)
    async def note(ride: Ride) -> None:
        nonlocal failures
        if ride.ride_id == 0 and failures < 2:
            failures += 1
            raise RuntimeError("not yet")
        seen.append(ride.ride_id)

    keys = [b"even" if number % 2 == 0 else b"odd" for number in range(20)]
    await scenario.run(GOOD, keys=keys)
    assert sorted(seen) == list(range(20))
    assert [number for number in seen if number % 2 == 0] == list(range(0, 20, 2))
    assert [number for number in seen if number % 2 == 1] == list(range(1, 20, 2))
    assert seen.index(1) < seen.index(0)


@pytest.mark.parametrize("style", ["single", "single coroutine"])
@pytest.mark.parametrize("retries", [0, 1])
async def test_events_behind_a_dead_letter_of_their_key_are_answered(
    scenario: Scenario, style: str, retries: int
) -> None:
    def one(ride: Ride) -> Any:
        if ride.ride_id in {3, 4, 9}:
            raise KeyError("no such zone")
        return Duration(ride.ride_id, ride.miles)

    register = scenario.bus.predictor(scenario.topic, to=scenario.to, retries=retries, backoff=0.001)
    register(_handler(style, one))
    await scenario.run(GOOD, keys=[b"zone-4"] * 20)
    scenario.check(answered=set(range(20)) - {3, 4, 9}, dead_letters={3, 4, 9})
