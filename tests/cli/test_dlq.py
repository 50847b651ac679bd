"""`eventml dlq`: dead letters listed, shown, replayed and dropped."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Invoke

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
    if ride.zone == 9 and not Path("mended").exists():
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


class Letters:
    """An app with two dead letters of one kind and one of another, and the commands on it."""

    def __init__(self, invoke: Invoke, folder: Path, backend: str) -> None:
        self._invoke = invoke
        self._folder = folder
        self._backend = ("--backend", backend)
        self.name = f"dlq{uuid4().hex[:8]}"
        (folder / "app.py").write_text(APP.format(name=self.name))

    def make(self) -> None:
        self.run("topics", "create", "app:bus")
        rides = "".join(json.dumps(ride) + "\n" for ride in RIDES)
        self.run("publish", f"{self.name}.rides", "--id", "ride_id", stdin=rides)
        self.handle()

    def handle(self) -> None:
        self.run("run", "app:bus", "--until-idle", "0.3")

    def mend(self) -> None:
        (self._folder / "mended").touch()

    def run(self, *args: str, code: int = 0, stdin: str | None = None) -> str:
        result = self._invoke(*args, *self._backend, stdin=stdin)
        assert result.exit_code == code, result.output
        return result.stdout if code == 0 else result.output

    def dlq(self, command: str, *args: str, code: int = 0) -> str:
        return self.run("dlq", command, "app:bus", *args, code=code)

    def listed(self, *args: str) -> list[tuple[str, str]]:
        """Handler and event of each letter that is listed."""
        found = json.loads(self.dlq("list", "--json", *args))["letters"]
        return sorted((letter["handler"], letter["id"]) for letter in found)

    def audited(self) -> list[str]:
        return sorted((self._folder / "audited").read_text().split())


@pytest.fixture
def letters(invoke: Invoke, folder: Path) -> Letters:
    found = Letters(invoke, folder, "onehub://")
    found.make()
    return found


ALL = [("audit", "c"), ("minutes", "b"), ("minutes", "c"), ("minutes", "d")]


def test_letters_are_listed_and_counted_and_looking_changes_nothing(letters: Letters) -> None:
    first = letters.dlq("list")
    assert letters.dlq("list") == first
    assert "minutes: 3 dead letters (2 KeyError, 1 DecodeError)\n" in first
    assert "audit: 1 dead letter (1 DecodeError)\n" in first
    rows = [re.split(r"  +", line) for line in first.splitlines()]
    assert rows[0] == ["handler", "id", "exception", "tries", "failed (UTC)", "from", "reason"]
    [row] = [row for row in rows if row[:2] == ["minutes", "b"]]
    assert row[2:4] == ["KeyError", "1"]
    assert row[5].startswith(f"{letters.name}.rides/")
    assert row[6] == "9"
    assert letters.listed() == ALL


def test_the_list_for_a_machine_has_every_detail(letters: Letters) -> None:
    found = json.loads(letters.dlq("list", "--json", "--id", "b"))
    [letter] = found["letters"]
    assert found["counts"] == {"minutes": {"KeyError": 1}}
    expected: dict[str, Any] = {
        "handler": "minutes",
        "id": "b",
        "exception": "KeyError",
        "message": "KeyError: 9",
        "attempts": 1,
        "topic": f"{letters.name}.rides",
    }
    assert {name: letter[name] for name in expected} == expected
    assert "in look_up: raise KeyError(ride.zone)" in letter["traceback"]


def test_a_letter_is_shown_readably(letters: Letters) -> None:
    shown = letters.dlq("show", "--id", "b")
    lines = shown.splitlines()
    assert lines[0] == "minutes: b"
    assert any(
        re.fullmatch(r"  failed    \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, after 1 try", line) for line in lines
    )
    assert "  reason    KeyError: 9" in lines
    assert re.search(r"  traceback app:\d+ in minutes: return", shown)
    assert re.search(r"            app:\d+ in look_up: raise KeyError\(ride.zone\)", shown)
    value = lines.index("  value     {")
    assert [line.strip() for line in lines[value + 1 : value + 4]] == ['"ride_id": "b",', '"zone": 9', "}"]
    assert "eventml-dlq" not in shown, "it has been said in words"
    whole = json.loads(letters.dlq("show", "--id", "b", "--json"))
    assert whole["letters"][0]["record"]["value"] == RIDES[1]


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
def test_letters_are_chosen_by_options(
    letters: Letters, args: tuple[str, ...], found: list[tuple[str, str]]
) -> None:
    assert letters.listed(*args) == found


def test_so_many_at_most(letters: Letters) -> None:
    assert len(letters.listed("-n", "2")) == 2
    assert len(letters.listed("-n", "100")) == 4
    tallies = json.loads(letters.dlq("replay", "-n", "1", "--json"))
    assert sum(sum(t["tally"]["chosen"].values()) for t in tallies) == 1
    assert len(letters.listed()) == 3


def test_what_is_replayed_is_handled_by_the_handler_that_failed_it_and_by_no_other(letters: Letters) -> None:
    letters.mend()
    said = letters.dlq("replay", "--exception", "KeyError")
    assert f"minutes: 2 replayed to {letters.name}.rides (2 KeyError); 1 left\n" in said
    again = letters.dlq("replay", "--exception", "KeyError")
    assert f"minutes: 0 replayed to {letters.name}.rides; 1 left\n" in again
    letters.handle()
    lines = letters.run("tail", f"{letters.name}.minutes", "--from", "earliest", "-n", "3").splitlines()
    assert sorted(json.loads(line)["value"]["ride_id"] for line in lines) == ["a", "b", "d"]
    assert letters.audited() == ["a", "b", "d"], "each once: the other handler had none of it again"
    assert letters.listed() == [("audit", "c"), ("minutes", "c")]


def test_what_fails_again_is_a_dead_letter_again(letters: Letters) -> None:
    letters.dlq("replay", "--id", "b")
    letters.handle()
    assert letters.listed() == ALL


def test_a_dry_run_says_what_would_be_done_and_does_nothing(letters: Letters) -> None:
    would = letters.dlq("replay", "--exception", "KeyError", "--dry-run")
    assert f"minutes: 2 would be replayed to {letters.name}.rides (2 KeyError)\n" in would
    assert "minutes: 3 would be dropped (2 KeyError, 1 DecodeError)\n" in letters.dlq("drop", "--dry-run")
    assert letters.listed() == ALL


def test_what_is_dropped_is_gone_and_the_rest_stays(letters: Letters) -> None:
    assert "minutes: 1 dropped (1 DecodeError); 2 left\n" in letters.dlq("drop", "--id", "c")
    assert letters.listed() == [("minutes", "b"), ("minutes", "d")]
    assert "choose some by an option, or say --all" in letters.dlq("drop", code=2)
    assert letters.listed() == [("minutes", "b"), ("minutes", "d")]
    letters.dlq("drop", "--all")
    assert letters.dlq("list") == "no dead letters\n"
    assert letters.dlq("replay") == "no dead letters\n"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("list", "--handler", "durations"), "no handler is named 'durations'; there are: minutes, audit"),
        (("list", "--since", "yesterday"), "is neither an age"),
        (("replay", "-n", "0"), "-n"),
    ],
)
def test_options_that_make_no_sense_are_refused(letters: Letters, args: tuple[str, ...], says: str) -> None:
    assert says in " ".join(letters.dlq(*args, code=2).split())


def test_a_hostile_payload_does_nothing_to_the_terminal(letters: Letters) -> None:
    hostile = "\x1b[2J\u202etxt\x9b1m"
    topic = f"{letters.name}.rides"
    row = json.dumps({"ride_id": hostile, "zone": hostile})
    letters.run("publish", topic, "--id", "ride_id", stdin=row + "\n")
    letters.handle()
    for command in ("list", "show"):
        said = letters.dlq(command)
        assert r"\x1b[2J\u202etxt\x9b1m" in said
        assert all(c.isprintable() or c == "\n" for c in said)


def test_a_bus_that_lives_in_another_process_is_refused(invoke: Invoke, folder: Path) -> None:
    letters = Letters(invoke, folder, "memory://")
    assert "lives in one process" in letters.dlq("list", code=2)


def test_nothing_there_is_no_error(invoke: Invoke, folder: Path) -> None:
    letters = Letters(invoke, folder, "onehub://")
    assert letters.dlq("list") == "no dead letters\n"
    assert json.loads(letters.dlq("list", "--json")) == {"letters": [], "counts": {}}


@pytest.mark.parametrize("broker", ["redis", "kafka"])
def test_it_works_on_real_brokers(
    invoke: Invoke, folder: Path, broker: str, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue({"redis": "redis_server", "kafka": "kafka_broker"}[broker])
    letters = Letters(invoke, folder, server.url)
    assert letters.dlq("list") == "no dead letters\n", "not even the topics are there"
    letters.make()
    assert letters.listed() == ALL
    letters.mend()
    assert "minutes: 2 replayed" in letters.dlq("replay", "--exception", "KeyError")
    assert "minutes: 0 replayed" in letters.dlq("replay", "--exception", "KeyError")
    assert letters.listed() == [("audit", "c"), ("minutes", "c")]
    letters.handle()
    assert letters.audited() == ["a", "b", "d"]
    letters.dlq("drop", "--all")
    assert letters.dlq("list") == "no dead letters\n"
