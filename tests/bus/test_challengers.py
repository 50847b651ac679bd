"""A challenger sees the events of its champion and answers beside it, to a topic of its own."""

from __future__ import annotations

import sys
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest

from eventml import Bus, Model, RegistrationError, RequestTimeoutError, config
from eventml.bus import import_predictor, topics_of
from eventml.deploy.web.predict import served_predictors
from eventml.errors import ConfigError
from tests.model_updates.conftest import ModelFile

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


class Number(msgspec.Struct):
    x: float


class Sum(msgspec.Struct):
    total: float


class Adding:
    def __init__(self, adds: float) -> None:
        self.adds = adds

    def predict(self, rows: list[list[float]]) -> list[float]:
        return [row[0] + self.adds for row in rows]


def adding(name: str = "sums") -> Bus:
    bus = Bus(name, backend=f"memory://{token_hex(4)}")

    @bus.predictor("numbers", to="sums", model=Model(Adding(1.0), "adding", "1"), max_batch=7)
    def add(numbers: list[Number], model: Any) -> list[Sum]:
        return [Sum(float(total)) for total in model.predict([[number.x] for number in numbers])]

    return bus


async def answers(bus: Bus, topic: str) -> list[tuple[str, float]]:
    """The ids and the totals in a topic."""
    return [
        (delivery.id, msgspec.json.decode(delivery.record.value)["total"])
        async for delivery in bus.read(topic, until="end")
    ]


async def test_both_answer_each_event_in_topics_of_their_own() -> None:
    bus = adding()
    bus.challenger("add", "ten", model=Model(Adding(10.0), "adding", "2"))
    async with bus:
        await bus.publish("numbers", Number(1.0), id="n")
    await bus.run(until_idle=0.05)
    async with bus:
        assert await answers(bus, "sums") == [("n/add@1", 2.0)]
        assert await answers(bus, "sums.challenger.ten") == [("n/add.challenger.ten@2", 11.0)]
    handler = bus.configured_handler("add.challenger.ten")
    assert handler.options.group == "sums.add.challenger.ten"
    assert {topic.name for topic in topics_of(bus)} >= {
        "sums.challenger.ten",
        "numbers.sums.add.challenger.ten.dlq",
    }


async def test_a_challenger_of_the_settings_has_the_options_of_its_champion(tmp_path: Path) -> None:
    file = ModelFile(tmp_path / "ten.skops")
    version = file.replace(10.0)
    overrides = {
        "consumer": {
            "add": {"timeout": 3.0, "group": "own", "challenger": {"ten": {"model": str(file.path)}}}
        }
    }
    bus = Bus("sums")

    @bus.predictor("numbers", to="sums", model=str(file.path), max_batch=7)
    def add(numbers: list[Number], model: Any) -> list[Sum]:
        return [Sum(float(total)) for total in model.predict([[number.x] for number in numbers])]

    bus.configure(config.load(environ={}, overrides=overrides, known_handlers=["add"]))
    options = bus.configured_handler("add.challenger.ten").options
    assert (options.max_batch, options.timeout, options.group) == (7, 3.0, "sums.add.challenger.ten")
    async with bus.loaded_handlers(["add.challenger.ten"]) as [loaded]:
        assert loaded.model is not None
        assert loaded.model.version == version


async def test_the_settings_cannot_replace_a_model_that_the_code_makes_without_a_pin(tmp_path: Path) -> None:
    file = ModelFile(tmp_path / "ten.skops")
    file.replace(10.0)
    bus = adding()
    overrides = {"consumer": {"add": {"challenger": {"ten": {"model": str(file.path)}}}}}
    bus.configure(config.load(environ={}, overrides=overrides, known_handlers=["add"]))
    with pytest.raises(Exception, match="it needs a pin too"):
        async with bus.loaded_handlers(["add.challenger.ten"]):
            pass


async def test_requests_and_the_web_service_are_answered_by_the_champion() -> None:
    bus = adding()
    bus.challenger("add", "ten", model=Model(Adding(10.0), "adding", "2"))
    assert [handler.name for handler in served_predictors(bus)] == ["add"]
    async with bus, anyio.create_task_group() as tasks, bus.worker(["add.challenger.ten"]) as alone:
        tasks.start_soon(alone.run)
        await alone.ready.wait()
        with pytest.raises(RequestTimeoutError):
            await bus.request("numbers", Number(1.0), timeout=0.2)
        assert {total for _, total in await answers(bus, "sums.challenger.ten")} == {11.0}
        assert not await answers(bus, "numbers.replies")
        alone.stop()


def test_a_predictor_is_still_found_by_its_function(monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.bus.test_challengers as module  # noqa: PLC0415

    bus = adding()
    bus.challenger("add", "ten", model=Model(Adding(10.0), "adding", "2"))
    monkeypatch.setattr(module, "bus_of_test", bus, raising=False)
    monkeypatch.setattr(module, "add", bus.handlers["add"].function, raising=False)
    assert import_predictor("tests.bus.test_challengers:add")[1] == "add"
    assert import_predictor("tests.bus.test_challengers:add.challenger.ten")[1] == "add.challenger.ten"


def test_what_can_have_no_challenger_is_refused() -> None:
    bus = adding()
    model = Model(Adding(10.0), "adding", "2")

    @bus.consumer("sums")
    def show(total: Sum) -> None:
        raise NotImplementedError

    with pytest.raises(RegistrationError, match="no predictor is named 'sub'"):
        bus.challenger("sub", "ten", model=model)
    with pytest.raises(RegistrationError, match="show can have no challenger 'ten'"):
        bus.challenger("show", "ten", model=model)
    with pytest.raises(RegistrationError, match="letters, digits, - and _, not"):
        bus.challenger("add", "a.b", model=model)


def test_a_mistake_in_the_settings_names_its_place() -> None:
    overrides = {"consumer": {"add": {"challenger": {"ten": {"modle": "x"}}}}}
    with pytest.raises(ConfigError, match=r"^consumer\.add\.challenger: .*modle"):
        config.load(environ={}, overrides=overrides, known_handlers=["add"])


async def test_a_pinned_challenger_runs_beside_a_champion_whose_model_is_followed(tmp_path: Path) -> None:
    file = ModelFile(tmp_path / "one.skops")
    version = file.replace(1.0)
    bus = Bus("pinned")

    @bus.predictor("pinned.numbers", to="pinned.sums", model=str(file.path), model_poll=0.01)
    def add(numbers: list[Number], model: Any) -> list[Sum]:
        return [Sum(float(total)) for total in model.predict([[number.x] for number in numbers])]

    bus.challenger("add", "ten", model=Model(Adding(10.0), "adding", "2"))
    async with bus:
        await bus.publish("pinned.numbers", Number(1.0), id="n")
    await bus.run(until_idle=0.05)
    async with bus:
        assert await answers(bus, "pinned.sums") == [(f"n/add@{version}", 2.0)]
        assert await answers(bus, "pinned.sums.challenger.ten") == [("n/add.challenger.ten@2", 11.0)]


def test_a_champion_that_a_notebook_defines_again_is_that_of_its_challengers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    bus = Bus("sums")
    model = Model(Adding(10.0), "adding", "2")

    def define() -> Any:
        def add(numbers: list[Number], model: Any) -> list[Sum]:
            raise NotImplementedError

        add.__module__ = "__main__"
        return bus.predictor("numbers", to="sums", model=model)(add)

    define()
    bus.challenger("add", "ten", model=model)
    again = define()
    assert bus.handlers["add.challenger.ten"].function is again


def test_a_name_that_is_taken_is_refused_but_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = adding()
    model = Model(Adding(10.0), "adding", "2")
    bus.challenger("add", "ten", model=model)
    with pytest.raises(RegistrationError, match="two handlers have this name"):
        bus.challenger("add", "ten", model=model)
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    other = Model(Adding(11.0), "adding", "3")
    bus.challenger("add", "ten", model=other)
    assert bus.handlers["add.challenger.ten"].model is other


def test_settings_replace_a_challenger_of_the_code_and_reach_predictors_registered_later(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "ten.skops")
    settings = {"add": {"challenger": {"ten": {"model": path}}}}
    bus = adding()
    bus.challenger("add", "ten", model=Model(Adding(10.0), "adding", "2"))
    for _ in range(2):
        bus.configure(config.load(environ={}, overrides={"consumer": settings}, known_handlers=["add"]))
    assert not isinstance(bus.configured_handler("add.challenger.ten").model, Model)

    late = Bus("sums")
    late.configure(config.load(environ={}, overrides={"consumer": settings}))
    late.handlers |= adding().handlers  # as a cell of a notebook does
    assert late.settings.consumer
    assert "add.challenger.ten" in late.handlers
