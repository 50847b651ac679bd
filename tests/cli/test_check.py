"""`eventml check`: handlers, guarantees and problems, before anything runs."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Hubs, Invoke

APP = """
import warnings
import eventml

bus = eventml.Bus("app")

def twice():
    warnings.warn("a little old", UserWarning)
    return eventml.Model(object=lambda n: 2 * n, name="twice", version="v7")

@bus.lifespan
def database():
    raise SystemExit("a check enters no lifespan")
    yield

@bus.predictor("numbers", to="doubles", model=twice, max_batch=32, ordered=True)
def double(numbers: list[int], model, database) -> list[int]: ...

@bus.consumer("doubles", timeout=2.0, start="latest")
def show(double: int) -> None: ...
"""


@pytest.fixture(autouse=True)
def app(folder: Path) -> Path:
    (folder / "app.py").write_text(APP)
    return folder / "app.py"


def checked(invoke: Invoke, *args: str, code: int = 0) -> dict[str, Any]:
    result = invoke("check", "app:bus", "--json", *args)
    assert result.exit_code == code
    found: dict[str, Any] = json.loads(result.stdout)
    assert bool(found["problems"]) == bool(code)
    return found


def test_report_as_json(invoke: Invoke) -> None:
    found = checked(invoke)
    assert (found["bus"], found["backend"], found["drain"]) == ("app", "memory://", 30.0)
    assert found["guarantees"]["ordering"] == "per_key"
    assert found["warnings"] == ["double: a little old"]
    double, show = found["handlers"]
    assert double == {
        "name": "double",
        "reads": "numbers",
        "writes": ["doubles"],
        "group": "app.double",
        "start": "earliest",
        "batched": True,
        "frame": None,
        "max_batch": 32,
        "ordered": True,
        "timeout": None,
        "model": {"name": "twice", "version": "v7"},
    }
    assert (show["writes"], show["model"], show["timeout"], show["start"]) == ([], None, 2.0, "latest")


def test_report_as_a_table(invoke: Invoke) -> None:
    result = invoke("check", "app:bus")
    assert result.exit_code == 0
    header, brief, columns, *_ = result.stdout.splitlines()
    assert header.startswith("app on memory://; events in flight have 30 s")
    assert brief == "  at least once, in order by key, outputs once, not durable"
    assert columns.split() == ["handler", "reads", "writes", "group", "takes", "model"]
    [double] = [line for line in result.stdout.splitlines() if line.startswith("double")]
    assert re.split("  +", double) == [
        "double",
        "numbers (earliest)",
        "doubles",
        "app.double",
        "batches of up to 32",
        "twice v7",
    ]
    assert result.stderr == "warning: double: a little old\n"


def test_what_is_wrong_comes_last(invoke: Invoke, app: Path, folder: Path) -> None:
    app.write_text(APP.replace("model=twice", 'model="nosuch.skops"'))
    *_, last = invoke("check", "app:bus").output.splitlines()
    assert last.startswith("error: double: there is no model at nosuch.skops")
    sound = APP.replace("model=twice, ", "").replace("model, database", "database")
    (folder / "sound.py").write_text(sound)
    *_, last = invoke("check", "sound:bus").output.splitlines()
    assert last == "no problems"


def test_names_are_never_cut(invoke: Invoke, app: Path) -> None:
    topic = "rides." + "started" * 30
    app.write_text(APP.replace('"doubles"', f'"{topic}"'))
    shown = invoke("check", "app:bus").stdout
    assert f"{topic} (latest)" in shown
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert f" {topic} " in invoke("lag", "app:bus", "--backend", "onehub://").stdout


FRAMES = """
import eventml, msgspec, polars

bus = eventml.Bus("app")

class Number(msgspec.Struct):
    number: int

@bus.consumer("numbers", event_type=Number)
def look(numbers: polars.DataFrame) -> None: ...
"""


def test_library_of_data_frames_is_shown(invoke: Invoke, app: Path) -> None:
    app.write_text(FRAMES)
    assert checked(invoke)["handlers"][0]["frame"] == "polars"
    assert "polars frames of up to 1024" in invoke("check", "app:bus").stdout


def test_data_frames_need_an_event_type(invoke: Invoke, app: Path) -> None:
    app.write_text(FRAMES.replace(", event_type=Number", ""))
    result = invoke("check", "app:bus")
    assert result.exit_code != 0
    assert "look: a polars DataFrame does not define" in result.stderr


def test_configuration_is_applied(invoke: Invoke, folder: Path) -> None:
    (folder / "eventml.toml").write_text("drain = 5.0\n[consumer.double]\nmax_batch = 7\ngroup = 'g'\n")
    found = checked(invoke)
    assert (found["drain"], found["handlers"][0]["max_batch"], found["handlers"][0]["group"]) == (5.0, 7, "g")


def test_every_problem_of_the_configuration_is_listed(invoke: Invoke, folder: Path) -> None:
    (folder / "eventml.toml").write_text("[consumer.double]\nmax_bacth = 7\n[consumer.nobody]\nretries = 1\n")
    found = checked(invoke, code=1)
    assert found["backend"] is None
    assert len(found["problems"]) == 2
    assert any("did you mean max_batch?" in problem for problem in found["problems"])
    result = invoke("check", "app:bus")
    assert result.stderr.splitlines() == [f"error: {problem}" for problem in found["problems"]]


def test_an_option_that_does_not_suit_its_handler_is_a_problem(invoke: Invoke, folder: Path) -> None:
    (folder / "eventml.toml").write_text("[consumer.double]\nconcurrency = 8")
    done = invoke("check", "app:bus", "--json")
    assert done.exit_code == 1
    [problem] = json.loads(done.stdout)["problems"]
    assert problem.startswith("consumer.double.concurrency: it is for handlers of single events")


def test_missing_model_is_a_problem_and_the_check_continues(invoke: Invoke, app: Path) -> None:
    app.write_text(APP.replace("model=twice", 'model="nosuch.skops"'))
    found = checked(invoke, code=1)
    [problem] = found["problems"]
    assert problem.startswith("double: there is no model at nosuch.skops")
    assert [handler["model"] for handler in found["handlers"]] == [None, None]


def test_parameter_without_a_value_is_a_problem(invoke: Invoke, app: Path) -> None:
    app.write_text(APP.replace("model, database)", "model, databse)"))
    [problem] = checked(invoke, code=1)["problems"]
    assert "double: its parameter 'databse' has no value" in problem


def test_two_handlers_in_one_group_are_a_warning(invoke: Invoke, app: Path) -> None:
    app.write_text(
        f'{APP}\n@bus.consumer("doubles", group="app.show")\ndef store(double: int) -> None: ...\n'
    )
    assert (
        "show and store read doubles in the same consumer group, app.show" in checked(invoke)["warnings"][1]
    )


def test_bus_without_handlers_is_a_problem(invoke: Invoke, app: Path) -> None:
    app.write_text('import eventml\nbus = eventml.Bus("app")\n')
    assert "the bus has no handlers" in checked(invoke, code=1)["problems"][0]
    result = invoke("run", "app:bus")
    assert (result.exit_code, "the bus has no handlers" in result.stderr) == (2, True)


def test_guarantees_are_checked_without_connecting_to_the_backend(invoke: Invoke, hubs: Hubs) -> None:
    assert checked(invoke, "--backend", "onehub://")["guarantees"]["shared"] is True
    found = checked(invoke, "--backend", "onehub://?ordering=single_member", code=1)
    assert found["problems"][0].startswith("consumer.double.ordered: this backend keeps order only while")
    assert hubs == {}


def test_connect_joins_no_group(invoke: Invoke, hubs: Hubs) -> None:
    assert checked(invoke, "--backend", "onehub://", "--connect")["guarantees"]["shared"] is True
    assert hubs["onehub://"].groups == []


def test_missing_guarantee_is_a_problem(invoke: Invoke) -> None:
    [problem] = checked(invoke, "--backend", "onehub://?ordering=none", "--connect", code=1)["problems"]
    assert problem.startswith("consumer.double.ordered: this backend keeps no order")


def test_missing_topics_are_a_problem_until_they_are_created(invoke: Invoke) -> None:
    backend = ("--backend", "onehub://?creates=true")
    [problem] = checked(invoke, *backend, "--connect", code=1)["problems"]
    assert "doubles, doubles.app.show.dlq, numbers, numbers.app.double.dlq" in problem
    assert "eventml topics create" in problem
    assert invoke("topics", "create", "app:bus", *backend).exit_code == 0
    assert checked(invoke, *backend, "--connect")["problems"] == []


def test_unknown_backend_is_a_problem_and_its_password_is_hidden(invoke: Invoke) -> None:
    found = checked(invoke, "--backend", "nosuch://user:secret@host", code=1)
    assert "no backend is registered for nosuch://" in found["problems"][0]
    assert "secret" not in json.dumps(found)


def test_a_start_at_a_time_is_shown_as_settings_say_it(invoke: Invoke, app: Path) -> None:
    app.write_text(
        "import datetime, eventml\nbus = eventml.Bus('app')\n"
        "@bus.consumer('numbers', start=datetime.timedelta(hours=1))\ndef show(number: int) -> None: ..."
    )
    [handler] = checked(invoke)["handlers"]
    assert handler["start"] == "PT3600S"
    assert "numbers (PT3600S)" in invoke("check", "app:bus").stdout
