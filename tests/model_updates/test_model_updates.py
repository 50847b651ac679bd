"""A new version of a model takes over between two batches, and one that fails is refused."""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import AsyncExitStack, asynccontextmanager
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import anyio
import msgspec
import pytest

from eventml import Bus, Delivery, RegistrationError, config, models
from eventml.models import Artefact, Model

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from eventml.runtime import Worker
    from tests.model_updates.conftest import ModelFile

pytestmark = pytest.mark.anyio

POLL = 0.01  # seconds


class Number(msgspec.Struct):
    x: float


class Sum(msgspec.Struct):
    total: float


def adding(path: models.ModelSource, **options: Any) -> Bus:
    bus = Bus("sums", backend=f"memory://{token_hex(4)}")  # that no other test has filled

    @bus.predictor("numbers", to="sums", model=path, model_poll=POLL, **options)
    def add(numbers: list[Number], model: Any) -> list[Sum]:
        return [Sum(float(total)) for total in model.predict([[number.x] for number in numbers])]

    return bus


class Running:
    """A bus that runs, and what its predictor answers."""

    def __init__(self, bus: Bus, worker: Worker, answers: AsyncIterator[Delivery]) -> None:
        self._bus, self.worker, self._answers = bus, worker, answers

    @property
    def stats(self) -> Any:
        return self.worker.stats["add"]

    async def answer(self, x: float) -> tuple[float, str]:
        """The answer to a number, and the version of the model that made it."""
        await self._bus.publish("numbers", Number(x))
        delivery = await anext(self._answers)
        total = msgspec.json.decode(delivery.record.value)["total"]
        version = delivery.headers["ce_modelversion"]
        assert delivery.id.endswith(f"/add@{version}")
        return total, version

    async def until(self, condition: Any) -> None:
        """Wait until a condition is true."""
        with anyio.fail_after(30):
            while not condition():
                await anyio.sleep(POLL)


@asynccontextmanager
async def running(bus: Bus) -> AsyncIterator[Running]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(bus)
        worker = await stack.enter_async_context(bus.worker())
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(worker.run)
        await worker.ready.wait()
        reader = bus.backend.subscribe(["sums"], group=None, start="latest")
        subscription = await stack.enter_async_context(reader)

        async def deliveries() -> AsyncIterator[Delivery]:
            while True:
                for delivery in await subscription.receive(100):
                    yield delivery

        yield Running(bus, worker, deliveries())
        worker.stop()


async def test_a_new_version_takes_over_and_an_old_one_comes_back(model_file: ModelFile) -> None:
    [first] = model_file.adds
    old = model_file.path.read_bytes()
    async with running(adding(model_file.path)) as run:
        assert await run.answer(1.0) == (2.0, first)
        second = model_file.replace(10.0)
        await run.until(lambda: run.stats.model_updates == 1)
        assert await run.answer(1.0) == (11.0, second)
        model_file.replace_by(old, 1.0)
        await run.until(lambda: run.stats.model_updates == 2)
        assert await run.answer(1.0) == (2.0, first)


async def test_a_call_that_has_begun_ends_with_the_version_that_it_began_with(model_file: ModelFile) -> None:
    [first] = model_file.adds
    begun, go_on = threading.Event(), threading.Event()
    bus = Bus("sums")

    @bus.predictor("numbers", to="sums", model=str(model_file.path), model_poll=POLL)
    def add(numbers: list[Number], model: Any) -> list[Sum]:
        begun.set()
        assert go_on.wait(30)
        return [Sum(float(total)) for total in model.predict([[number.x] for number in numbers])]

    async with running(bus) as run, anyio.create_task_group() as tasks:
        answers: list[tuple[float, str]] = []

        async def ask() -> None:
            answers.append(await run.answer(1.0))

        tasks.start_soon(ask)
        await run.until(begun.is_set)
        second = model_file.replace(10.0)
        await run.until(lambda: run.stats.model_updates == 1)
        go_on.set()
        await run.until(lambda: answers)
        assert answers == [(2.0, first)]
        assert await run.answer(1.0) == (11.0, second)


async def test_a_file_that_cannot_be_loaded_is_refused_once_and_the_old_version_goes_on(
    model_file: ModelFile, caplog: pytest.LogCaptureFixture
) -> None:
    [first] = model_file.adds
    async with running(adding(model_file.path)) as run:
        model_file.replace_by(b"half a mod", 0.0)
        await run.until(lambda: run.stats.models_refused == 1)
        assert await run.answer(1.0) == (2.0, first)
        assert "is not a complete skops file" in run.stats.model_refused
        await anyio.sleep(10 * POLL)
        assert run.stats.models_refused == 1
        assert caplog.text.count(f"version {first} of its model stays in use") == 1
        third = model_file.replace(3.0)
        await run.until(lambda: run.stats.model_updates == 1)
        assert run.stats.model_refused == ""
        assert await run.answer(1.0) == (4.0, third)


async def test_a_file_that_is_removed_for_a_while_changes_nothing(model_file: ModelFile) -> None:
    [first] = model_file.adds
    data = model_file.path.read_bytes()
    async with running(adding(model_file.path)) as run:
        model_file.path.unlink()
        await run.until(lambda: "no model" in run.stats.model_refused)
        assert await run.answer(1.0) == (2.0, first)
        model_file.replace_by(data, 1.0)
        await run.until(lambda: not run.stats.model_refused)
        assert (run.stats.models_refused, run.stats.model_updates) == (0, 0)


async def test_a_file_whose_pin_follows_later_takes_over_with_the_pin(model_file: ModelFile) -> None:
    [first] = model_file.adds
    pin = model_file.path.with_name("adding.skops.sha256")

    def write_pin() -> None:
        pin.write_text(hashlib.sha256(model_file.path.read_bytes()).hexdigest())

    write_pin()
    async with running(adding(model_file.path)) as run:
        second = model_file.replace(10.0)
        await run.until(lambda: "is not the expected file" in run.stats.model_refused)
        assert await run.answer(1.0) == (2.0, first)
        write_pin()
        await run.until(lambda: run.stats.model_updates == 1)
        assert await run.answer(1.0) == (11.0, second)


async def test_a_file_that_the_settings_name_is_followed(model_file: ModelFile, tmp_path: Path) -> None:
    other = tmp_path / "other.skops"
    other.write_bytes(model_file.path.read_bytes())
    bus = adding(other)
    variables = {"EVENTML_CONSUMER_ADD_MODEL": str(model_file.path)}
    bus.configure(config.load(environ=variables, known_handlers=["add"]))
    async with running(bus) as run:
        second = model_file.replace(10.0)
        await run.until(lambda: run.stats.model_updates == 1)
        assert await run.answer(1.0) == (11.0, second)


async def test_requests_are_answered_by_the_version_in_use(model_file: ModelFile) -> None:
    bus = adding(model_file.path)
    async with running(bus) as run:
        assert (await bus.request("numbers", Number(1.0), output_type=Sum)).total == 2.0
        model_file.replace(10.0)
        await run.until(lambda: run.stats.model_updates == 1)
        assert (await bus.request("numbers", Number(1.0), output_type=Sum)).total == 11.0


@pytest.mark.parametrize("pinned", [True, False])
async def test_a_model_that_cannot_change_is_refused_at_the_start(
    model_file: ModelFile, *, pinned: bool
) -> None:
    bus = Bus("sums")
    fixed = Artefact(model_file.path, version="7") if pinned else Model(object(), "m", "1")

    @bus.predictor("numbers", to="sums", model=fixed, model_poll=1.0)
    def add(numbers: list[Number], model: Any) -> list[Sum]:
        raise NotImplementedError

    with pytest.raises(RegistrationError, match="model_poll: its model is pinned"):
        async with bus.loaded_handlers():
            pass


def test_a_handler_without_a_model_is_refused() -> None:
    bus = Bus("sums")
    with pytest.raises(RegistrationError, match="model_poll: it is for predictors with a model"):

        @bus.predictor("numbers", to="sums", model_poll=1.0)
        def add(numbers: list[Number]) -> list[Sum]:
            raise NotImplementedError


async def test_a_version_that_was_replaced_while_it_was_loaded_is_not_refused_for_it(
    model_file: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second version gives way to a broken file while it is loaded, and comes back."""
    loading, go_on = threading.Event(), threading.Event()
    load = models.load

    def slow_load(source: Any, *, name: str) -> Model:
        loading.set()
        assert go_on.wait(30)
        return load(source, name=name)

    async with running(adding(model_file.path)) as run:
        monkeypatch.setattr(models, "load", slow_load)
        second = model_file.replace(10.0)
        data = model_file.path.read_bytes()
        await run.until(loading.is_set)
        model_file.replace_by(b"half a mod", 0.0)
        go_on.set()
        await run.until(lambda: "is not a complete skops file" in run.stats.model_refused)
        model_file.replace_by(data, 10.0)
        await run.until(lambda: run.stats.model_updates == 1)
        assert await run.answer(1.0) == (11.0, second)


async def test_a_file_that_is_put_back_while_it_is_loaded_is_no_update(
    model_file: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    [first] = model_file.adds
    loading, loaded = threading.Event(), threading.Event()
    load, data = models.load, model_file.path.read_bytes()

    def load_the_first(source: Any, *, name: str) -> Model:
        loading.set()
        model_file.replace_by(data, 1.0)
        model = load(source, name=name)
        loaded.set()
        return model

    async with running(adding(model_file.path)) as run:
        monkeypatch.setattr(models, "load", load_the_first)
        model_file.replace(10.0)
        await run.until(loaded.is_set)
        third = b"half a mod"
        model_file.replace_by(third, 0.0)
        monkeypatch.setattr(models, "load", load)
        await run.until(lambda: run.stats.models_refused == 1)
        assert run.stats.model_updates == 0
        assert (await run.answer(1.0))[1] == first


async def test_a_file_that_exits_while_it_is_loaded_does_not_end_the_worker(
    model_file: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trusted class may run code of its own, which may call sys.exit."""
    [first] = model_file.adds

    def exits(source: Any, *, name: str) -> Model:
        del source, name
        raise SystemExit("a model that exits")

    async with running(adding(model_file.path)) as run:
        monkeypatch.setattr(models, "load", exits)
        model_file.replace(10.0)
        await run.until(lambda: run.stats.models_refused == 1)
        assert "a model that exits" in run.stats.model_refused
        assert await run.answer(1.0) == (2.0, first)


async def test_a_file_that_is_overwritten_with_the_old_times_is_found(
    model_file: ModelFile,
) -> None:
    """As by `rsync --inplace --times` of a build whose files all have one time."""
    found, old = model_file.path.stat(), model_file.path.read_bytes()
    before = models.current_version(model_file.path)
    with anyio.move_on_after(10):
        while model_file.path.stat().st_ctime_ns == found.st_ctime_ns:  # its clock has steps
            model_file.path.write_bytes(old[:-1] + bytes([old[-1] ^ 1]))
            os.utime(model_file.path, ns=(found.st_atime_ns, found.st_mtime_ns))
            await anyio.sleep(POLL)
    changed = model_file.path.stat()
    assert changed.st_mtime_ns == found.st_mtime_ns
    if changed.st_ctime_ns == found.st_ctime_ns:
        pytest.skip("this file system does not record when a file was changed")
    assert models.current_version(model_file.path) != before
