"""The classes on the page of schema evolution do what it says, while events of others wait in the stream."""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from eventml import config
from eventml.backends.base import CreatesTopics, NewTopic
from eventml.bus import asyncapi_document, topics_of
from eventml.cli.app import app
from eventml.cli.compatibility import breaking_changes

if TYPE_CHECKING:
    from eventml import Bus
    from eventml.backends.base import Backend

PAGE: Final = (Path(__file__).parents[2] / "docs" / "schema-evolution.md").read_text("utf-8")
OLD, ADDED, REMOVED, ALIASED, BOTH = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
REQUIRED: Final = ADDED.replace("passengers: int = 1", "passengers: int")
RENAMED: Final = "class RideStarted(msgspec.Struct):\n    ride_id: str\n    miles: float\n    vendor: str\n"
CLASS: Final = re.compile(r"class RideStarted.*?\n\n\n", re.DOTALL)
TAKES_MILES: Final = {ALIASED, BOTH, RENAMED}

OLD_EVENT: Final = {"ride_id": "r", "trip_distance": 2.0, "vendor": "a"}


def app_of(version: str, prefix: str = "rides") -> Bus:
    """The page's app with this version of its event, on topics with a prefix of their own."""
    source = OLD if version == OLD else CLASS.sub(lambda _: f"{version}\n\n", OLD)
    if version in TAKES_MILES:
        source = source.replace("ride.trip_distance", "ride.miles")
    module = ModuleType("page")
    exec(source.replace('"rides', f'"{prefix}'), module.__dict__)  # noqa: S102 - our own page
    bus: Bus = module.bus
    return bus


async def handled(version: str, events: list[dict[str, Any]], backend: Backend) -> tuple[int, int]:
    """How many outputs and dead letters an app with this version makes of events that waited."""
    prefix = f"t{secrets.token_hex(4)}"
    bus = app_of(version, prefix)
    if isinstance(backend, CreatesTopics):
        await backend.create_topics([NewTopic(name=topic.name) for topic in topics_of(bus)])
    async with app_of(OLD, prefix).open(backend) as producers:
        await producers.publish_many(f"{prefix}.started", events)
    async with bus.open(backend), bus.worker() as worker, anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        [stats] = worker.stats.values()
        with anyio.fail_after(30):
            while stats.completed < len(events):
                await anyio.sleep(0.01)
        worker.stop()
    return stats.published, stats.dead_letters


NEW: Final = {
    ADDED: {**OLD_EVENT, "passengers": 3},
    REMOVED: {"ride_id": "r", "trip_distance": 2.0},
    ALIASED: OLD_EVENT,
    BOTH: {"ride_id": "r", "miles": 2.0, "vendor": "a"},
}
"""What producers write that have been deployed too."""


@pytest.mark.anyio
@pytest.mark.parametrize("scheme", ["memory", "redis"])
@pytest.mark.parametrize(
    ("version", "old_reader_takes_new"),
    [(ADDED, True), (REMOVED, False), (ALIASED, True), (BOTH, False)],
    ids=["added", "removed", "renamed by alias", "both names"],
)
async def test_old_events_wait(
    request: pytest.FixtureRequest, scheme: str, version: str, *, old_reader_takes_new: bool
) -> None:
    url = (
        request.getfixturevalue("redis_server").url
        if scheme == "redis"
        else f"memory://{secrets.token_hex(4)}"
    )
    backend = config.load(environ={}, overrides={"backend": url}).backend
    async with config.find_backend(scheme).open(backend.url, backend.options) as connected:
        # The new reader takes both, so it may be deployed first; the old one where it says "either side".
        assert await handled(version, [OLD_EVENT, OLD_EVENT, NEW[version]], connected) == (3, 0)
        assert await handled(OLD, [OLD_EVENT, NEW[version]], connected) == (
            (2, 0) if old_reader_takes_new else (1, 1)
        )
        if version == ADDED:  # without its default
            assert await handled(REQUIRED, [OLD_EVENT, NEW[version]], connected) == (1, 1)
        if version == BOTH:
            assert await handled(RENAMED, [OLD_EVENT, NEW[version]], connected) == (1, 1)


@pytest.mark.parametrize("version", [ADDED, REMOVED, ALIASED, BOTH])
def test_check_accepts_the_classes_of_the_page(version: str) -> None:
    assert breaking_changes(asyncapi_document(app_of(OLD)), asyncapi_document(app_of(version))) == []


@pytest.mark.parametrize(("version", "field"), [(REQUIRED, "passengers"), (RENAMED, "miles")])
def test_check_refuses_what_old_events_lack(version: str, field: str) -> None:
    [line] = breaking_changes(asyncapi_document(app_of(OLD)), asyncapi_document(app_of(version)))
    assert line.startswith(f"read from rides.started: $.{field}: events lack it and readers require it; ")


def test_the_commands_of_the_page_print_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    schema, check = re.findall(
        r"eventml (.*?)(?: > rides.json)?\n", re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)[0]
    )
    name = f"rides_{secrets.token_hex(4)}"
    Path(f"{name}_old.py").write_text(OLD)
    changed = CLASS.sub(lambda _: f"{REQUIRED}\n\n", OLD).replace("minutes: float", "minutes: float | None")
    Path(f"{name}_new.py").write_text(changed)

    def run(command: str, module: str) -> int:
        with pytest.raises(SystemExit) as ended:
            app(command.replace("rides:bus", f"{module}:bus").split(), prog_name="eventml")
        return int(ended.value.code or 0)

    assert run(schema, f"{name}_old") == 0
    Path("rides.json").write_text(capsys.readouterr().out)
    assert json.loads(Path("rides.json").read_text())["asyncapi"] == "3.0.0"
    assert run(check, f"{name}_old") == 0
    assert run(check, f"{name}_new") == 1
    [expected] = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert capsys.readouterr().err == expected
