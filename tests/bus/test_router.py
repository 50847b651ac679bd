"""Routers: handlers of several modules on one bus, clashes of names, and defining a handler again."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from eventml import Bus, RegistrationError, Router
from eventml.testing import TestBus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path


class Ride(msgspec.Struct):
    ride_id: str


class Trip(msgspec.Struct):
    ride_id: str


def _router(name: str = "duration") -> Router:
    router = Router()

    @router.consumer("rides.started", name=name)
    def handler(ride: Ride, database: list[str]) -> None:
        database.append(ride.ride_id)

    return router


def _database() -> Iterator[list[str]]:
    yield []


def _named(name: str, factory: Callable[..., Any], module: str = "__main__") -> Any:
    factory.__name__ = factory.__qualname__ = name
    factory.__module__ = module
    return factory


@pytest.fixture
def _interactive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)


@pytest.mark.anyio
async def test_handlers_lifespans_and_topics_of_a_router_are_those_of_the_bus() -> None:
    router = _router()
    router.topic("rides.started", event_type=Ride, id_field="ride_id")
    stored: list[str] = []

    @router.lifespan
    async def database() -> AsyncIterator[list[str]]:
        yield stored

    bus = Bus("rides")
    bus.include(router)
    assert bus.topics == router.topics
    assert bus.handlers["duration"].options.group == "rides.duration"
    async with TestBus(bus) as t:
        await t.publish("rides.started", Ride("r1"))
        assert t.records("rides.started")[0].id == "r1"
    assert stored == ["r1"]


def test_modules_with_handlers_need_not_import_the_bus(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    handlers = (
        "import eventml\nrouter = eventml.Router()\n\n"
        "@router.consumer('t')\ndef {0}(event: dict) -> None: ...\n"
    )
    for name in ("orders", "returns"):
        (tmp_path / "shop" / f"{name}.py").write_text(handlers.format(name))
    (tmp_path / "shop" / "app.py").write_text(
        "import eventml\nfrom shop import orders, returns\n"
        "bus = eventml.Bus('shop')\nbus.include(orders.router)\nbus.include(returns.router)\n"
    )
    code = "from eventml.bus import import_bus; print(*import_bus('shop.app:bus').handlers)"
    found = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["orders", "returns"]


def test_a_router_may_be_included_by_several_buses_and_by_routers() -> None:
    inner, outer, first, second = _router(), Router(), Bus("first"), Bus("second")
    outer.include(inner)
    for bus in (first, second):
        bus.include(outer)
        bus.include(outer)
    groups = [bus.handlers["duration"].options.group for bus in (first, second)]
    assert groups == ["first.duration", "second.duration"]


def test_a_router_that_two_others_include_is_registered_once() -> None:
    inner, first, second, bus = _router(), Router(), Router(), Bus("rides")
    bus.include(first)
    for outer in (first, second):
        outer.include(inner)
    bus.include(second)
    inner.consumer("t", name="late")(lambda event: None)
    assert list(bus.handlers) == ["duration", "late"]


def test_an_include_that_failed_fails_again_for_the_same_reason() -> None:
    inner, outer, bus = _router(), Router(), Bus("rides")
    inner.consumer("t", name="tip")(lambda event: None)
    bus.consumer("t", name="tip")(lambda event: None)
    bus.include(outer)
    for including, included in ((bus, inner), (outer, inner)):
        for _ in range(2):
            with pytest.raises(RegistrationError, match="tip: two handlers have this name"):
                including.include(included)


def test_routers_do_not_include_each_other() -> None:
    first, second, third = _router(), Router(), Router()
    second.include(first)
    third.include(second)
    with pytest.raises(RegistrationError, match="not itself or one that includes it"):
        first.include(third)
    assert third.handlers.keys() == {"duration"}


def test_what_is_registered_after_the_router_was_included_is_not_lost() -> None:
    inner, outer, bus = Router(), Router(), Bus("rides")
    bus.include(outer)
    outer.include(inner)

    @inner.consumer("t", group="mine")
    def late(event: dict[str, Any]) -> None: ...

    assert bus.handlers["late"].options.group == "mine"


def test_two_handlers_of_one_name_are_refused_by_name() -> None:
    bus = Bus("rides")
    bus.include(_router())
    bus.include(_router("tip"))
    with pytest.raises(RegistrationError, match=r"duration: two .*_router.*; pass name=\.\.\. to one"):
        bus.include(_router())
    with pytest.raises(RegistrationError, match="tip: two handlers have this name"):
        bus.consumer("t", name="tip")(lambda event: None)


def test_two_lifespans_of_one_name_are_refused_and_the_same_one_is_not() -> None:
    def other() -> Iterator[list[str]]:
        yield []

    bus, first, second = Bus("rides"), Router(), Router()
    first.lifespan(_database)
    second.lifespan(_database)
    bus.include(first)
    bus.include(second)
    with pytest.raises(RegistrationError, match=r"_database: two lifespans have this name, .*rename one"):
        bus.lifespan(_named("_database", other, "elsewhere"))


@pytest.mark.parametrize(
    ("function", "missing"),
    [(lambda database: (yield database), "database"), (lambda *, url: (yield url), "url")],
)
def test_a_lifespan_with_parameters_is_refused(function: Any, missing: str) -> None:
    router = Router()
    with pytest.raises(
        RegistrationError, match=rf"^opened: a lifespan gets no arguments: .*'{missing}'; give"
    ):
        router.lifespan(_named("opened", function))
    assert router.lifespans == {}
    router.lifespan(_named("opened", lambda url="redis://": (yield url)))


def test_a_topic_declared_again_is_the_same_or_refused() -> None:
    router = Router()
    for _ in range(2):
        router.topic("t", event_type=Ride, codec="msgpack")
    with pytest.raises(RegistrationError, match=r"the topic .t. is declared twice, .*; keep one"):
        router.topic("t", event_type=Ride)
    assert router.topics["t"].codec == "msgpack"


def test_a_topic_declared_differently_by_two_routers_is_refused() -> None:
    bus, first, second = Bus("rides"), Router(), Router()
    bus.topic("t", event_type=Ride)
    first.topic("t", event_type=Ride)
    bus.include(first)
    second.topic("t", event_type=Trip)
    with pytest.raises(RegistrationError, match=r"the topic .t. is declared twice, .*Ride.*Trip"):
        bus.include(second)


def test_a_bus_is_not_included() -> None:
    bus, router = Bus("rides"), Router()
    with pytest.raises(RegistrationError, match="includes a Router, not the bus 'rides'"):
        router.include(bus)
    with pytest.raises(RegistrationError, match="not itself"):
        router.include(router)
    with pytest.raises(RegistrationError, match="a bus needs a name"):
        Bus("")


def _define(router: Router, topic: str, module: str = "__main__") -> None:
    def handler(event: dict[str, Any]) -> None: ...

    router.consumer(topic)(_named("duration", handler, module))


@pytest.mark.usefixtures("_interactive")
def test_a_function_defined_again_in_a_session_replaces_its_handler() -> None:
    bus, router = Bus("rides"), Router()
    bus.include(router)
    _define(router, "a")
    _define(router, "b")
    assert bus.handlers["duration"].topic == "b"
    late = Bus("late")
    late.include(router)
    assert late.handlers["duration"].topic == "b"

    for declaring in (router, Router(), router):  # the cell that makes the router is run again too
        kind = msgspec.defstruct("Ride", ["ride_id"])
        bus.include(declaring)
        declaring.topic("a", event_type=kind)
        bus.lifespan(_named("database", lambda: (yield 1)))
    assert bus.topics["a"].event_type is kind


@pytest.mark.usefixtures("_interactive")
def test_a_module_that_a_session_imports_has_unique_names() -> None:
    bus = Bus("rides")
    _define(bus, "a", "app")
    with pytest.raises(RegistrationError, match=r"two handlers have this name, app\.duration and app\.dur"):
        _define(bus, "b", "app")


def test_a_script_has_unique_names() -> None:
    bus = Bus("rides")
    _define(bus, "a")
    with pytest.raises(RegistrationError, match="two handlers have this name"):
        _define(bus, "b")
