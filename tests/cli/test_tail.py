"""`eventml tail`: a topic's records as JSON lines, until one has had enough."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Hubs, Invoke, Start

FIVE = "onehub://?records=5"


def test_it_ends_after_so_many_and_reads_without_a_group(invoke: Invoke, hubs: Hubs) -> None:
    result = invoke("tail", "numbers", "--from", "earliest", "-n", "3", "--backend", FIVE)
    assert result.exit_code == 0
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == 3
    assert all(line["topic"] == "numbers" and str(line["value"]) == line["id"] for line in lines)
    assert hubs["onehub://"].groups == [None]


@pytest.mark.parametrize(("args", "expected"), [(("-n", "0"), "-n"), (("--from", "yesterday"), "--from")])
def test_options_that_make_no_sense_are_refused(invoke: Invoke, args: tuple[str, str], expected: str) -> None:
    result = invoke("tail", "numbers", *args)
    assert result.exit_code == 2
    assert expected in result.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_each_line_is_there_at_once_and_a_signal_ends_it(start: Start, number: signal.Signals) -> None:
    process = start("tail", "numbers", "--from", "earliest", "--backend", FIVE)
    assert process.stdout is not None
    assert sorted(json.loads(process.stdout.readline())["value"] for _ in range(5)) == [0, 1, 2, 3, 4]
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")


def test_it_begins_with_what_comes_from_now_on(start: Start) -> None:
    process = start("tail", "numbers", "--backend", FIVE)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (0, "", "")


def test_a_closed_pipe_ends_it_quietly_even_if_nothing_more_comes(start: Start) -> None:
    process = start("tail", "numbers", "--from", "earliest", "--backend", FIVE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert process.stderr.read() == ""


def test_a_pipe_closed_in_the_middle_of_writing_ends_it_quietly(start: Start) -> None:
    process = start("tail", "numbers", "--from", "earliest", "--backend", "onehub://?records=50000")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert process.stderr.read() == ""
