"""What README and docs print runs as printed, from an empty folder, with eventml installed from its wheel."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
import tomllib
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.docs import wheel
from tests.docs.exceptions import NOT_RUN
from tests.docs.printed import (
    CONTEXTS,
    NOT_HERE,
    PAGES,
    Block,
    blocks_of,
    commands_of,
    name_of,
    program_of,
    runs_on,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SESSION: Final = Path(__file__).with_name("session.py")
LIMIT: Final = 60.0  # seconds for one command
BLOCKS: Final = {name_of(page): blocks_of(page) for page in PAGES}
KINDS: Final = {"python", "shell", "toml", "json", "text", "mermaid", "yaml"}


def marks(page: str) -> list[pytest.MarkDecorator]:
    """The brokers that the commands of a page need."""
    run = [block for block in BLOCKS[page] if block.kind in ("python", "shell") and not block.alone]
    text = "\n".join(block.text for block in run)
    needs = {
        "redis": "localhost:6379" in text or bool(contexts(page)),
        "kafka": "localhost:9092" in text,
    }
    return [pytest.mark.slow, *(getattr(pytest.mark, name) for name, needed in needs.items() if needed)]


def contexts(page: str) -> list[Path]:
    """The folders with what a page takes as known.

    They are `rides/`, if it prints commands for `rides:bus` or begins with names of that app, and its own.
    """
    commands = "".join(block.text for block in BLOCKS[page] if block.kind == "shell")
    own = CONTEXTS / page.replace("/", "-").removesuffix(".md")
    named = "rides:" in commands and not any(block.file == "rides.py" for block in BLOCKS[page])
    found = {CONTEXTS / "rides": named or (own / "before.py").exists(), own: own.is_dir()}
    return [folder for folder, taken in found.items() if taken]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the programs of the installed wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    return wheel.install_beside(wheel.build_wheel(folder), folder / "venv")


class Reader:
    """A reader who follows a page in an empty folder.

    Args:
        addresses: The addresses that a page prints, and those that stand for them here.
    """

    def __init__(
        self, page: str, folder: Path, environ: dict[str, str], addresses: Callable[[str], str]
    ) -> None:
        self.page = page
        self.folder = folder
        self.environ = environ
        self.addresses = addresses
        self.before = ""  # what the page takes as known
        self.session: list[tuple[str, str]] = []
        self.left = 0  # how much of the session has been run
        self.running: list[tuple[str, subprocess.Popen[bytes], Path]] = []

    def take(self, context: Path) -> None:
        """Copy the files that the page takes as known, and make those that `prepare.py` makes."""
        for file in sorted(context.iterdir()):
            if file.name == "before.py":
                self.before = file.read_text()
            elif file.is_file():
                (self.folder / file.name).write_text(self.addresses(file.read_text()))
        if (context / "prepare.py").exists():
            self.run("python prepare.py")

    def follow(self, blocks: list[Block]) -> None:
        """Do what the blocks of the page say, in their order."""
        for block in blocks:
            if block.file:
                self.write(block)
            elif block.kind == "python" and not block.alone and reason(self.page, block.text) is None:
                self.session.append((block.place, self.addresses(block.text)))
            elif block.kind == "shell":
                self.run_session()
                start = self.folder
                for command in commands_of(block):
                    if program_of(command) == "cd":
                        self.folder /= command.split()[1]
                    elif reason(self.page, command) is None:
                        self.run(self.addresses(command))
                self.folder = start
        self.run_session()
        tests = {block.file for block in blocks if block.file and Path(block.file).name.startswith("test_")}
        if tests := {name for name in tests if reason(self.page, name) is None}:
            self.run(f"python -m pytest -q -p no:schemathesis -p no:cacheprovider {' '.join(sorted(tests))}")

    def write(self, block: Block) -> None:
        """Write the file that a block is."""
        assert block.file
        path = self.folder / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if block.continued else "w") as file:
            file.write(("\n\n" if block.continued else "") + self.addresses(block.text))

    def run_session(self) -> None:
        """Run the Python of the page so far, if there is more than at the last time."""
        if len(self.session) > self.left:
            self.left = len(self.session)
            blocks = [("before", self.before), *self.session]
            done = subprocess.run(  # noqa: S603 - our own interpreter
                ["python", str(SESSION)],  # noqa: S607 - that of the wheel, by PATH
                input=json.dumps(blocks),
                cwd=self.folder,
                env=self.environ,
                capture_output=True,
                text=True,
                timeout=LIMIT,
                check=False,
            )
            assert done.returncode == 0, done.stderr

    def run(self, command: str) -> None:
        """Run a command; one that runs until it is stopped goes on while the page is followed."""
        log = self.folder / f".log-{time.monotonic_ns()}"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - what our own pages print
                ["bash", "-c", command],  # noqa: S607 - wherever it is
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        if not runs_on(command):
            try:
                status = process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                self.stop(process)
                pytest.fail(f"{self.page}: `{command}` did not end:\n{log.read_text()}")
            assert status == 0, f"{self.page}: `{command}` ended with {status}:\n{log.read_text()}"
            return
        self.running.append((command, process, log))
        said = {"serve": "serving on http", "run": " INFO "}
        word = re.search(r"eventml (run|serve)\b", command)
        deadline = time.monotonic() + LIMIT
        while word and said[word[1]] not in log.read_text():
            assert process.poll() is None, f"{self.page}: `{command}` ended:\n{log.read_text()}"
            assert time.monotonic() < deadline, f"{self.page}: `{command}` is not ready:\n{log.read_text()}"
            time.sleep(0.05)

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        """Stop a command with SIGTERM, and return its status."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            return process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait()

    def leave(self) -> None:
        """Stop what still runs; none of it may have failed."""
        ended = [(command, self.stop(process), log) for command, process, log in self.running]
        for command, status, log in ended:
            stopped = status in (0, -signal.SIGTERM)  # the shell of a pipeline ends by it
            assert stopped, f"{self.page}: `{command}` ended with {status}:\n{log.read_text()}"


def reason(page: str, text: str) -> str | None:
    """Why a block or a command of a page is not run; None if it is."""
    for (one, part), why in NOT_RUN.items():
        if one == page and part in text:
            return why
    if "\n" in text:
        return None
    if (program := program_of(text)) in NOT_HERE:
        return NOT_HERE[program]
    missing = {"jq", "kcat"} & set(re.findall(r"[\w-]+", text))
    return next((f"needs {one}" for one in missing if shutil.which(one) is None), None)


@contextmanager
def following(page: str, folder: Path, programs: Path, addresses: Callable[[str], str]) -> Iterator[Reader]:
    variables = {"COLUMNS": "100", "REDIS_PASSWORD": "secret", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    reader = Reader(page, folder, wheel.environment(programs, **variables), addresses)
    try:
        yield reader
    finally:
        reader.leave()


@pytest.fixture
def addresses(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Replace the addresses that pages print by those of the servers of this test."""
    ports: dict[str, str] = {}

    def free(match: re.Match[str]) -> str:
        if match[2] not in ports:
            with closing(socket.create_server(("127.0.0.1", 0))) as one:
                ports[match[2]] = str(one.getsockname()[1])
        return f"{match[1]}{ports[match[2]]}"

    def replace(text: str) -> str:
        if "localhost:6379" in text:
            server: Any = request.getfixturevalue("start_redis_once")
            text = text.replace("localhost:6379", f"127.0.0.1:{server.port}")
        if re.search(r"\bredis-cli (?!-p)", text):
            client = request.getfixturevalue("foreign_client")("redis-cli")
            port = request.getfixturevalue("start_redis_once").port
            text = text.replace("redis-cli ", f"{shlex.quote(client)} -p {port} ")
        if "localhost:9092" in text:
            text = text.replace("localhost:9092", request.getfixturevalue("kafka_broker").bootstrap)
        text = re.sub(r"(eventml serve [\w.]+:\w+)(?!.*--port)", r"\1 --port 8000", text)
        return re.sub(r"(localhost:|--port |--operations (?:[\d.]+:)?)(\d{4})\b", free, text)

    return replace


@pytest.fixture
def start_redis_once(start_redis: Any) -> Any:
    """A server for one page alone, which may print topics that other pages print too."""
    return start_redis()


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=marks(page)) for page, blocks in BLOCKS.items() if blocks]
)
@pytest.mark.timeout(600)
def test_a_page_runs_as_it_is_printed(
    page: str, tmp_path: Path, programs: Path, addresses: Callable[[str], str]
) -> None:
    with following(page, tmp_path, programs, addresses) as reader:
        for context in contexts(page):
            reader.take(context)
        reader.follow(BLOCKS[page])


@pytest.mark.parametrize("page", BLOCKS)
def test_every_block_has_a_kind_and_is_well_formed(page: str) -> None:
    for block in BLOCKS[page]:
        assert block.kind in KINDS, f"{block.place}: {block.kind}: say in tests/docs/printed.py how it is run"
        if block.kind == "python":
            compile(block.text, block.place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
        elif block.kind == "toml":
            tomllib.loads(block.text)
        elif block.kind == "json":
            json.loads(block.text)


def test_what_is_not_run_is_printed() -> None:
    """A reason for something that no page prints is a reason too many."""
    printed = {
        page: "\n".join((block.text + str(block.file)) for block in blocks) for page, blocks in BLOCKS.items()
    }
    commands = {
        (page, command)
        for page, blocks in BLOCKS.items()
        for block in blocks
        if block.kind == "shell"
        for command in commands_of(block)
    }
    for page, text in NOT_RUN:
        assert text in printed[page] or any(one == page and text in command for one, command in commands), (
            text
        )
