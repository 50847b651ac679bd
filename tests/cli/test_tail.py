"""`eventml tail`: the records of a topic as JSON lines, and what stops it."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import anyio
import pytest

from eventml.cli.buses import bus_without_app
from eventml.cli.tail import print_topic
from eventml.records import Record

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Hubs, Invoke, Start

FIVE = "onehub://?records=5"


def test_it_stops_after_n_records_and_joins_no_group(invoke: Invoke, hubs: Hubs) -> None:
    result = invoke("tail", "numbers", "--from", "earliest", "-n", "3", "--backend", FIVE)
    assert result.exit_code == 0
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == 3
    assert all(line["topic"] == "numbers" and str(line["value"]) == line["id"] for line in lines)
    assert hubs["onehub://"].groups == [None]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("-n", "0"), "-n"),
        (("--from", "yesterday"), "--from"),
        (("--from", "2099-01-01"), "--from"),
        (("--from", "999999999999d"), "--from"),
        (("--until", "soon"), "--until"),
        (("--until", "latest"), "--until"),
    ],
)
def test_invalid_options_are_usage_errors(invoke: Invoke, args: tuple[str, str], expected: str) -> None:
    result = invoke("tail", "numbers", *args)
    assert result.exit_code == 2
    assert expected in result.output


def test_two_ends_are_a_usage_error(invoke: Invoke) -> None:
    result = invoke("tail", "numbers", "--until", "2h", "--until-end")
    assert result.exit_code == 2
    assert "--until and --until-end" in result.output


def test_it_ends_where_the_topic_ends(invoke: Invoke) -> None:
    """It begins with the oldest record then, if nothing else is said."""
    assert invoke("tail", "empty", "--until-end", "-n", "3", "--backend", FIVE).stdout == ""
    assert len(invoke("tail", "numbers", "--until-end", "--backend", FIVE).stdout.splitlines()) == 10
    latest = invoke("tail", "numbers", "--from", "latest", "--until-end", "--backend", FIVE)
    assert (latest.exit_code, latest.stdout) == (0, "")


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        (("--from", "1h", "--until-end"), 5),
        (("--from", "PT1H", "--until-end"), 5),
        (("--from", "0s", "--until-end"), 0),
        (("--from", "2026-01-05T08:00", "--until-end"), 5),
        (("--from", "2026-01-05T08:00+01:00", "--until", "1h"), 0),
        (("--until", "0s"), 5),
        (("--until", "PT1H"), 0),
        (("--until", "2026-01-05"), 0),
    ],
)
def test_it_prints_what_is_between_two_times(invoke: Invoke, limits: tuple[str, ...], count: int) -> None:
    result = invoke("tail", "numbers", *limits, "--backend", FIVE)
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, count)


def test_a_table_of_a_bus_named_cli_does_not_configure_it(invoke: Invoke, folder: Path, hubs: Hubs) -> None:
    (folder / "eventml.toml").write_text(f'backend = "{FIVE}"\n[bus.cli]\nbackend = "onehub://app"')
    assert len(invoke("tail", "numbers", "--until-end").stdout.splitlines()) == 5
    assert set(hubs) == {"onehub://"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_each_record_is_printed_at_once_and_a_signal_stops_it(start: Start, number: signal.Signals) -> None:
    process = start("tail", "numbers", "--from", "earliest", "--backend", FIVE)
    assert process.stdout is not None
    assert sorted(json.loads(process.stdout.readline())["value"] for _ in range(5)) == [0, 1, 2, 3, 4]
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("missing",), "the topic missing is empty, or does not exist yet; waiting for its first record\n"),
        (("missing", "--from", "1h", "-n", "3"), "the topic missing is empty, or does not exist yet"),
        (
            ("numbers", "-n", "3"),
            "waiting for new records of numbers; --from earliest prints the older ones\n",
        ),
    ],
)
def test_it_says_that_it_waits(start: Start, args: tuple[str, ...], said: str) -> None:
    process = start("tail", *args, "--backend", FIVE)
    assert process.stderr is not None
    assert process.stderr.readline().startswith(said)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_it_prints_records_published_from_now_on(
    hubs: Hubs, capsys: pytest.CaptureFixture[str]
) -> None:
    bus = bus_without_app(FIVE)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(print_topic, bus, "numbers", "latest", 2)
        await anyio.wait_all_tasks_blocked()
        await hubs["onehub://"].publish([Record("numbers", b"%d" % number) for number in (6, 7)])
    lines = capsys.readouterr().out.splitlines()
    assert sorted(json.loads(line)["value"] for line in lines) == [6, 7]


def test_closed_pipe_stops_it_without_a_further_record(start: Start) -> None:
    process = start("tail", "numbers", "--from", "earliest", "--backend", FIVE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert process.stderr.read() == ""


def test_pipe_closed_while_it_writes_stops_it(start: Start) -> None:
    process = start("tail", "numbers", "--from", "earliest", "--backend", "onehub://?records=50000")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert process.stderr.read() == ""
