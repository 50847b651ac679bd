"""Registering handlers: what is read from a function's annotations, and errors that say how to fix it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from eventml import Bus, RegistrationError


class Ride(msgspec.Struct):
    ride_id: str


@pytest.fixture
def bus() -> Bus:
    return Bus("rides")


def test_decorator_returns_the_function_unchanged(bus: Bus) -> None:
    def duration(rides: list[Ride]) -> list[Ride]:
        return rides

    assert bus.predictor("rides.started", to="rides.duration")(duration) is duration


def test_annotations_choose_batches_or_single_events_and_threads_or_coroutines(bus: Bus) -> None:
    @bus.consumer("t")
    def batch(rides: list[Ride]) -> None: ...

    @bus.consumer("t")
    def single(ride: Ride) -> None: ...

    @bus.consumer("t")
    async def coroutine(ride: Ride) -> None: ...

    @bus.consumer("t")
    def unannotated(ride) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001 - that is the case

    found = {name: (h.batched, h.is_async, h.event_type) for name, h in bus.handlers.items()}
    assert found == {
        "batch": (True, False, Ride),
        "single": (False, False, Ride),
        "coroutine": (False, True, Ride),
        "unannotated": (False, False, Any),
    }


def test_default_group_is_the_bus_and_the_handler(bus: Bus) -> None:
    @bus.consumer("t")
    def audit(ride: Ride) -> None: ...

    @bus.consumer("t", group="mine")
    def other(ride: Ride) -> None: ...

    assert bus.handlers["audit"].options.group == "rides.audit"
    assert bus.handlers["other"].options.group == "mine"


def _no_parameter() -> None: ...


def _yields(ride: Ride) -> Any:
    yield ride


def _takes_model(ride: Ride, model: Any) -> None: ...


def _plain(ride: Ride) -> None: ...


def _returns(ride: Ride) -> Ride:
    return ride


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        pytest.param(_no_parameter, {}, "first parameter takes the event", id="no parameter"),
        pytest.param(_yields, {}, "not yield them", id="generator"),
        pytest.param(_takes_model, {}, 'model="path/to/model.skops"', id="model parameter without a model"),
        pytest.param(
            _plain, {"model": "m.skops"}, "no parameter named 'model'", id="model without a model parameter"
        ),
        pytest.param(_returns, {}, "a consumer has no output", id="consumer with an output"),
        pytest.param(
            _plain,
            {"max_batch": 0},
            "max_batch: expected `int` >= 1",
            id="max_batch below its minimum",
        ),
        pytest.param(_plain, {"timeout": 0.0}, "timeout: expected `float` > 0.0", id="timeout of zero"),
        pytest.param(_plain, {"max_bacth": 3}, "max_bacth", id="unknown option"),
    ],
)
def test_a_function_and_arguments_that_do_not_fit_are_refused(
    bus: Bus, function: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(RegistrationError, match=message) as caught:
        bus.consumer("t", **arguments)(function)
    assert function.__name__ in str(caught.value)


def test_two_handlers_with_one_name_are_refused(bus: Bus) -> None:
    bus.consumer("t")(_plain)
    with pytest.raises(RegistrationError, match="two handlers have this name"):
        bus.consumer("u")(_plain)


def test_an_annotation_that_cannot_be_resolved_is_refused(bus: Bus) -> None:
    def handler(ride: Unknown) -> None: ...  # type: ignore[name-defined]  # noqa: F821 - that is the case

    with pytest.raises(RegistrationError, match="import the event's type where"):
        bus.consumer("t")(handler)


def test_lifespan_must_yield(bus: Bus) -> None:
    with pytest.raises(RegistrationError, match="a lifespan yields"):
        bus.lifespan(lambda: None)
