"""What a stranger publishes is shown by every command and both log formats, and controls no terminal."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import anyio
import msgspec
import pytest
from rich.console import Console

from eventml.cli import output
from eventml.deploy.workers import HostPort
from eventml.deploy.workers.logs import prefix_printer, print_json
from eventml.printable import printable
from eventml.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Hubs, Invoke

FORGED = "2026-01-01T00:00:00.000Z ERROR forged"
HOSTILE = (
    f"\x1b[2J\x9b1m\u202e\n{FORGED}\r\u2028\x07\x7f\u200e\u2069\U000e0041[red]markup[/red][link=https://evil]"
)
SHOWN = r"\x1b[2J\x9b1m\u202e"  # how its beginning is shown
APP = f"""
import logging
import sys
import warnings

import eventml
import msgspec
from eventml import Record

HOSTILE = {HOSTILE!r}

class Ride(msgspec.Struct, forbid_unknown_fields=True):
    ride_id: str

bus = eventml.Bus("hostile")

@bus.consumer("rides", retries=0)
def strict(ride: Ride) -> None:
    pass

@bus.consumer("rides", retries=0)
def fails(ride: dict) -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.getLogger("app").exception("%s", HOSTILE)
    if "pytest" not in sys.modules:  # in a process of its own
        warnings.warn(HOSTILE)
        print(HOSTILE, flush=True)
    raise type("E" + HOSTILE, (Exception,), {{}})(HOSTILE)

async def publish():
    headers = {{"x" + HOSTILE: HOSTILE}}
    value = msgspec.json.encode({{"ride_id": HOSTILE, HOSTILE: HOSTILE}})
    await bus.backend.publish([Record("rides", value, HOSTILE.encode(), "id" + HOSTILE, headers)])
"""
PUBLISHES = """
@bus.consumer("numbers")
async def publishes(number: int) -> None:
    await publish()
"""
RECORDS = "onehub://?records=1"


def check(text: str, *, terminal: bool = False) -> None:
    """Fail if a text has a character that is not printable, or a line that a stranger wrote."""
    if terminal:
        text = re.sub(r"\x1b\[[\d;]*m", "", text)  # colours, which are ours
    assert printable(text, keep="\n\t") == text
    assert not any(line.startswith("2026-01-01") for line in text.splitlines())


@pytest.fixture
def app(invoke: Invoke, folder: Path, hubs: Hubs) -> None:
    """A bus with a hostile record in its topic, and the dead letters of it."""
    (folder / "app.py").write_text(APP + PUBLISHES)
    result = invoke("run", "app:bus", "--until-idle", "0.2", "--backend", RECORDS)
    assert result.exit_code == 0, result.output
    assert hubs


DLQ = "rides.hostile.fails.dlq"
COMMANDS = [
    "tail rides --from earliest -n 1",
    f"tail {DLQ} --from earliest -n 1",
    "dlq list app:bus",
    "dlq list app:bus --json",
    "dlq show app:bus",
    "dlq show app:bus --json",
    "dlq replay app:bus",
    "dlq drop app:bus --all --json",
    "lag app:bus",
    "lag app:bus --json",
    "check app:bus",
]


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("command", COMMANDS)
def test_command_shows_a_hostile_record_printable(invoke: Invoke, command: str) -> None:
    result = invoke(*command.split(), "--backend", "onehub://")
    assert result.exit_code == 0, result.output
    check(result.stdout)
    check(result.stderr)
    if "--json" in command:
        assert len(result.stdout.splitlines()) == 1
        json.loads(result.stdout)
    if command.startswith("tail"):
        [line] = map(json.loads, result.stdout.splitlines())
        assert (line["id"], line["key"]) == (f"id{HOSTILE}", HOSTILE)
        assert line["headers"][f"x{HOSTILE}"] == HOSTILE
        assert line["value"] == {"ride_id": HOSTILE, HOSTILE: HOSTILE}
    if command.startswith(("dlq l", "dlq s")):
        assert "[red]markup[/red]" in result.stdout
    if command in {"dlq list app:bus", "dlq show app:bus"}:
        assert f"id{SHOWN}" in result.stdout
        assert f"E{SHOWN}" in result.stdout


def test_publish_reports_hostile_lines_printable(invoke: Invoke, folder: Path) -> None:
    lines = [json.dumps({HOSTILE: 1, "id": HOSTILE}), f'{{"{HOSTILE}": 1}}', '{"refuse": 1, "id": "a"}']
    text = "\n".join(lines)
    result = invoke("publish", "rides", "--id", "id", "--backend", RECORDS, stdin=text)
    assert result.exit_code == 1
    check(result.output)
    (folder / "rides.csv").write_text(f'"{HOSTILE}"\n1\n')
    result = invoke("publish", "rides", "rides.csv", "--text", "x", "--backend", RECORDS)
    assert result.exit_code == 2
    assert SHOWN in result.stderr
    check(result.output)


def test_score_shows_hostile_rows_printable_and_keeps_them_exactly(invoke: Invoke, folder: Path) -> None:
    (folder / "app.py").write_text(APP)
    row = {"ride_id": HOSTILE, HOSTILE: HOSTILE}
    (folder / "rides.jsonl").write_bytes(msgspec.json.encode(row) + b"\n")
    predictor = """
@bus.predictor("rides", to="out", retries=0)
def predicts(rides: list[dict]) -> list[dict]:
    raise ValueError(HOSTILE)
"""
    (folder / "app.py").write_text(APP + predictor)
    result = invoke("score", "app:predicts", "--from", "rides.jsonl", "--to", "out.jsonl", "--id", "ride_id")
    assert result.exit_code == 3, result.output
    check(result.output)
    rejects = (folder / "out.jsonl.rejects.jsonl").read_text()
    check(rejects)
    [rejected] = map(json.loads, rejects.splitlines())
    assert rejected["id"] == HOSTILE
    assert json.loads(rejected["row"])[HOSTILE] == HOSTILE


@contextmanager
def answering(body: bytes) -> Iterator[HostPort]:
    """A server on this machine that gives one answer to all who connect."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):  # the test has ended
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(65_536)
                        connection.sendall(body)

        thread = threading.Thread(target=serve)
        thread.start()
        yield HostPort("127.0.0.1", server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)  # ends the wait for another connection
        thread.join(10)


@pytest.mark.parametrize(
    ("prefix", "code"), [(b"HTTP/1.0 200 OK\r\n\r\n", 0), (b"HTTP/1.0 503 No\r\n\r\n", 2), (b"", 1)]
)
def test_top_shows_a_hostile_service_printable(
    invoke: Invoke, folder: Path, prefix: bytes, code: int
) -> None:
    (folder / "app.py").write_text(APP)
    label = HOSTILE.replace("\x9b", "")
    handler = {"group": label, "totals": {"received": [1]}, "model": [label, label]}
    worker = {"name": label, "pid": 1, "state": "ready", "handlers": {f"h{label}": handler}}
    status = {"bus": "hostile", "workers": [worker], "unready": [label], "stuck": label}
    text = msgspec.json.encode(status) if code == 0 else label.replace("\n", "").encode()
    body = prefix + text
    with answering(body) as address:
        result = invoke("top", "app:bus", "--once", "--every", "0.2", "--at", str(address))
    assert result.exit_code == code, result.output
    check(result.output)
    assert r"\x1b" in result.output


@pytest.mark.parametrize("label", ["error", ""])
def test_message_on_a_terminal_is_text_without_markup(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=500)
    monkeypatch.setattr(output, "stderr_console", lambda: console)
    output.print_message(HOSTILE, label)
    shown = console.file.getvalue()  # type: ignore[attr-defined] # a StringIO
    check(shown, terminal=True)
    assert "[red]markup[/red][link=https://evil]" in shown


def test_log_on_a_terminal_is_text_without_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=500)
    monkeypatch.setattr(output, "stderr_console", lambda: console)
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.getLogger("eventml"), "level", logging.INFO)  # and so it is set back
    output.start_logging()
    logging.getLogger("app").warning("%s", HOSTILE)
    shown = console.file.getvalue()  # type: ignore[attr-defined] # a StringIO
    check(shown, terminal=True)
    assert "[red]markup[/red][link=https://evil]" in shown


@pytest.mark.usefixtures("app")
def test_dead_letter_whose_headers_are_not_utf_8_is_shown(invoke: Invoke, hubs: Hubs) -> None:
    numbers = dict.fromkeys(("partition", "offset", "attempts", "first-failure", "last-failure"), "1")
    texts = {"topic": "rides", "group": "hostile.fails", "exception": "E\udc9b", "message": "m\udc9b"}
    headers = {f"eventml-dlq-{name}": text for name, text in {**numbers, **texts}.items()}
    headers["x\udc9b"] = "\udc9b"
    anyio.run(hubs["onehub://"].publish, [Record(DLQ, b"1", b"\xff", "i\udc9b", headers)])
    for command in ("list", "show", "list --json", "show --json", "drop --all --json"):
        result = invoke("dlq", *command.split(), "app:bus", "--backend", "onehub://")
        assert result.exit_code == 0, result.output
        check(result.stdout)
        assert r"\udc9b" in result.stdout
        if "--json" in command:
            msgspec.json.decode(result.stdout)


def run(folder: Path, code: str, *args: str, command: str = "run") -> subprocess.CompletedProcess[str]:
    (folder / "app.py").write_text(code)
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "eventml", command, "app:bus", "--backend", RECORDS, *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("workers", [(), ("--workers", "1", "--operations", "off")], ids=["one", "workers"])
@pytest.mark.parametrize("form", ["text", "json"])
def test_log_shows_hostile_text_printable(folder: Path, form: str, workers: tuple[str, ...]) -> None:
    done = run(folder, APP + PUBLISHES, "--until-idle", "0.3", "--log-format", form, *workers)
    assert done.returncode == 0, done.stderr
    check(done.stderr)
    assert "moved to the dead letters" in done.stderr
    assert "[red]markup[/red][link=https://evil]" in done.stderr
    if form == "json":
        records = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
        assert HOSTILE in [record["message"] for record in records if record["logger"] == "app"]
        assert len(records) == len(done.stderr.splitlines()) or not workers
    else:
        assert "unknown field" not in done.stderr, "its name is the event's"
        assert f"    ValueError: {SHOWN}" in done.stderr, "a traceback keeps its lines, indented"
        begins = re.compile(r"(supervisor \| |worker-1   \| )?(20|    |\S+app.py:|\\x1b)")
        assert all(map(begins.match, done.stderr.splitlines()))


LOADS = """
@bus.lifespan
def table():
    raise RuntimeError(HOSTILE)
    yield
@bus.consumer("numbers")
def uses(number: int, table) -> None:
    pass
"""


@pytest.mark.parametrize("code", [LOADS, "raise RuntimeError(HOSTILE)\n"], ids=["lifespan", "import"])
def test_error_of_the_app_is_shown_printable(folder: Path, code: str) -> None:
    done = run(folder, APP + code)
    assert done.returncode == 1
    check(done.stderr)
    assert f"RuntimeError: {SHOWN}" in done.stderr
    assert "Traceback" in done.stderr


def test_relayed_line_that_is_no_json_object_becomes_one(capfd: pytest.CaptureFixture[str]) -> None:
    for line in ('{"a":\t"\x9b\u202e"}', "{no JSON", "[1]", HOSTILE.replace("\n", "")):
        print_json("worker-1", line)
        prefix_printer(8)("worker-1", line)
    lines = capfd.readouterr().err.splitlines()
    check("\n".join(lines))
    assert json.loads(lines[0]) == {"a": "\x9b\u202e"}
    assert [json.loads(line)["message"] for line in lines[2::2]] == [
        "{no JSON",
        "[1]",
        HOSTILE.replace("\n", ""),
    ]


def test_only_the_shared_module_prints(request: pytest.FixtureRequest) -> None:
    folder = request.config.rootpath / "src" / "eventml" / "cli"
    writes = re.compile(r"typer\.echo|\bprint\(|\.print\(|(stdout|stderr)(\.buffer)?\.write|secho")
    found = Counter({path.name: len(writes.findall(path.read_text("utf-8"))) for path in folder.glob("*.py")})
    # One of output.py makes a page of HTML. Of the others, one writes what `delivery_to_json` returns,
    # one the version, and one pure ASCII.
    assert +found == {"output.py": 5, "tail.py": 1, "app.py": 1, "__init__.py": 1}, "use `print_text`"
