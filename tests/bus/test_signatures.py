"""Signatures for type checkers agree with those at run time; errors of `Bus.asgi`."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np
import pytest

from eventml import BlockingProducer, Bus
from eventml.errors import MissingExtraError, RegistrationError
from eventml.handler_options import HandlerArguments, HandlerOptions
from eventml.producer import Producer
from eventml.testing import TestBus

if TYPE_CHECKING:
    from sklearn.linear_model import Ridge

    from examples.rides.events import RideStarted as Ride


def test_the_decorators_arguments_are_the_handler_options() -> None:
    arguments, options = get_type_hints(HandlerArguments), get_type_hints(HandlerOptions)
    for name in ("name", "event_type", "output_type"):
        del arguments[name]
    assert arguments.keys() == options.keys()
    for name in arguments.keys() - {"retry_on", "carry"}:  # sequences there, tuples here
        assert arguments[name] == options[name], name


@pytest.mark.parametrize("kind", [Bus, BlockingProducer, TestBus])
@pytest.mark.parametrize("name", ["publish", "publish_many", "request"])
def test_what_is_passed_on_to_a_producer_has_its_signature(kind: type, name: str) -> None:
    if (kind, name) != (TestBus, "request"):
        assert inspect.signature(getattr(kind, name)) == inspect.signature(getattr(Producer, name))


def test_the_type_of_the_model_may_be_imported_for_type_checkers_only() -> None:
    bus = Bus("rides")

    @bus.predictor("rides.started", to="rides.duration", model=list)
    def duration(rides: list[int], model: Ridge) -> list[float]:
        return [2.0 * ride for ride in rides]

    assert bus.handlers["duration"].event_type is int


def test_the_type_of_an_event_may_not() -> None:
    with pytest.raises(RegistrationError, match=r"name .Ride. is not defined.* not under TYPE_CHECKING"):

        @Bus("rides").predictor("rides.started", to="rides.duration", model=list)
        def duration(rides: list[Ride], model: Ridge) -> list[float]:
            return []


def test_nor_that_of_an_event_named_model() -> None:
    with pytest.raises(RegistrationError, match=r"name .Ride. is not defined"):

        @Bus("rides").predictor("rides.started", to="rides.duration")
        def duration(model: Ride) -> float:
            return 1.0


@pytest.mark.anyio
async def test_the_outputs_of_such_a_handler_are_known() -> None:
    bus = Bus("rides")

    @bus.predictor("rides.started", to="rides.duration", model=list)
    def duration(rides: list[int], model: Ridge) -> np.ndarray[Any, Any]:
        return np.array(rides) * 2.0

    async with TestBus(bus, models={"duration": object()}) as test:
        await test.publish("rides.started", 3)
        assert test.published("rides.duration")[0].value == 6.0


@pytest.mark.anyio
async def test_an_unknown_option_of_publish_is_refused() -> None:
    async with Bus("rides") as bus:
        with pytest.raises(TypeError, match="keys"):
            await bus.publish("t", {}, keys="k")  # type: ignore[call-arg]  # that is the case


def test_asgi_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the module of the deployment imports what is not installed."""
    monkeypatch.setitem(sys.modules, "starlette.requests", None)
    for name in [name for name in sys.modules if name.startswith("eventml.deploy.web")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match=r"pip install 'eventml\[web\]'"):
        Bus("rides").asgi()
