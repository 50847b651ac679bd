"""Importing a bus or a predictor at `MODULE:NAME`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from eventml.bus import import_bus, import_predictor
from eventml.errors import AppNotFoundError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

APP = """
import eventml

bus = eventml.Bus("app")
other = 7

@bus.predictor("numbers", to="doubles")
def double(number: int) -> int:
    return 2 * number

@bus.predictor("numbers", to="halves", name="half")
def halve(number: int) -> float:
    return number / 2

@bus.consumer("doubles")
def count(number: int) -> None: ...
"""
TWO_BUSES = """
import eventml

rides = eventml.Bus("rides")
watch = eventml.Bus("watch")

@rides.predictor("rides", to="tips")
@watch.predictor("rides", to="alarms", name="alarm")
def tip(ride: int) -> int:
    return ride
"""

FACTORY = """
import eventml
import app

router = eventml.Router()

@router.predictor("numbers", to="thirds")
def third(number: int) -> float:
    return number / 3

def make_bus(name="made"):
    bus = eventml.Bus(name)
    bus.include(router)
    return bus

def make_other():
    return 7
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory with two apps and a package."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "two_buses.py").write_text(TWO_BUSES)
    (tmp_path / "factory.py").write_text(FACTORY)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "app.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")) or name == "package":
            del sys.modules[name]


def test_bus_is_imported_from_the_current_directory() -> None:
    assert import_bus("app:bus").name == "app"
    assert import_bus("two_buses:watch").name == "watch"


def test_an_app_factory_is_called() -> None:
    bus = import_bus("factory:make_bus()")
    assert (bus.name, list(bus.handlers)) == ("made", ["third"])
    assert import_bus("factory:make_bus()") is not bus


def test_predictor_of_a_bus_in_another_module_is_named_with_its_bus() -> None:
    bus, name = import_predictor("factory:make_bus():third")
    assert (bus.name, name) == ("made", "third")
    assert import_predictor("app:bus:half")[1] == "half"
    with pytest.raises(AppNotFoundError, match=r"with this bus .* mean factory:make_bus\(\):third\?"):
        import_predictor("factory:make_bus():thrid")


def test_current_directory_is_before_other_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "app.py").write_text(APP.replace('Bus("app")', 'Bus("elsewhere")'))
    monkeypatch.syspath_prepend(str(elsewhere))
    assert import_bus("app:bus").name == "app"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nosuch:bus", "nosuch:bus: no module is named 'nosuch'"),
        ("app.deeper:bus", "no module is named 'app.deeper'"),
        ("package.nosuch:bus", "no module is named 'package.nosuch'"),
        ("app:nosuch", "app:nosuch: the module has no Bus named 'nosuch'; did you mean app:bus?"),
        ("app:buss", "did you mean app:bus?"),
        ("app:other", "app:other: the module has no Bus named 'other'; did you mean app:bus?"),
        ("two_buses:bus", "two_buses:bus: the module has no Bus named 'bus'; its buses are: rides, watch"),
        ("package.app:bus", "package.app:bus: the module has no Bus named 'bus'; it has no buses"),
        ("app", "'app': expected MODULE:BUS, such as"),
        (":bus", "':bus': expected MODULE:BUS"),
        ("app:bus()", "app:bus(): the module has no Bus named 'bus()'; did you mean app:bus?"),
        ("factory:make_bus", "if it returns one when it is called, write factory:make_bus()"),
        ("factory:make_other()", "factory:make_other() returned a int, not a Bus"),
        ("package/app.py:bus", "expected the name of a module, not the path of a file: package.app:bus"),
        ("./app.py:bus", "expected the name of a module, not the path of a file: app:bus"),
    ],
)
def test_error_says_what_to_write_instead(target: str, message: str) -> None:
    with pytest.raises(AppNotFoundError) as caught:
        import_bus(target)
    assert message in str(caught.value)
    assert isinstance(caught.value, ConfigError)


@pytest.mark.parametrize(
    ("code", "error"),
    [("import nosuch", ModuleNotFoundError), ("1 / 0", ZeroDivisionError), ("def f(:", SyntaxError)],
)
def test_error_of_the_module_is_raised_unchanged(folder: Path, code: str, error: type[Exception]) -> None:
    (folder / "failing.py").write_text(code)
    with pytest.raises(error):
        import_bus("failing:bus")


@pytest.mark.parametrize(
    ("target", "bus", "handler"),
    [("app:double", "app", "double"), ("app:halve", "app", "half"), ("two_buses:alarm", "watch", "alarm")],
)
def test_predictor_is_named_by_its_function_or_handler(target: str, bus: str, handler: str) -> None:
    found, name = import_predictor(target)
    assert (found.name, name) == (bus, handler)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "app:doubel",
            "is registered with a bus of the module; did you mean app:double?",
        ),
        ("app:zzz", "its predictors are: double, half"),
        ("two_buses:tip", "two_buses:tip: the function is registered more than once, as tip, alarm"),
        ("package.app:tip", "it has no predictors"),
        ("app", "'app': expected MODULE:PREDICTOR, such as"),
    ],
)
def test_error_names_the_predictors(target: str, message: str) -> None:
    with pytest.raises(AppNotFoundError) as caught:
        import_predictor(target)
    assert message in str(caught.value)
