"""`eventml publish`: rows of a file or a pipe become events, and the bad ones are told apart."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, cast

import pytest

from eventml.cli.rows import Bad, Row
from eventml.cli.sending import Tally, chunks, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from eventml.producer import BlockingProducer
    from tests.cli.conftest import Invoke, Start

TO = ("--backend", "onehub://")


def tailed(invoke: Invoke, number: int, topic: str = "t") -> list[dict[str, Any]]:
    result = invoke("tail", topic, "--from", "earliest", "-n", str(number), *TO)
    assert result.exit_code == 0
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_rows_of_a_csv_become_events_with_keys_and_ids(invoke: Invoke, folder: Path) -> None:
    (folder / "rides.csv").write_text("ride,zone,distance,note\nr1,132,2.5,\nr2,7,10,late\n")
    result = invoke("publish", "t", "rides.csv", "--key", "zone", "--id", "ride", *TO)
    assert result.exit_code == 0
    assert result.stdout == "2 events published to t\n"
    assert result.stderr == ""
    events = sorted(tailed(invoke, 2), key=lambda event: str(event["id"]))
    assert [(event["id"], event["key"], event["value"]) for event in events] == [
        ("r1", "132", {"ride": "r1", "zone": 132, "distance": 2.5, "note": None}),
        ("r2", "7", {"ride": "r2", "zone": 7, "distance": 10, "note": "late"}),
    ]
    assert {event["headers"]["ce_type"] for event in events} == {"t"}


@pytest.mark.parametrize("file", [[], ["-"]])
def test_json_lines_come_from_standard_input(invoke: Invoke, file: list[str]) -> None:
    result = invoke(
        "publish", "t", *file, "--key", "k", *TO, stdin='{"k": "a", "n": 1}\n\n{"k": "a", "n": 2}\n'
    )
    assert result.exit_code == 0
    events = tailed(invoke, 2)
    assert [event["value"] for event in events] == [{"k": "a", "n": 1}, {"k": "a", "n": 2}]
    assert len({event["id"] for event in events}) == 2


def test_a_bad_line_is_reported_by_its_number_and_skipped(invoke: Invoke) -> None:
    lines = '{"k": 1}\nnonsense\n{"k": 2}\n{"n": 3}\n{"k": 4}'
    result = invoke("publish", "t", "--key", "k", *TO, stdin=lines)
    assert result.exit_code == 1
    assert result.stdout == "3 events published to t, 2 lines skipped\n"
    [second, fourth] = result.stderr.splitlines()
    assert second.startswith("skipped: line 2: JSON is malformed")
    assert fourth == "skipped: line 4: no text or number in the field 'k'"
    assert sorted(event["key"] for event in tailed(invoke, 3)) == ["1", "2", "4"]


def test_what_the_broker_refuses_is_reported_by_its_line(invoke: Invoke) -> None:
    lines = "".join(f'"{word}"\n' for word in ("a", "b", "refuse me", "c", "refuse"))
    result = invoke("publish", "t", *TO, "--format", "jsonl", "--json", stdin=lines)
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"topic": "t", "published": 3, "skipped": 2}
    assert result.stderr == "skipped: line 3: too sensitive\nskipped: line 5: too sensitive\n"
    assert sorted(event["value"] for event in tailed(invoke, 3)) == ["a", "b", "c"]


def test_a_rate_changes_nothing_but_the_time(invoke: Invoke) -> None:
    result = invoke(
        "publish", "t", "--rate", "1000", *TO, stdin="".join(f'{{"n": {n}}}\n' for n in range(120))
    )
    assert result.exit_code == 0
    assert sorted(event["value"]["n"] for event in tailed(invoke, 120)) == list(range(120))


def test_many_rows_arrive_all_and_in_their_order(invoke: Invoke) -> None:
    result = invoke(
        "publish", "t", "--key", "k", *TO, stdin="".join(f'{{"k": 1, "n": {n}}}\n' for n in range(5_000))
    )
    assert result.stdout == "5000 events published to t\n"
    assert [event["value"]["n"] for event in tailed(invoke, 5_000)] == list(range(5_000))


def test_the_topics_id_field_and_codec_come_from_configuration(invoke: Invoke, folder: Path) -> None:
    (folder / "eventml.toml").write_text(
        '[backend]\nurl = "onehub://"\n[topic.t]\nid_field = "ride"\ncodec = "msgpack"\n'
    )
    result = invoke("publish", "t", stdin='{"ride": "r1"}\n{"other": 1}\n')
    assert result.exit_code == 1
    assert "line 2: no text or number in the field 'ride'" in result.stderr
    [event] = tailed(invoke, 1)
    assert (event["id"], event["value"]) == ("r1", {"ride": "r1"})
    assert event["headers"]["content-type"] == "application/msgpack"


def test_the_command_lines_id_is_stronger_than_configuration(invoke: Invoke, folder: Path) -> None:
    (folder / "eventml.toml").write_text('[topic.t]\nid_field = "ride"\n')
    assert invoke("publish", "t", "--id", "n", *TO, stdin='{"n": 7}\n').exit_code == 0
    assert [event["id"] for event in tailed(invoke, 1)] == ["7"]


@pytest.mark.parametrize("command", [("publish", "t"), ("tail", "t")])
def test_a_bus_in_memory_is_out_of_reach_and_it_says_so(invoke: Invoke, command: tuple[str, ...]) -> None:
    result = invoke(*command, stdin="{}\n")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "memory:// lives in one process" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("file", "args", "reason"),
    [
        ("nothing.csv", (), "nothing.csv: No such file"),
        (".", (), "Is a directory"),
        ("bad.csv", (), "names each column"),
        ("good.csv", ("--text", "c"), "no column is named 'c'"),
    ],
)
def test_a_file_that_is_of_no_use_is_refused(
    invoke: Invoke, folder: Path, file: str, args: tuple[str, ...], reason: str
) -> None:
    (folder / "bad.csv").write_text("a,a\n1,2\n")
    (folder / "good.csv").write_text("a,b\n1,2\n")
    result = invoke("publish", "t", file, *args, *TO)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert "Traceback" not in result.output


def test_a_broker_out_of_reach_is_a_reason_and_no_traceback(invoke: Invoke) -> None:
    result = invoke("publish", "t", "--backend", "nosuch://u:secret@here", stdin="{}\n")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: backend.url: no backend is registered for nosuch://")
    assert "secret" not in result.output


def test_no_row_is_held_back_while_the_next_has_yet_to_come() -> None:
    at_hand = [True, True, False, True, False, False, True, False]
    bad = {5, 6}
    rows = [Bad(line, "bad") if line in bad else Row(line, line) for line in range(1, 9)]
    position = -1
    skipped: list[Bad] = []

    def source() -> Iterator[Row | Bad]:
        nonlocal position
        for position, row in enumerate(rows):  # noqa: B007 - read by what asks whether more is at hand
            yield row

    found = chunks(source(), 2, at_hand=lambda: at_hand[position], skip=skipped.append)
    assert [[row.line for row in chunk] for chunk in found] == [[1, 2], [3], [4], [7, 8]]
    assert [bad.line for bad in skipped] == [5, 6]


def test_an_interrupted_pipe_says_what_was_published(start: Start) -> None:
    process = start("publish", "t", "--format", "jsonl", *TO)
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write("bad\n")
    process.stdin.flush()
    assert process.stderr.readline().startswith("skipped: line 1")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert output == "0 events published to t, 1 lines skipped\n"
    assert process.returncode == 130


class Interrupted:
    """A producer during whose every write the user presses Ctrl-C."""

    def __init__(self, presses: int) -> None:
        self.presses = presses
        self.written: list[Any] = []

    def publish_many(self, _topic: str, events: list[Any], key: object) -> None:
        assert key is None
        for _ in range(self.presses):
            os.kill(os.getpid(), signal.SIGINT)
        self.written += events


@pytest.mark.parametrize(("presses", "published"), [(1, 1), (2, 0)])
def test_a_write_under_way_is_finished_and_counted_unless_one_insists(presses: int, published: int) -> None:
    producer, tally = Interrupted(presses), Tally("t")
    with pytest.raises(KeyboardInterrupt):
        send(
            cast("BlockingProducer", producer),
            [[Row(1, 1)], [Row(2, 2)]],
            tally,
            key=None,
            pace=None,
            sent=lambda: None,
        )
    assert (tally.published, len(producer.written)) == (published, published)


def test_the_progress_bar_is_drawn_on_a_terminal_only(folder: Path) -> None:
    (folder / "rides.csv").write_text("n\n" + "1\n" * 100)
    command = [sys.executable, "-m", "eventml", "publish", "t", "rides.csv", *TO]
    plain = subprocess.run(  # noqa: S603 - our own command
        command, capture_output=True, check=True, timeout=60
    )
    assert plain.stderr == b""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        subprocess.run(  # noqa: S603 - our own command
            command,
            stderr=theirs,
            check=True,
            timeout=60,
            stdout=subprocess.PIPE,
            env={**os.environ, "TERM": "xterm"},
        )
        drawn = os.read(terminal.fileno(), 65_536)
        os.close(theirs)
    assert b"100 events" in drawn
