"""A PostgreSQL server for tests, started for the first test that needs it; see tests/brokers.py."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import uuid4

import pytest

from backends.process import LOOPBACK, NotInstalledError, ServerProcess, free_ports
from tests.brokers import without_broker

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD: Final = "swordfish"  # noqa: S105 - a test looks whether it is shown
BINARIES: Final = Path("/usr/lib/postgresql")
_USER: Final = "postgres"  # the server refuses to run as root


class PostgresServer:
    """One server on loopback, with the superuser `scorer` and a password."""

    def __init__(self) -> None:
        self._bin = _binaries()
        self.directory = Path(tempfile.mkdtemp(prefix="eventml-postgres-"))
        self.port = next(free_ports())
        self._as_user = _unprivileged()
        self._process: ServerProcess | None = None

    def url(self, database: str = "postgres", *, user: str = "scorer") -> str:
        return f"postgresql://{user}:{PASSWORD}@{LOOPBACK}:{self.port}/{database}"

    def __enter__(self) -> Self:
        secret = self.directory / "password"
        secret.write_text(PASSWORD)
        if self._as_user:
            shutil.chown(self.directory, _USER, _USER)
            shutil.chown(secret, _USER, _USER)
        data = self.directory / "data"
        made = [
            "--username=scorer",
            "--auth=scram-sha-256",
            f"--pwfile={secret}",
            "--no-sync",
            "--locale=C.UTF-8",
        ]
        subprocess.run(  # noqa: S603 - the server's own program
            [*self._as_user, self._bin / "initdb", f"--pgdata={data}", *made],
            check=True,
            capture_output=True,
            cwd="/",
        )
        options = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
        }
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        argv = [*self._as_user, str(self._bin / "postgres"), "-D", str(data), *arguments]
        self._process = ServerProcess(argv, log=self.directory / "log")
        self._process.wait_until(self._answers, timeout=30, what="PostgreSQL")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(grace=10)
        shutil.rmtree(self.directory, ignore_errors=True)

    def execute(self, statement: str) -> None:
        import psycopg  # noqa: PLC0415 - it comes with the extra dev

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)

    def _answers(self) -> bool:
        import psycopg  # noqa: PLC0415 - it comes with the extra dev

        try:
            psycopg.connect(self.url(), connect_timeout=1).close()
        except psycopg.OperationalError:
            return False
        return True


def _binaries() -> Path:
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).parent
    found = sorted(BINARIES.glob("*/bin/initdb"))
    if not found:
        raise NotInstalledError("PostgreSQL's server is not installed: apt-get install postgresql")
    return found[-1].parent


def _unprivileged() -> list[str]:
    """The command that runs a program as another user than root, and ends it with this process."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None or not _has_user():
        raise NotInstalledError(
            f"PostgreSQL does not run as {getpass.getuser()}, and there is no user {_USER}"
        )
    return ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups", "--pdeathsig=KILL", "--"]


def _has_user() -> bool:
    import pwd  # noqa: PLC0415 - Windows has none

    return any(entry.pw_name == _USER for entry in pwd.getpwall())


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for all tests; they choose databases of their own."""
    try:
        server: Any = PostgresServer()
    except NotInstalledError as exc:
        without_broker(str(exc))
    with server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of an empty database."""
    name = f"test_{uuid4().hex[:12]}"
    postgres_server.execute(f"CREATE DATABASE {name}")
    return postgres_server.url(name)
