"""Registering handlers: what is read from a function's annotations, and errors that say how to fix it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import msgspec
import pytest

from eventml import Bus, Delivery, RegistrationError, config
from eventml.errors import ConfigError
from eventml.testing import TestBus


class Ride(msgspec.Struct):
    ride_id: str


@pytest.fixture
def bus() -> Bus:
    return Bus("rides")


def test_decorator_returns_the_function_unchanged(bus: Bus) -> None:
    def duration(rides: list[Ride]) -> list[Ride]:
        return rides

    assert bus.predictor("rides.started", to="rides.duration")(duration) is duration


def test_a_declared_topic_is_not_the_name_of_a_topic(bus: Bus) -> None:
    started: Any = bus.topic("rides.started", event_type=Ride)
    with pytest.raises(RegistrationError, match=r"report: .* by its name, not by a Topic"):

        @bus.consumer(started)
        def report(ride: Ride) -> None: ...


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


def _two(ride: Ride, other: Ride) -> None: ...


def _positional(ride: Ride, model: Any, /) -> None: ...


def _delivery_by_position(ride: Ride, delivery: Delivery, /) -> None: ...


def _by_name(*, ride: Ride) -> None: ...


def _misspelt(ride: msgspec.Strukt) -> None: ...  # type: ignore[name-defined]


def _unreadable(ride: "list[Ride") -> None: ...  # type: ignore  # noqa: F722, PGH003


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
        pytest.param(
            _plain, {"carry": "x-request"}, "carry: expected a list of names of headers", id="carry of a text"
        ),
        pytest.param(_plain, {"carry": [1]}, r"not \(1,\)", id="carry of a number"),
        pytest.param(_plain, {"carry": 1}, "carry: expected a list", id="carry is a number"),
        pytest.param(_plain, {"carry": [""]}, "carry: expected a list", id="carry of an empty name"),
        pytest.param(
            _plain, {"retry_on": ValueError}, "retry_on: expected a list of exception", id="retry_on a class"
        ),
        pytest.param(
            _plain, {"retry_on": ["ValueError"]}, "retry_on: expected a list of exc", id="retry_on a text"
        ),
        pytest.param(
            _plain,
            {"retry_on": [ValueError()]},
            "retry_on: expected a list of exc",
            id="retry_on an instance",
        ),
        pytest.param(
            _plain, {"when_stale": asyncio.sleep}, "give a plain function", id="coroutine when_stale"
        ),
        pytest.param(
            _plain,
            {"when_stale": partial(asyncio.sleep, 1)},
            "give a plain function",
            id="partial of a coroutine",
        ),
        pytest.param(_plain, {"when_stale": _yields}, "not yield them", id="generator when_stale"),
        pytest.param(
            _plain,
            {"when_stale": lambda: None},
            "when_stale: it cannot be called with the event by position",
            id="when_stale of no argument",
        ),
        pytest.param(
            _plain,
            {"when_stale": _two},
            "when_stale: it cannot be called with the event by position",
            id="when_stale of two arguments",
        ),
        pytest.param(_positional, {"model": "m"}, r"others behind any /", id="positional-only model"),
        pytest.param(_delivery_by_position, {}, r"others behind any /", id="positional-only delivery"),
        pytest.param(_by_name, {}, r"event's parameter before any \*", id="keyword-only event"),
        pytest.param(
            _misspelt, {}, "AttributeError.*correct them", id="annotation without such an attribute"
        ),
        pytest.param(_unreadable, {}, "SyntaxError.*correct them", id="annotation that is no expression"),
        pytest.param(max, {}, "its signature cannot be read", id="builtin without a signature"),
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

    with pytest.raises(RegistrationError, match="at the top of the module, not in a function"):
        bus.consumer("t")(handler)


def test_lifespan_must_yield(bus: Bus) -> None:
    with pytest.raises(RegistrationError, match="a lifespan yields"):
        bus.lifespan(lambda: None)


def test_a_partial_as_a_lifespan_has_the_name_of_its_function(bus: Bus) -> None:
    def pool(size: int) -> Any:
        yield size

    bus.lifespan(partial(pool, 3))
    with bus.lifespans["pool"]() as entered:
        assert entered == 3


class Scorer:
    """A handler with a state of its own."""

    def __init__(self) -> None:
        self.rides: list[str] = []

    def __call__(self, rides: list[Ride], delivery: list[Delivery]) -> None:
        self.rides += [ride.ride_id for ride in rides]


class AsyncScorer(Scorer):
    async def __call__(self, ride: Ride) -> None:  # type: ignore[override]
        self.rides.append(ride.ride_id)


def _note(found: list[str], ride: Ride, model: str, *, suffix: str) -> None:
    found.append(f"{ride.ride_id}{model}{suffix}")


async def handled(bus: Bus) -> None:
    async with TestBus(bus) as test:
        await test.publish("rides", Ride("a"))
        await test.settle()
        assert not test.dead_letters()


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [Scorer, AsyncScorer])
async def test_an_instance_is_a_handler_by_its_call(bus: Bus, kind: type[Scorer]) -> None:
    scorer = kind()
    bus.consumer("rides")(scorer)
    handler = bus.handlers[kind.__name__]
    assert (handler.event_type, handler.batched) == (Ride, kind is Scorer)
    await handled(bus)
    assert scorer.rides == ["a"]


@pytest.mark.anyio
async def test_a_partial_is_a_handler_and_what_it_binds_is_not_looked_for(bus: Bus) -> None:
    found: list[str] = []
    bus.consumer("rides")(partial(_note, found, model="1", suffix="2"))
    assert bus.handlers["_note"].event_type is Ride
    await handled(bus)
    assert found == ["a12"]


@pytest.mark.anyio
async def test_an_optional_delivery_is_the_delivery(bus: Bus) -> None:
    found: list[str] = []

    @bus.consumer("rides", event_type=Ride)
    def note(ride: Any, delivery: Delivery | None = None) -> None:
        found.append("none" if delivery is None else delivery.topic)

    await handled(bus)
    assert found == ["rides"]


def test_an_annotation_local_to_a_function_may_be_replaced_by_the_event_type(bus: Bus) -> None:
    class Local(msgspec.Struct):
        name: str

    def handler(events: list[Local]) -> None: ...

    with pytest.raises(RegistrationError, match=r"annotate `list`.* and add event_type=\.\.\."):
        bus.consumer("t")(handler)

    def mended(events: list) -> None: ...  # type: ignore[type-arg]

    bus.consumer("t", event_type=Local)(mended)
    assert (bus.handlers["mended"].batched, bus.handlers["mended"].event_type) == (True, Local)


def test_concurrency_of_a_handler_of_batches_is_refused_from_settings_too(bus: Bus) -> None:
    @bus.consumer("t")
    def batch(rides: list[Ride]) -> None: ...

    for environ in {"EVENTML_CONSUMER_BATCH_CONCURRENCY": "1"}, {"EVENTML_CONSUMER_BATCH_CONCURRENCY": "8"}:
        bus.configure(config.load(environ=environ, known_handlers=["batch"]))
        if "1" in environ.values():
            assert bus.configured_handler("batch").concurrency == 1
        else:
            with pytest.raises(
                ConfigError, match=r"^consumer\.batch\.concurrency: it is for handlers of single"
            ):
                bus.configured_handler("batch")
