"""Canaries on memory: who answers which key, what is compared, and who decides about the share."""

from __future__ import annotations

import logging
import math
import time
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from eventml import (
    Artefact,
    Bus,
    ConfigError,
    Model,
    Record,
    RegistrationError,
    UnavailableError,
    config,
)
from eventml.bus import topics_of
from eventml.cli.check import check_bus
from eventml.runtime import CanaryRecord, CanaryTrial, canary_message
from eventml.runtime.model_versions.canary_trial import is_in_share
from eventml.testing import TestBus
from tests.model_updates.conftest import ModelFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from eventml.runtime import Worker

pytestmark = pytest.mark.anyio


class Number(msgspec.Struct):
    x: float


class Sum(msgspec.Struct):
    total: float


class Adding:
    """A model that adds a number, and fails for an input that is above `limit`."""

    def __init__(self, adds: float, limit: float = math.inf, seconds: float = 0.0) -> None:
        self.adds, self.limit, self.seconds = adds, limit, seconds

    def predict(self, values: list[float]) -> list[float]:
        time.sleep(self.seconds)
        if max(values) > self.limit:
            raise ValueError("too large")
        return [value + self.adds for value in values]


def adding(url: str | None = None, model: Any = None, **options: Any) -> Bus:
    bus = Bus("sums", backend=url or f"memory://{token_hex(4)}")

    @bus.predictor("numbers", to="sums", model=model or Model(Adding(1.0), "adding", "1"), **options)
    def add(numbers: list[Number], model: Any) -> list[Sum]:
        return [Sum(total) for total in model.predict([number.x for number in numbers])]

    return bus


@asynccontextmanager
async def running(bus: Bus) -> AsyncIterator[Worker]:
    with anyio.fail_after(60):
        async with bus, bus.worker() as worker, anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await worker.ready.wait()
            yield worker
            worker.stop()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not condition():
            await anyio.sleep(0.01)


async def handled(bus: Bus, worker: Worker, keys: range, **publish: Any) -> None:
    """Publish a number for each key, and wait until all are answered."""
    for key in keys:
        await bus.publish("numbers", Number(float(key)), key=f"k{key}", id=f"i{key}", **publish)
    while worker.in_flight or any((await worker.lag()).values()):
        await anyio.sleep(0.002)


async def answers(bus: Bus) -> dict[str, list[tuple[str, float]]]:
    """The versions and the totals of the answers, by the id of the number."""
    found: dict[str, list[tuple[str, float]]] = {}
    async for delivery in bus.read("sums", until="end"):
        input_id, _, version = delivery.id.partition("/add@")
        assert delivery.headers["ce_modelversion"] == version
        found.setdefault(input_id, []).append((version, delivery.event["total"]))
    return found


async def observations(bus: Bus, share: float) -> dict[str, int]:
    """What has been reported in the newest trial of canary 2."""
    trial = CanaryTrial(CanaryRecord(version="2", share=share), rolls_back=True)
    async for delivery in bus.read("numbers.sums.add.canary", until="end"):
        trial.apply(msgspec.convert(delivery.event, CanaryRecord))
    return trial.observations


def of_canary(key: int, share: float) -> bool:
    return is_in_share(Record("numbers", b"", f"k{key}".encode(), f"i{key}"), share)


async def test_a_canary_answers_its_share_of_the_keys_and_always_the_same_ones() -> None:
    bus = adding()
    bus.canary("add", model=Model(Adding(10.0), "adding", "2"), share=0.3)
    async with running(bus) as worker:
        for _ in range(2):
            await handled(bus, worker, range(200))
        expected = {
            f"i{key}": [("2", key + 10.0) if of_canary(key, 0.3) else ("1", key + 1.0)] * 2
            for key in range(200)
        }
        assert await answers(bus) == expected
        assert worker.stats["add"].canary_events == 2 * sum(of_canary(key, 0.3) for key in range(200))
        assert not worker.stats["add"].canary_worse


async def test_what_the_canary_fails_the_model_answers_until_it_is_rolled_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus = adding(max_batch=8)
    bus.canary("add", model=Model(Adding(10.0, limit=-1.0), "adding", "2"), share=0.5)
    async with running(bus) as worker:
        number = 0
        while not worker.stats["add"].canary_worse:
            await handled(bus, worker, range(number, number + 20))
            number += 20
        await handled(bus, worker, range(number, number + 20))
        assert await answers(bus) == {f"i{key}": [("1", key + 1.0)] for key in range(number + 20)}
        assert worker.stats["add"].dead_letters == 0
    assert "add: its canary 2 answers for 0 of the keys; it is worse: it fails" in caplog.text
    assert caplog.text.count("add: its canary 2 fails, and the model answers: ValueError at ") == 1


async def test_an_event_that_both_fail_is_a_dead_letter_and_says_nothing_about_the_canary() -> None:
    bus = adding(retries=0)
    models = [Model(Adding(adds, limit=99.0), "adding", str(adds)) for adds in (1.0, 2.0)]
    bus.handlers |= adding(model=models[0], retries=0).handlers
    bus.canary("add", model=models[1], share=0.5)
    async with running(bus) as worker:
        await handled(bus, worker, range(200))
        assert set(await answers(bus)) == {f"i{key}" for key in range(100)}
        assert worker.stats["add"].dead_letters == 100
        assert not worker.stats["add"].canary_worse


async def test_single_events_are_answered_by_both_models_too() -> None:
    bus = Bus("sums", backend=f"memory://{token_hex(4)}")

    @bus.predictor("numbers", to="sums", model=Model(Adding(1.0), "adding", "1"))
    async def add(number: Number, model: Any) -> Sum:
        for _ in range(int(number.x) % 7):  # so that the calls of many events mix
            await anyio.lowlevel.checkpoint()
        return Sum(model.predict([number.x])[0])

    bus.canary("add", model=Model(Adding(10.0, limit=50.0), "adding", "2"), share=0.5)
    async with running(bus) as worker:
        await handled(bus, worker, range(60))
        expected = {
            f"i{key}": [("2", key + 10.0) if of_canary(key, 0.5) and key <= 50 else ("1", key + 1.0)]
            for key in range(60)
        }
        assert await answers(bus) == expected


async def test_a_slow_canary_that_may_be_slow_is_not_rolled_back() -> None:
    bus = adding(max_batch=1)
    model = Model(Adding(10.0, seconds=0.005), "adding", "2")
    bus.canary("add", model=model, share=0.9, max_slowdown=1000.0)
    async with running(bus) as worker:
        await handled(bus, worker, range(60))
        assert not worker.stats["add"].canary_worse


async def test_a_slow_canary_is_rolled_back() -> None:
    bus = adding(max_batch=4)
    bus.canary("add", model=Model(Adding(10.0, seconds=0.02), "adding", "2"), share=0.5)
    async with running(bus) as worker:
        number = 0
        while not worker.stats["add"].canary_worse:
            await handled(bus, worker, range(number, number + 10))
            number += 10
        assert "longer than max_slowdown allows" in worker.stats["add"].canary_worse


@pytest.mark.parametrize("on_worse", ["rollback", "alert"])
@pytest.mark.parametrize("named", ["the event", "the prediction", "the record"])
async def test_larger_errors_are_found_once_the_truth_arrives(on_worse: str, named: str) -> None:
    bus = adding()
    model = Model(Adding(3.0), "adding", "2")
    bus.canary("add", model=model, share=0.5, truth="truths", error="total", on_worse=on_worse)
    async with running(bus) as worker:
        await handled(bus, worker, range(400))
        before = await answers(bus)
        for key in range(400):
            truth: dict[str, Any] = {"value": key + 1.5}
            [(version, _)] = before[f"i{key}"]
            given = {"the event": f"i{key}", "the prediction": f"i{key}/add@{version}", "the record": None}
            await bus.publish("truths", truth | ({"id": given[named]} if given[named] else {}), id=f"i{key}")
        await bus.publish("truths", {"value": 1.0}, id="of another event")
        await until(lambda: worker.stats["add"].canary_worse != "")
        assert "its errors are larger than error_tolerance allows" in worker.stats["add"].canary_worse
        await handled(bus, worker, range(400, 500))
        later = [found for key in range(400, 500) for found, _ in (await answers(bus))[f"i{key}"]]
        assert set(later) == ({"1"} if on_worse == "rollback" else {"1", "2"})


async def test_a_truth_that_cannot_be_used_costs_itself_only(caplog: pytest.LogCaptureFixture) -> None:
    bus = adding()
    bus.canary("add", model=Model(Adding(9.0), "adding", "2"), share=0.8, truth="truths", error="total")
    async with running(bus) as worker:
        await handled(bus, worker, range(400))
        for key in range(400):
            bad: list[dict[str, Any]] = [
                {"value": 10**400},
                {"value": "many"},
                {},
                {"value": None},
                {"value": "nan"},
                {"total": 1.0},
            ]
            await bus.publish("truths", bad[key % 6] | {"id": f"i{key}"})
        for key in range(400, 600):
            await handled(bus, worker, range(key, key + 1))
            await bus.publish("truths", {"total": key + 1.0}, id=f"i{key}")
        await until(lambda: worker.stats["add"].canary_worse != "")
    assert caplog.text.count("there are true values that cannot be used") == 1


async def test_what_was_predicted_before_a_trial_says_nothing_in_it(caplog: pytest.LogCaptureFixture) -> None:
    class BadBefore(Adding):
        def predict(self, values: list[float]) -> list[float]:
            return [value + (9.0 if value < 400 else 1.0) for value in values]

    caplog.set_level(logging.INFO)
    bus = adding()
    bus.canary("add", model=Model(BadBefore(0), "adding", "2"), share=0.5, truth="truths", error="total")
    async with running(bus) as worker:
        await handled(bus, worker, range(400))
        share = CanaryRecord(version="2", trial="t", share=0.6)
        await bus.backend.publish([canary_message("numbers.sums.add.canary", share)])
        await until(lambda: "its canary 2 answers for 0.6 of the keys" in caplog.text)
        await handled(bus, worker, range(400, 800))
        for key in range(800):
            await bus.publish("truths", {"total": key + 1.0}, id=f"i{key}")
        with anyio.fail_after(30):
            while (await observations(bus, 0.5))["errors"] < 100:
                await anyio.sleep(0.01)
        assert not worker.stats["add"].canary_worse


async def test_ids_may_look_like_those_of_predictions() -> None:
    bus = adding()
    bus.canary("add", model=Model(Adding(9.0), "adding", "2"), share=0.8, truth="truths", error="total")
    async with running(bus) as worker:
        for key in range(400):
            await bus.publish("numbers", Number(float(key)), id=f"a/add@b/{key}")
        await until(lambda: worker.stats["add"].completed == 400)
        for key in range(400):
            await bus.publish("truths", {"total": key + 1.0}, id=f"a/add@b/{key}")
        await until(lambda: worker.stats["add"].canary_worse != "")


async def test_a_report_that_fails_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = adding()
    bus.canary("add", model=Model(Adding(10.0, limit=-1.0), "adding", "2"), share=0.5)
    failed: list[Record] = []
    async with running(bus) as worker:
        publish = bus.backend.publish

        async def fail_once(records: list[Record]) -> None:
            if records[0].topic.endswith(".canary") and not failed:
                failed.extend(records)
                raise UnavailableError("no broker")
            await publish(records)

        monkeypatch.setattr(bus.backend, "publish", fail_once)
        await handled(bus, worker, range(8))
        await until(lambda: bool(failed))
        with anyio.fail_after(30):
            while not (await observations(bus, 0.5))["failures"]:
                await anyio.sleep(0.01)


async def test_a_worker_whose_report_does_not_come_back_ends_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bus = adding()
    bus.canary("add", model=Model(Adding(10.0), "adding", "2"))
    monkeypatch.setattr("eventml.runtime.model_versions.canary._JOINING", 0.05)
    async with bus, bus.worker() as worker:

        async def lose(records: list[Record]) -> None:
            assert records[0].topic.endswith(".canary")

        monkeypatch.setattr(bus.backend, "publish", lose)
        with anyio.fail_after(30), pytest.raises(UnavailableError, match="did not come back within"):
            await worker.run()


async def test_workers_agree_and_one_that_starts_later_knows_of_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    promoted = "add: its canary 2 answers for 1 of the keys"
    url = f"memory://{token_hex(4)}"

    def worker_bus() -> Bus:
        bus = adding(url)
        bus.canary("add", model=Model(Adding(10.0), "adding", "2"), share=0.0)
        return bus

    first, second, later = worker_bus(), worker_bus(), worker_bus()
    topic = "numbers.sums.add.canary"
    async with running(first) as one, running(second) as other:
        share = CanaryRecord(version="2", trial="t", share=1.0)
        await first.backend.publish([canary_message(topic, share)])
        await until(lambda: caplog.text.count(promoted) == 2)
        for key in range(100):
            await first.publish("numbers", Number(float(key)), key=f"k{key}", id=f"i{key}")
        await until(lambda: one.stats["add"].completed + other.stats["add"].completed == 100)
        assert await answers(first) == {f"i{key}": [("2", key + 10.0)] for key in range(100)}
        async with running(later):
            assert caplog.text.count(promoted) == 3  # before its first event


async def test_records_of_others_on_the_topic_are_ignored() -> None:
    bus = adding()
    bus.canary("add", model=Model(Adding(10.0), "adding", "2"), share=0.5)
    hostile = [
        b'{"version": "2", "worker": "x", "sums": {"errors": [%s]}}' % sums
        for sums in (
            b"200, 1.0, -1.0",
            b"200, 1.0, 1e308",
            b"-1, 1.0, 1.0",
            b'200, "1", 1.0',
            b"200, 1.0, null",
        )
    ]
    async with bus:
        for value in (
            b"no json",
            b"[]",
            b'{"version": 2}',
            b'{"version": "2", "sums": {"errors": [1]}}',
            *hostile,
        ):
            await bus.backend.publish([Record("numbers.sums.add.canary", value, b"canary", token_hex(4))])
    async with running(bus) as worker:
        await handled(bus, worker, range(40))
        assert {found for one in (await answers(bus)).values() for found, _ in one} == {"1", "2"}


async def test_a_request_is_answered_by_the_canary_of_its_key() -> None:
    bus = adding()
    bus.canary("add", model=Model(Adding(10.0), "adding", "2"), share=1.0)
    async with running(bus):
        assert (await bus.request("numbers", Number(1.0), key="k")).total == 11.0


# Registration and settings


def test_what_cannot_work_is_refused() -> None:
    bus, model = adding(), Model(Adding(10.0), "adding", "2")

    @bus.consumer("sums")
    def show(total: Sum) -> None:
        raise NotImplementedError

    @bus.predictor("sums", to="bare")
    def bare(total: Sum) -> Sum:
        raise NotImplementedError

    @bus.predictor("numbers", to="many", model=model)
    def many(number: Number, model: Any) -> list[Sum]:
        raise NotImplementedError

    with pytest.raises(RegistrationError, match="no predictor is named 'sub'"):
        bus.canary("sub", model=model)
    for name in ("show", "bare"):
        with pytest.raises(RegistrationError, match=f"{name}: canary: it is for predictors with a model"):
            bus.canary(name, model=model)
    with pytest.raises(RegistrationError, match="add: canary: its model is that of the predictor"):
        bus.canary("add", model=Model(Adding(9.0), "other", "1"))
    with pytest.raises(RegistrationError, match="many: canary: truth needs one prediction for each event"):
        bus.canary("many", model=Model(Adding(9.0), "other", "1"), truth="truths")
    with pytest.raises(
        RegistrationError, match="error 'value' is no field of the predictions, which have total"
    ):
        bus.canary("add", model=model, truth="truths")
    for share in (-0.1, 1.1, "much"):
        with pytest.raises(RegistrationError, match=r"add: canary: Expected `float.*\$\.share"):
            bus.canary("add", model=model, share=share)
    with pytest.raises(RegistrationError, match="unknown field `shares`"):
        bus.canary("add", model=model, shares=0.1)
    assert all(handler.canary is None for handler in bus.handlers.values())


def settings(**canary: Any) -> config.Settings:
    overrides = {"consumer": {"add": {"canary": canary}}}
    return config.load(environ={}, overrides=overrides, known_handlers=["add"])


async def test_the_settings_add_a_canary_and_replace_that_of_the_code(tmp_path: Path) -> None:
    first, second = ModelFile(tmp_path / "one.skops"), ModelFile(tmp_path / "two.skops")
    first.replace(1.0)
    version = second.replace(2.0)
    bus = adding(model=str(first.path))
    bus.canary("add", model=Model(Adding(10.0), "adding", "2"), share=0.5)
    bus.topic("eggs.canary")
    given = {"share": 0.25, "on_worse": "alert", "truth": "truths", "error": "total"}
    bus.configure(settings(model=str(second.path), **given))
    canary = bus.configured_handler("add").canary
    assert canary is not None
    assert (canary.share, canary.on_worse, canary.truth) == (0.25, "alert", "truths")
    async with bus, bus.worker() as worker:
        assert worker.handlers[0].canary is not None
        assert worker.handlers[0].canary.version == version
    topics = {topic.name: topic for topic in topics_of(bus)}
    assert {"truths", "numbers.sums.add.canary"} <= topics.keys()
    assert (topics["numbers.sums.add.canary"].retention or 0) > 3e8
    assert topics["eggs.canary"].retention is None


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"model": "x", "share": 2.0}, r"canary: .*<= 1\.0 - at `\$\.share`"),
        ({"model": "x", "share": "half"}, r"canary: Expected `float`, got `str` - at `\$\.share`"),
        ({"share": 0.5}, "canary: .*missing required field `model`"),
        ({"model": "x", "modle": "y"}, "canary: .*unknown field `modle`"),
    ],
)
def test_a_mistake_in_the_settings_names_its_place(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"^consumer\.add\.{reason}"):
        settings(**given)


def test_settings_that_name_the_predictors_own_model_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "one.skops")
    for model in (path, tmp_path / "one.skops", Artefact(path)):
        bus = adding(model=model)
        bus.configure(settings(model=path))
        with pytest.raises(ConfigError, match=r"consumer\.add\.canary: its model is that of the predictor"):
            bus.configured_handler("add")
    bus = Bus("sums")

    @bus.consumer("sums")
    def add(total: Sum) -> None:
        raise NotImplementedError

    bus.configure(settings(model="x.skops"))
    with pytest.raises(ConfigError, match=r"consumer\.add\.canary: it is for predictors with a model"):
        bus.configured_handler("add")


async def test_a_canary_with_the_version_of_the_model_is_not_used(tmp_path: Path) -> None:
    file, copy = ModelFile(tmp_path / "one.skops"), ModelFile(tmp_path / "copy.skops")
    file.replace(1.0)
    copy.replace_by(file.path.read_bytes(), 1.0)
    bus = adding(model=str(file.path))
    bus.configure(settings(model=str(copy.path)))
    with pytest.warns(UserWarning, match="its canary is not used: it is version"):
        async with bus, bus.worker() as worker:
            assert worker.handlers[0].canary is None


async def test_check_loads_the_canary_too(tmp_path: Path) -> None:
    file = ModelFile(tmp_path / "one.skops")
    file.replace(1.0)
    bus = adding(model=str(file.path))
    bus.configure(settings(model=str(tmp_path / "missing.skops")))
    [problem] = (await check_bus(bus, connect=False)).problems
    assert "add: there is no model at" in problem
    bus.configure(settings(model=str(ModelFile(tmp_path / "copy.skops").path)))
    (tmp_path / "copy.skops").write_bytes(file.path.read_bytes())
    report = await check_bus(bus, connect=False)
    assert report.problems == []
    assert "its canary is not used" in report.warnings[0]


async def test_a_challenger_has_no_canary() -> None:
    bus = adding()
    bus.canary("add", model=Model(Adding(10.0), "adding", "2"))
    bus.challenger("add", "ten", model=Model(Adding(10.0), "adding", "2"))
    assert bus.configured_handler("add").canary is not None
    assert bus.configured_handler("add.challenger.ten").canary is None


async def test_a_test_bus_with_a_model_of_its_own_has_no_canary() -> None:
    bus = adding()
    bus.canary("add", model="no such file.skops", share=1.0)
    async with TestBus(bus, models={"add": Adding(5.0)}) as t:
        await t.publish("numbers", Number(1.0))
        assert t.published("sums") == [Sum(6.0)]


async def test_starting_says_what_share_it_has(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bus = adding()
    bus.canary("add", model=Model(Adding(10.0), "adding", "2"))
    async with running(bus):
        pass
    assert "add: its canary 2 answers for 0.1 of the keys" in caplog.text
