"""`eventml publish`: rows of a file or a pipe become events, and the invalid ones are reported."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.cli.publish import (
    EventRow,
    PublishReport,
    batch_size,
    detect_format,
    gather_batches,
    publish_batch,
    read_csv,
    read_json_lines,
    require_fields,
)
from eventml.deploy.batch import BadRow, TextLines
from eventml.errors import SourceError

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


def test_an_event_that_the_broker_refuses_is_reported_by_its_line(invoke: Invoke) -> None:
    lines = "".join(f'"{word}"\n' for word in ("a", "b", "refuse me", "c", "refuse"))
    result = invoke("publish", "t", *TO, "--format", "jsonl", "--json", stdin=lines)
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"topic": "t", "published": 3, "skipped": 2}
    assert result.stderr == "skipped: line 3: too sensitive\nskipped: line 5: too sensitive\n"
    assert sorted(event["value"] for event in tailed(invoke, 3)) == ["a", "b", "c"]


def test_a_rate_changes_only_the_time(invoke: Invoke) -> None:
    begin = time.monotonic()
    result = invoke(
        "publish", "t", "--rate", "400", *TO, stdin="".join(f'{{"n": {n}}}\n' for n in range(120))
    )
    assert result.exit_code == 0
    assert time.monotonic() - begin >= 100 / 400, "the last 20 events follow the first 100"
    assert sorted(event["value"]["n"] for event in tailed(invoke, 120)) == list(range(120))


def test_many_rows_arrive_in_their_order(invoke: Invoke) -> None:
    result = invoke(
        "publish", "t", "--key", "k", *TO, stdin="".join(f'{{"k": 1, "n": {n}}}\n' for n in range(5_000))
    )
    assert result.stdout == "5000 events published to t\n"
    assert [event["value"]["n"] for event in tailed(invoke, 5_000)] == list(range(5_000))


def test_the_id_is_taken_from_the_field_that_is_named(invoke: Invoke) -> None:
    result = invoke("publish", "t", "--id", "ride", *TO, stdin='{"ride": "r1"}\n{"other": 1}\n')
    assert result.exit_code == 1
    assert "line 2: no text or number in the field 'ride'" in result.stderr
    [event] = tailed(invoke, 1)
    assert (event["id"], event["value"]) == ("r1", {"ride": "r1"})


@pytest.mark.parametrize("command", [("publish", "t"), ("tail", "t")])
def test_a_bus_in_memory_is_refused(invoke: Invoke, command: tuple[str, ...]) -> None:
    result = invoke(*command, stdin="{}\n")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "memory:// lives in one process" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("file", "args", "reason"),
    [
        ("nothing.csv", (), "nothing.csv': No such file"),
        (".", (), "Is a directory"),
        ("bad.csv", (), "two columns of one name"),
        ("good.csv", ("--text", "c"), "no column is named 'c'"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    invoke: Invoke, folder: Path, file: str, args: tuple[str, ...], reason: str
) -> None:
    (folder / "bad.csv").write_text("a,a\n1,2\n")
    (folder / "good.csv").write_text("a,b\n1,2\n")
    result = invoke("publish", "t", file, *args, *TO)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert "Traceback" not in result.output


def test_an_unreachable_broker_is_an_error_without_a_traceback(invoke: Invoke) -> None:
    result = invoke("publish", "t", "--backend", "nosuch://u:secret@here", stdin="{}\n")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: backend.url: no backend is registered for nosuch://")
    assert "secret" not in result.output


def test_a_batch_does_not_wait_for_a_row_that_is_not_available() -> None:
    available = [True, True, False, True, False, False, True, False]
    bad = {5, 6}
    rows = [BadRow(line, "bad", []) if line in bad else EventRow(line, line) for line in range(1, 9)]
    position = -1
    skipped: list[BadRow] = []

    def source() -> Iterator[EventRow | BadRow]:
        nonlocal position
        for position, row in enumerate(rows):  # noqa: B007 - read by `available`
            yield row

    found = gather_batches(source(), 2, available=lambda: available[position], skip=skipped.append)
    assert [[row.line for row in batch] for batch in found] == [[1, 2], [3], [4], [7, 8]]
    assert [row.line for row in skipped] == [5, 6]


def lines_of(data: bytes) -> TextLines:
    return TextLines(io.BytesIO(data), "rides")


@given(st.lists(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)))
def test_json_lines_are_read_as_they_were_written(events: list[object]) -> None:
    data = "".join(json.dumps(event) + "\n" for event in events).encode()
    assert list(read_json_lines(lines_of(data))) == [
        EventRow(line, event) for line, event in enumerate(events, 1)
    ]


def test_an_invalid_json_line_costs_only_itself() -> None:
    data = b'{"n": 1}\n\nnonsense\n{"n": 2}\n"\xff"\n' + b"[" * 10_000 + b'\n{"n": 3}'
    found = list(read_json_lines(lines_of(data)))
    assert [row.event for row in found if isinstance(row, EventRow)] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert [row.line for row in found if isinstance(row, BadRow)] == [3, 5, 6]


def test_text_columns_keep_their_text() -> None:
    assert list(read_csv(lines_of(b"id,n\n0012,0012\n7,7\n,\n"), "rides.csv", ("id",))) == [
        EventRow(2, {"id": "0012", "n": "0012"}),
        EventRow(3, {"id": "7", "n": 7}),
        EventRow(4, {"id": "", "n": None}),
    ]


def test_a_text_column_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SourceError, match="no column is named 'c'; there are: a, b"):
        list(read_csv(lines_of(b"a,b\n1,2\n"), "rides.csv", ("c",)))


def test_an_event_without_its_key_is_skipped() -> None:
    data = b'{"k": "a"}\n{"k": null}\n{}\n[]\n{"k": true}\n{"k": 7}\n'
    found = list(require_fields(read_json_lines(lines_of(data)), ("k",)))
    assert [row.line for row in found if isinstance(row, EventRow)] == [1, 6]
    assert all("'k'" in row.reason for row in found if isinstance(row, BadRow))


def test_nothing_makes_no_events() -> None:
    assert list(read_csv(lines_of(b""), "rides.csv")) == []
    assert list(read_json_lines(lines_of(b""))) == []


@pytest.mark.parametrize(
    ("suffix", "data", "form"),
    [
        (".csv", b"{}", "csv"),
        (".CSV", b"{}", "csv"),
        (".jsonl", b"a,b", "jsonl"),
        (".ndjson", b"a,b", "jsonl"),
        ("", b' {"a": 1}\n', "jsonl"),
        ("", b"\xef\xbb\xbf[1]\n", "jsonl"),
        (".txt", b"a,b\n", "csv"),
        ("", b"", "csv"),
    ],
)
def test_the_format_is_that_of_the_suffix_or_else_of_the_first_line(
    suffix: str, data: bytes, form: str
) -> None:
    lines = lines_of(data)
    assert detect_format(suffix, lines) == form
    assert b"".join(lines) == data.removesuffix(b"\n").removeprefix(b"\xef\xbb\xbf")


RATES = st.floats(0.001, 1e6)


@given(RATES)
def test_batches_are_small_enough_for_a_smooth_rate(rate: float) -> None:
    assert 1 <= batch_size(rate) <= 1_000
    assert batch_size(rate) == 1 or batch_size(rate) / rate <= 0.05
    assert batch_size(None) == 1_000


def test_an_interrupted_command_reports_what_was_published(start: Start) -> None:
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
    """A producer that is interrupted by Ctrl-C during each write."""

    def __init__(self, presses: int) -> None:
        self.presses = presses
        self.written: list[Any] = []

    def publish_many(self, _topic: str, events: list[Any], key: object) -> None:
        assert key is None
        for _ in range(self.presses):
            os.kill(os.getpid(), signal.SIGINT)
        self.written += events


@pytest.mark.parametrize(("presses", "published"), [(1, 1), (2, 0)])
def test_an_interrupted_write_is_finished_and_counted_unless_there_is_a_second_interrupt(
    presses: int, published: int
) -> None:
    producer, report = Interrupted(presses), PublishReport("t")
    with pytest.raises(KeyboardInterrupt):
        publish_batch(cast("BlockingProducer", producer), [EventRow(1, 1)], report, None)
    assert (report.published, len(producer.written)) == (published, published)


def test_the_progress_bar_is_drawn_on_a_terminal_only(folder: Path) -> None:
    (folder / "rides.csv").write_text("n\n" + "1\n" * 100)
    command = [sys.executable, "-m", "eventml", "publish", "t", "rides.csv", *TO]
    plain = subprocess.run(  # noqa: S603 - our own command
        command, capture_output=True, check=True, timeout=60
    )
    assert plain.stderr == b""
    reading, writing = pty.openpty()
    with os.fdopen(reading, "rb", buffering=0) as terminal:
        subprocess.run(  # noqa: S603 - our own command
            command,
            stderr=writing,
            check=True,
            timeout=60,
            stdout=writing,
            env={**os.environ, "TERM": "xterm"},
        )
        drawn = os.read(terminal.fileno(), 65_536)
        os.close(writing)
    assert b"100 events" in drawn
    *_, last = re.sub(rb"\x1b\[[?\d;]*[a-zA-Z]", b"", drawn).splitlines()
    assert last == b"100 events published to t", "a line of its own, below the bar"
