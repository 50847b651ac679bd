"""docs/cli.md agrees with the commands: their names, options and output, and its examples run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import typer.main

from eventml.cli.app import app

if TYPE_CHECKING:
    from tests.cli.conftest import Invoke

PAGE: Final = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
SECTIONS: Final = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
EXAMPLES: Final = [
    re.split(r" \| jq| > ", line)[0].partition("eventml ")[2]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
EVERYWHERE: Final = {"--backend", "--json", "--help", "--config", "--profile"}
"""Options that the page describes once, for every command."""

APP: Final = """
import eventml, msgspec

bus = eventml.Bus("rides")

class Ride(msgspec.Struct):
    ride_id: str
    pickup_location_id: int

class Minutes(msgspec.Struct):
    ride_id: str
    minutes: float

bus.topic("rides.started", event_type=Ride, id_field="ride_id")

@bus.predictor("rides.started", to="rides.duration", retries=0, model=lambda: 14.0)
def duration(ride: Ride, model) -> Minutes:
    if ride.ride_id == "r-17":
        raise KeyError(ride.pickup_location_id)
    return Minutes(ride.ride_id, model)

bus.challenger("duration", "gbm", model=lambda: 15.0)
bus.canary("duration", model=lambda: 16.0, share=0.0)

@bus.predictor("rides.started", to="rides.tip")
def tip(ride: Ride) -> float:
    return 2.0
"""


def commands() -> dict[str, list[Any]]:
    """Return every command of the command line by name; the subcommands of a group under the group's name."""
    root: Any = typer.main.get_command(app)
    return {
        name: list(command.commands.values()) if hasattr(command, "commands") else [command]
        for name, command in root.commands.items()
    }


def options_of(name: str) -> set[str]:
    return {option for command in commands()[name] for param in command.params for option in param.opts}


def test_page_lists_every_command() -> None:
    assert set(re.findall(r"^\| \[`eventml (\w+)", PAGE, re.MULTILINE)) == set(commands())


@pytest.mark.parametrize("name", SECTIONS)
def test_section_describes_the_options_of_its_command(name: str) -> None:
    prose = re.sub(r"```.*?```", "", SECTIONS[name], flags=re.DOTALL)
    described = {
        option for code in re.findall(r"`[^`]+`", prose) for option in re.findall(r"(?<!\w)-[a-z-]+", code)
    }
    options = {option for option in options_of(name) if option.startswith("-")}
    assert described <= options | EVERYWHERE
    assert options - EVERYWHERE <= described


@pytest.mark.parametrize("example", EXAMPLES)
def test_options_of_every_example_are_valid(example: str, folder: Path) -> None:
    for file in ("trips.csv", "rides.json", "rides.jsonl"):
        (folder / file).touch()  # a file is opened when its argument is read
    name, *args = shlex.split(example)
    [command, *others] = commands()[name]
    if others or command.name == "create":
        [command] = [command for command in (command, *others) if command.name == args[0]]
        args = args[1:]
    command.make_context(name, args).close()


def test_examples_run(invoke: Invoke, folder: Path) -> None:
    (folder / "rides.py").write_text(APP)
    rows = "".join(f"r-{number},{number}\n" for number in range(20))
    (folder / "trips.csv").write_text(f"ride_id,pickup_location_id\n{rows}")
    (folder / "rides.jsonl").write_text('{"ride_id": "r-1", "pickup_location_id": 1}')
    (folder / "rides.json").write_text(invoke("schema", "rides:bus").stdout)
    examples = [example for example in EXAMPLES if not example.startswith(("serve", "run", "init", "demo"))]
    first = ["publish rides.started trips.csv", "run rides:bus --until-idle 0"]
    for example in [*first, *examples]:
        args = shlex.split(re.sub(r" --backend \S+", "", example))
        if args[0] == "tail":
            args += ["--from", "earliest", "-n", "1"]
        if args[0] == "publish" and "trips.csv" not in args:
            args += ["--format", "jsonl"]
        result = invoke(
            *args, "--backend", "onehub://", stdin='{"ride_id": "r-20", "pickup_location_id": 1}\n'
        )
        assert result.exit_code == 0, f"{example}: {result.output}"


def test_json_output_has_the_fields_of_the_page(invoke: Invoke, folder: Path) -> None:
    (folder / "rides.py").write_text(APP)
    tail, canary, lag = map(json.loads, re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
    backend = ("--backend", "onehub://")
    invoke("publish", "rides.started", *backend, stdin='{"ride_id": "r-1", "pickup_location_id": 1}\n')
    invoke("run", "rides:bus", "--until-idle", "0", *backend)
    record = json.loads(invoke("tail", "rides.duration", "--from", "earliest", "-n", "1", *backend).stdout)
    assert (list(record), record["value"]) == (list(tail), tail["value"])
    found = json.loads(invoke("canary", "rides:duration", *backend).stdout)
    assert list(found) == list(canary)
    assert list(found["observations"]) == list(canary["observations"])
    found = json.loads(invoke("lag", "rides:bus", "--json", *backend).stdout)
    assert list(found) == list(lag)
    assert list(found["groups"][0]) == list(lag["groups"][0])
    assert {name: found["groups"][0][name] for name in ("handler", "group", "topic")} == {
        name: lag["groups"][0][name] for name in ("handler", "group", "topic")
    }
