"""`eventml dlq`: dead letters listed, shown, replayed and dropped."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import anyio
import pytest

from eventml import Record

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Hubs, Invoke

APP = """
from pathlib import Path

import msgspec
import eventml

bus = eventml.Bus("{name}")

class Ride(msgspec.Struct):
    ride_id: str
    zone: int

class Minutes(msgspec.Struct):
    ride_id: str
    minutes: float

def look_up(ride: Ride) -> float:
    if ride.zone == 9 and not Path("fixed").exists():
        raise KeyError(ride.zone)
    return 2.0 * ride.zone

@bus.predictor("{name}.rides", to="{name}.minutes", retries=0)
def minutes(rides: list[Ride]) -> list[Minutes]:
    return [Minutes(ride.ride_id, look_up(ride)) for ride in rides]

@bus.consumer("{name}.rides")
def audit(ride: Ride) -> None:
    with Path("audited").open("a") as file:
        file.write(ride.ride_id + "\\n")
"""
RIDES = [
    {"ride_id": "a", "zone": 1},
    {"ride_id": "b", "zone": 9},
    {"ride_id": "c", "zone": "nine"},
    {"ride_id": "d", "zone": 9},
]


class DeadLetterApp:
    """An app with dead letters of two exceptions, and the commands to run on it."""

    def __init__(self, invoke: Invoke, folder: Path, backend: str) -> None:
        self._invoke = invoke
        self._folder = folder
        self._backend = ("--backend", backend)
        self.name = f"dlq{uuid4().hex[:8]}"
        (folder / "app.py").write_text(APP.format(name=self.name))

    def fail_rides(self) -> None:
        self.run("topics", "create", "app:bus")
        rides = "".join(json.dumps(ride) + "\n" for ride in RIDES)
        self.run("publish", f"{self.name}.rides", "--id", "ride_id", stdin=rides)
        self.run_handlers()

    def run_handlers(self) -> None:
        self.run("run", "app:bus", "--until-idle", "0.3")

    def fix_handler(self) -> None:
        (self._folder / "fixed").touch()

    def run(self, *args: str, code: int = 0, stdin: str | None = None, stderr: bool = False) -> str:
        result = self._invoke(*args, *self._backend, stdin=stdin)
        assert result.exit_code == code, result.output
        if stderr:
            return result.stderr
        return result.stdout if code == 0 else result.output

    def dlq(self, command: str, *args: str, code: int = 0) -> str:
        return self.run("dlq", command, "app:bus", *args, code=code)

    def listed(self, *args: str) -> list[tuple[str, str]]:
        """Return handler and event id of each dead letter that is listed."""
        found = json.loads(self.dlq("list", "--json", *args))["dead_letters"]
        return sorted((letter["handler"], letter["id"]) for letter in found)

    def audited(self) -> list[str]:
        return sorted((self._folder / "audited").read_text().split())


@pytest.fixture
def app(invoke: Invoke, folder: Path) -> DeadLetterApp:
    found = DeadLetterApp(invoke, folder, "onehub://")
    found.fail_rides()
    return found


ALL = [("audit", "c"), ("minutes", "b"), ("minutes", "c"), ("minutes", "d")]


def test_list_counts_causes_with_the_commands_that_replay_them(app: DeadLetterApp) -> None:
    first = app.dlq("list")
    assert sorted(app.dlq("list").splitlines()) == sorted(first.splitlines()), "it changes nothing"
    head, *rows, _, _, _, _ = [re.split(r"  +", line) for line in first.splitlines()]
    assert head == ["handler", "exception", "count", "last failed", "last reason"]
    assert rows[0][:3] == ["minutes", "KeyError", "2"], "the largest is the first"
    assert rows[0][4] == "9"
    assert sorted(row[:3] for row in rows[1:]) == [
        ["audit", "DecodeError", "1"],
        ["minutes", "DecodeError", "1"],
    ]
    command = "eventml dlq replay app:bus --handler minutes --exception KeyError --backend onehub://"
    assert first.splitlines()[4:6] == ["", command]
    assert app.listed() == ALL


def test_the_command_of_a_cause_replays_what_it_counts(app: DeadLetterApp) -> None:
    selected = ("--since", "2020-01-01", "--until", "2100-01-01", "--exception", "KeyError")
    [cause] = json.loads(app.dlq("list", "--json", *selected))["causes"]
    assert cause["replay"] in app.dlq("list", *selected)
    _, *command = shlex.split(cause["replay"])
    assert "2020-01-01T00:00:00.000Z" in command
    assert "2 replayed" in app.run(*command[:-2])
    assert app.listed() == [("audit", "c"), ("minutes", "c")]


def test_a_dead_letter_is_a_row_where_a_number_or_an_id_is_given(app: DeadLetterApp) -> None:
    head, row, count = app.dlq("list", "--id", "b").splitlines()
    assert re.split(r"  +", head) == ["handler", "exception", "attempts", "failed", "from", "reason", "id"]
    cells = re.split(r"  +", row)
    assert (cells[:2], cells[5:]) == (["minutes", "KeyError"], ["9", "b"])
    assert cells[4].startswith(f"{app.name}.rides/")
    assert count == "1 of 1 dead letters"


def test_list_as_json_has_every_field(app: DeadLetterApp) -> None:
    found = json.loads(app.dlq("list", "--json", "--id", "b"))
    [letter] = found["dead_letters"]
    [cause] = found["causes"]
    replay = "eventml dlq replay app:bus --handler minutes --exception KeyError --id b --backend onehub://"
    assert (cause["count"], cause["last_reason"], cause["replay"]) == (1, "9", replay)
    expected: dict[str, Any] = {
        "handler": "minutes",
        "id": "b",
        "exception": "KeyError",
        "message": "KeyError: 9",
        "attempts": 1,
        "topic": f"{app.name}.rides",
    }
    assert {name: letter[name] for name in expected} == expected
    assert "in look_up: raise KeyError(ride.zone)" in letter["traceback"]


def test_show_prints_the_event_and_why_it_failed(app: DeadLetterApp) -> None:
    shown = app.dlq("show", "--id", "b")
    lines = shown.splitlines()
    assert lines[0] == "minutes: b"
    assert any(
        re.fullmatch(r"  failed    (\d{4}-\d\d-\d\dT[\d:.]+Z), attempt 1; first \1", line) for line in lines
    )
    assert "  reason    KeyError: 9" in lines
    assert re.search(r"  traceback app:\d+ in minutes: return", shown)
    assert re.search(r"            app:\d+ in look_up: raise KeyError\(ride.zone\)", shown)
    value = lines.index("  value     {")
    assert [line.strip() for line in lines[value + 1 : value + 4]] == ['"ride_id": "b",', '"zone": 9', "}"]
    assert "eventml-dlq" not in shown, "these headers are shown as fields"
    whole = json.loads(app.dlq("show", "--id", "b", "--json"))
    assert whole["dead_letters"][0]["record"]["value"] == RIDES[1]


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (("--handler", "audit"), [("audit", "c")]),
        (("--handler", "audit", "--handler", "minutes"), ALL),
        (("--exception", "KeyError"), [("minutes", "b"), ("minutes", "d")]),
        (("--exception", "DecodeError", "--handler", "minutes"), [("minutes", "c")]),
        (("--id", "c", "--id", "d"), [("audit", "c"), ("minutes", "c"), ("minutes", "d")]),
        (("--since", "1h"), ALL),
        (("--until", "1h"), []),
        (("--since", "2020-01-01", "--until", "2100-01-01T00:00+02:00"), ALL),
        (("--since", "2100-01-01"), []),
    ],
)
def test_options_select_dead_letters(
    app: DeadLetterApp, args: tuple[str, ...], found: list[tuple[str, str]]
) -> None:
    assert app.listed(*args) == found


def test_n_limits_the_number(app: DeadLetterApp) -> None:
    assert len(app.listed("-n", "2")) == 2
    assert len(app.listed("-n", "100")) == 4
    assert len(app.dlq("list", "-n", "4").splitlines()) == 6
    _, first, count = app.dlq("list", "-n", "1").splitlines()
    assert first.startswith("minutes ")
    assert count == "1 of 4 dead letters", "all are counted"
    causes = json.loads(app.dlq("list", "-n", "1", "--json"))["causes"]
    assert sum(cause["count"] for cause in causes) == 4
    assert len(re.findall("^  failed ", app.dlq("show", "-n", "1"), re.MULTILINE)) == 1
    results = json.loads(app.dlq("replay", "-n", "1", "--json"))
    assert sum(sum(result["done"].values()) for result in results) == 1
    assert len(app.listed()) == 3


def test_replayed_event_is_handled_only_by_the_handler_that_failed_it(app: DeadLetterApp) -> None:
    app.fix_handler()
    output = app.dlq("replay", "--exception", "KeyError")
    assert f"minutes: 2 replayed to {app.name}.rides (2 KeyError); 1 remain\n" in output
    again = app.dlq("replay", "--exception", "KeyError")
    assert f"minutes: 0 replayed to {app.name}.rides; 1 remain\n" in again
    app.run_handlers()
    lines = app.run("tail", f"{app.name}.minutes", "--from", "earliest", "-n", "3").splitlines()
    assert sorted(json.loads(line)["value"]["ride_id"] for line in lines) == ["a", "b", "d"]
    assert app.audited() == ["a", "b", "d"], "each event once: the other handler received no replayed event"
    assert app.listed() == [("audit", "c"), ("minutes", "c")]


def test_replayed_event_that_fails_again_is_a_dead_letter_again(app: DeadLetterApp) -> None:
    app.dlq("replay", "--id", "b")
    app.run_handlers()
    assert app.listed() == ALL


def test_dropped_dead_letters_are_gone_and_the_others_remain(app: DeadLetterApp) -> None:
    assert "minutes: 1 dropped (1 DecodeError); 2 remain\n" in app.dlq("drop", "--id", "c")
    assert app.listed() == [("minutes", "b"), ("minutes", "d")]
    assert "select some, or confirm with --all" in app.dlq("drop", code=2)
    assert app.listed() == [("minutes", "b"), ("minutes", "d")]
    app.dlq("drop", "--all")
    assert app.dlq("list") == "no dead letters\n"
    assert app.dlq("replay") == "no dead letters\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("list", "--handler", "minute"),
            "no handler is named 'minute'; there are: minutes, audit; did you mean minutes?",
        ),
        (("list", "--since", "yesterday"), "is neither an age"),
        (("replay", "-n", "0"), "-n"),
    ],
)
def test_invalid_options_are_usage_errors(app: DeadLetterApp, args: tuple[str, ...], message: str) -> None:
    assert message in " ".join(app.dlq(*args, code=2).split())


def test_control_characters_in_an_event_are_escaped(app: DeadLetterApp) -> None:
    hostile = "\x1b[2J\u202etxt\x9b1m"
    topic = f"{app.name}.rides"
    row = json.dumps({"ride_id": hostile, "zone": hostile})
    app.run("publish", topic, "--id", "ride_id", stdin=row + "\n")
    app.run_handlers()
    for command in (("list", "-n", "9"), ("show",)):
        output = app.dlq(*command)
        assert r"\x1b[2J\u202etxt\x9b1m" in output
        assert all(c.isprintable() or c == "\n" for c in output)


def forge(hubs: Hubs, app: DeadLetterApp, id_: str, value: bytes = b'{"pay": "me"}', **claims: str) -> None:
    """Write a dead letter of the predictor, as anybody may who may write to its dead-letter topic."""
    fields = {"topic": f"{app.name}.rides", "partition": "0", "offset": "0", "group": f"{app.name}.minutes"}
    fields |= {"attempts": "1", "first-failure": "1.0", "last-failure": "2.0"}
    fields |= {"exception": "Forged", **claims}
    headers = {f"eventml-dlq-{name}": text for name, text in fields.items()}
    topic = f"{app.name}.rides.{app.name}.minutes.dlq"
    anyio.run(hubs["onehub://"].publish, [Record(topic, value, None, id_, headers)])


def test_a_dead_letter_that_names_another_topic_is_shown_and_not_replayed(
    app: DeadLetterApp, hubs: Hubs
) -> None:
    forge(hubs, app, "forged", topic="payments.commands")
    forge(hubs, app, "copied", group=f"{app.name}.audit")
    selected = ("--exception", "Forged")
    assert "(misplaced)" in app.dlq("list", *selected)
    listed = app.dlq("list", *selected, "-n", "9")
    assert "(misplaced)" in listed
    assert "payments.commands/0/0" in listed
    assert "minutes: 2 misplaced, not to be replayed: their headers name another" in app.run(
        "dlq", "list", "app:bus", *selected, stderr=True
    )
    found = json.loads(app.dlq("list", "--json"))["dead_letters"]
    assert {letter["id"] for letter in found if letter["misplaced"]} == {"forged", "copied"}
    shown = app.dlq("show", "--id", "copied")
    assert f"  misplaced names the group {app.name}.audit, and lies in {app.name}.rides." in shown
    output = app.dlq("replay", code=1)
    assert f"minutes: 3 replayed to {app.name}.rides (2 KeyError, 1 DecodeError); 2 remain\n" in output
    assert "minutes: 2 could not be replayed, and remain: their headers name another topic" in output
    results = json.loads(app.run("dlq", "replay", "app:bus", "--json", code=1).splitlines()[0])
    [result] = [result for result in results if result["handler"] == "minutes"]
    assert list(result["refused"].values()) == [2]
    assert "payments.commands" not in hubs["onehub://"].hub._topics
    assert app.listed() == [("minutes", "copied"), ("minutes", "forged")]
    assert "minutes: 2 dropped (2 Forged); 0 remain\n" in app.dlq("drop", "--handler", "minutes")
    assert app.dlq("list") == "no dead letters\n"


def test_a_dead_letter_whose_headers_are_no_utf8_costs_nothing_but_itself(
    app: DeadLetterApp, hubs: Hubs
) -> None:
    """A backend may deliver surrogates in their places, which JSON cannot hold."""
    forge(hubs, app, "id\udcff", exception="A\udcff", message="B\udcff", group="C\udcff")
    for command in ("list", "show"):
        found = json.loads(app.dlq(command, "--json", "--handler", "minutes", "--until", "1h"))
        [letter] = found["dead_letters"]
        assert (letter["id"], letter["exception"], letter["group"]) == (r"id\udcff", r"A\udcff", r"C\udcff")
        assert r"id\udcff" in app.dlq(command, "-n", "9")
    json.loads(app.dlq("replay", "--json", code=1))


def test_records_that_are_no_dead_letters_are_counted_and_can_be_dropped(
    app: DeadLetterApp, hubs: Hubs
) -> None:
    forge(hubs, app, "junk", attempts="x")
    told = "minutes: 1 records are no dead letters; `eventml dlq drop --all` removes them"
    for command in ("list", "show", "replay"):
        assert told in app.run("dlq", command, "app:bus", "--id", "b", stderr=True)
    results = json.loads(app.dlq("replay", "--json"))
    assert [result["unreadable"] for result in results if result["handler"] == "minutes"] == [1]
    assert "minutes: 1 dropped (1 (no dead letter)); 0 remain\n" in app.dlq("drop", "--all")
    assert told not in app.run("dlq", "list", "app:bus", stderr=True)


def test_large_and_deep_dead_letters_are_shown_in_little_more_than_their_size(
    app: DeadLetterApp, hubs: Hubs
) -> None:
    deep, large = b"[" * 200 + b"1" + b"]" * 200, b"[" + b"1," * 40_000 + b"1]"
    quoted = json.dumps(["[" * 30, '\\"' + "{" * 30]).encode()
    for value in (deep, large, quoted):
        forge(hubs, app, "big", value, exception="E" * 2000, message="m" * 2000, topic="t\n  value     1")
    shown = app.dlq("show", "--id", "big").splitlines()
    values = [line.removeprefix("  value     ") for line in shown if line.startswith("  value ")]
    assert values == [deep.decode(), large.decode(), "["], "only the last is not much larger indented"
    assert shown.count("  from      t value 1, partition 0, offset 0") == 3
    assert shown.count(f"  reason    {'m' * 1000}…") == 3
    [letter, *_] = json.loads(app.dlq("list", "--id", "big", "--json"))["dead_letters"]
    assert letter["exception"] == f"{'E' * 1000}…"


def test_bus_in_memory_is_a_usage_error(invoke: Invoke, folder: Path) -> None:
    app = DeadLetterApp(invoke, folder, "memory://")
    assert "lives in one process" in app.dlq("list", code=2)


def test_bus_without_dead_letters(invoke: Invoke, folder: Path) -> None:
    app = DeadLetterApp(invoke, folder, "onehub://")
    assert app.dlq("list") == "no dead letters\n"
    assert json.loads(app.dlq("list", "--json")) == {"dead_letters": [], "causes": []}


@pytest.mark.parametrize("broker", ["redis", "kafka"])
def test_commands_on_real_brokers(
    invoke: Invoke, folder: Path, broker: str, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue({"redis": "redis_server", "kafka": "kafka_broker"}[broker])
    app = DeadLetterApp(invoke, folder, server.url)
    assert app.dlq("list") == "no dead letters\n", "not even the topics exist"
    app.fail_rides()
    assert app.listed() == ALL
    app.fix_handler()
    assert "minutes: 2 replayed" in app.dlq("replay", "--exception", "KeyError")
    assert "minutes: 0 replayed" in app.dlq("replay", "--exception", "KeyError")
    assert app.listed() == [("audit", "c"), ("minutes", "c")]
    app.run_handlers()
    assert app.audited() == ["a", "b", "d"]
    app.dlq("drop", "--all")
    assert app.dlq("list") == "no dead letters\n"
