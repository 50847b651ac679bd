"""A real Redis, brought up by the scripts: what it keeps, and whom it lets do what."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from backends.process import ServerProcess, StartError, free_ports
from backends.redis import acl, server
from tests.brokers import bundled_redis, needs_redis, program
from tests.limits import started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.brokers import StartRedis

    Executable = Callable[[], Path | None]

PASSWORDS = {user: f"a password for the {user}" for user in acl.USERS}
FOLDER = Path(server.__file__).parent
Client = redis.Redis


@pytest.fixture
def connect() -> Iterator[Callable[[str], Client]]:
    clients: list[Client] = []

    def connected(url: str) -> Client:
        clients.append(redis.Redis.from_url(url, decode_responses=True))
        return clients[-1]

    yield connected
    for client in clients:
        client.close()


def found() -> None:
    """The one that `RedisServer` finds by itself."""


REDISES = pytest.mark.parametrize("executable", [found, bundled_redis], ids=["found", "bundled"])


class TestServer:
    @REDISES
    @pytest.mark.parametrize("unix", [False, True], ids=["port", "socket"])
    def test_keeps_what_it_acknowledged_through_kills(
        self, start_redis: StartRedis, connect: Callable[[str], Client], *, executable: Executable, unix: bool
    ) -> None:
        running = start_redis(executable=executable(), appendfsync="always", unix=unix)
        client = connect(running.url)
        for sent in range(1, 151):
            client.xadd("rides", {"data": sent})
            if sent % 50 == 0:
                running.kill()
                running.start()
        assert client.xlen("rides") == 150

    def test_a_restart_keeps_its_address_and_its_data(
        self, start_redis: StartRedis, connect: Callable[[str], Client]
    ) -> None:
        running = start_redis()
        before = running.url, running.process.pid
        connect(running.url).set("kept", 1)
        running.restart()
        assert connect(before[0]).get("kept") == "1"
        assert running.url == before[0]
        assert running.process.pid != before[1]

    def test_a_transaction_that_a_crash_cut_short_is_removed(
        self, start_redis: StartRedis, connect: Callable[[str], Client]
    ) -> None:
        """Redis leaves its beginning in the file, and what is written later would belong to it."""
        running = start_redis()
        needs_redis(running, "7.0", "the folder of append-only files")
        program("redis-check-aof", package="redis-tools")
        connect(running.url).set("before", "1")
        running.kill()
        [file] = running.directory.glob("appendonlydir/*.incr.aof")
        with file.open("ab") as log:
            log.write(b"*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$3\r\ncut\r\n$1\r\n1\r\n*3\r\n$3\r\nSE")
        running.start()
        client = connect(running.url)
        client.set("after", "1")
        with client.pipeline(transaction=True) as both:
            both.set("in a transaction", "1")
            both.set("and more", "1")
            both.execute()
        running.kill()
        running.start()
        assert sorted(connect(running.url).keys()) == ["after", "and more", "before", "in a transaction"]

    def test_starts_after_it_was_killed_from_outside(self, start_redis: StartRedis) -> None:
        running = start_redis()
        running.process.send(signal.SIGKILL)
        running.process.wait(grace=20.0)
        assert not running.running
        running.start()
        assert running.running

    def test_a_temporary_folder_goes_with_it(self, start_redis: StartRedis) -> None:
        running = start_redis()
        pid = running.process.pid
        running.close()
        assert not running.directory.exists()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    def test_a_folder_of_ones_own_stays(
        self, tmp_path: Path, start_redis: StartRedis, connect: Callable[[str], Client]
    ) -> None:
        folder = tmp_path / 'with "quotes" and spaces'
        first = start_redis(directory=folder)
        connect(first.url).set("kept", 1)
        first.close()
        assert connect(start_redis(directory=folder).url).get("kept") == "1"

    def test_full_is_refused_and_nothing_is_thrown_away(
        self, start_redis: StartRedis, connect: Callable[[str], Client]
    ) -> None:
        client = connect(start_redis(settings={"maxmemory": "3mb"}).url)
        written = 0
        while added(client, "x" * 1_000):
            written += 1
        assert 0 < written == client.xlen("rides")

    def test_a_second_one_on_its_port_is_refused(self, redis_server: server.RedisServer) -> None:
        second = server.RedisServer(port=redis_server.port)
        with pytest.raises(StartError, match=f"port {redis_server.port} is in use"):
            second.start()
        second.close()

    def test_a_wrong_setting_is_shown_with_the_reason(self, start_redis: StartRedis) -> None:
        with pytest.raises(StartError, match=r"ended with status 1(.|\n)*maxmemory-policy sometimes"):
            start_redis(settings={"maxmemory-policy": "sometimes"})

    def test_users_that_were_not_rendered_are_refused(self, tmp_path: Path, start_redis: StartRedis) -> None:
        raw = tmp_path / "users.acl"
        raw.write_text("\n".join(line for line in acl.TEMPLATE.read_text().splitlines() if line[:1] == "u"))
        with pytest.raises(StartError, match="ACL errors"):
            start_redis(settings={"aclfile": str(raw)})


CHECK = "return redis.call('XACK', KEYS[1], 'g', ARGV[1])"
PUBLISH = [("XADD", "rides", "*", "data", "1"), ("XLEN", "rides")]
HELLO = [
    ("PING",),
    ("HELLO", "3"),
    ("SELECT", "1"),
    ("SELECT", "0"),
    ("CLIENT", "SETNAME", "a"),
    ("INFO", "server"),
]
READ = [("XRANGE", "rides", "-", "+"), ("XREAD", "STREAMS", "rides", "0"), ("XPENDING", "rides", "g")]
INSPECT = [("XINFO", "STREAM", "rides"), ("XINFO", "GROUPS", "rides"), ("XINFO", "CONSUMERS", "rides", "g")]
CLAIM = [
    ("XACK", "rides", "g", "0-1"),
    ("XCLAIM", "rides", "g", "c", "0", "0-1"),
    ("XAUTOCLAIM", "rides", "g", "c", "0", "0"),
    ("XTRIM", "rides", "MINID", "0"),
    ("EVAL", CHECK, "1", "rides", "0-1"),
    ("SCRIPT", "LOAD", CHECK),
]
CONSUME = [
    ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "rides", ">"),
    ("XGROUP", "CREATECONSUMER", "rides", "g", "d"),
    ("XGROUP", "DELCONSUMER", "rides", "g", "d"),
    ("XGROUP", "CREATE", "rides", "other", "$"),
]
REMOVE = [("XDEL", "rides", "0-1"), ("XGROUP", "DESTROY", "rides", "other"), ("DEL", "rides")]
MAY = {
    "producer": [*HELLO, *PUBLISH, ("XINFO", "STREAM", "rides")],
    "consumer": [*HELLO, *PUBLISH, *READ, *INSPECT, *CLAIM, *CONSUME],
    "operator": [
        *(*HELLO, *PUBLISH, *READ, *INSPECT, *CLAIM, *CONSUME),
        ("CONFIG", "GET", "appendfsync"),
        *REMOVE,
    ],
}
NOBODY = [
    ("CONFIG", "SET", "appendonly", "no"),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", "eve", "on"),
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("SHUTDOWN",),
    ("KEYS", "*"),
    ("BGREWRITEAOF",),
    ("REPLICAOF", "NO", "ONE"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("SCRIPT", "FLUSH"),
    ("SET", "rides", "1"),
    ("PUBLISH", "a", "b"),
    ("SAVE",),
]
MAY_NOT = {
    "producer": [*NOBODY, *READ, *CLAIM, *CONSUME, *REMOVE],
    "consumer": [*NOBODY, *REMOVE, ("EVAL", "return redis.call('DEL', KEYS[1])", "1", "rides")],
    "operator": [*NOBODY, ("EVAL", "return redis.call('FLUSHALL')", "0")],
}


@pytest.fixture
def with_users(executable: Executable, start_redis: StartRedis) -> server.RedisServer:
    return start_redis(executable=executable(), passwords=PASSWORDS)


@REDISES
class TestUsers:
    @pytest.mark.parametrize("user", acl.USERS)
    def test_may_do_their_work(
        self, with_users: server.RedisServer, connect: Callable[[str], Client], user: str
    ) -> None:
        connect(with_users.url_for("consumer")).xgroup_create("rides", "g", "0", mkstream=True)
        client = connect(with_users.url_for(user))
        for command in MAY[user]:
            client.execute_command(*command)  # type: ignore[no-untyped-call] # redis-py has not typed it

    @pytest.mark.parametrize("user", acl.USERS)
    def test_may_do_nothing_else(
        self, with_users: server.RedisServer, connect: Callable[[str], Client], user: str
    ) -> None:
        connect(with_users.url_for("consumer")).xgroup_create("rides", "g", "0", mkstream=True)
        client = connect(with_users.url_for(user))
        for command in MAY_NOT[user]:
            with pytest.raises(redis.exceptions.ResponseError, match=r"no permissions|NOPERM|can't run"):
                client.execute_command(*command)  # type: ignore[no-untyped-call] # redis-py has not typed it

    def test_strangers_may_not_come_in(
        self, with_users: server.RedisServer, connect: Callable[[str], Client]
    ) -> None:
        with pytest.raises(redis.exceptions.AuthenticationError):
            connect(with_users.url).ping()

    def test_a_wrong_password_is_refused(
        self, with_users: server.RedisServer, connect: Callable[[str], Client]
    ) -> None:
        guess = with_users.url.replace("//", "//operator:CHANGE_ME@")
        with pytest.raises(redis.exceptions.AuthenticationError):
            connect(guess).ping()


class TestScripts:
    def test_start_prints_the_url_and_stops_when_told(
        self, tmp_path: Path, redis_server: server.RedisServer, connect: Callable[[str], Client]
    ) -> None:
        del redis_server  # that there is a Redis to run
        command = [sys.executable, str(FOLDER / "start.py"), "--port", "0", "--dir", str(tmp_path)]
        with started(command, stdout=subprocess.PIPE, text=True) as script:
            assert script.stdout
            client = connect(script.stdout.readline().strip())
            pid = client.info("server")["process_id"]
            script.terminate()
            assert script.wait(20.0) == 0
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    def test_the_container_lets_its_users_in(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connect: Callable[[str], Client]
    ) -> None:
        program("redis-server", package="redis-server")  # the entrypoint runs it
        port = next(free_ports())
        monkeypatch.setenv("REDIS_CONFIG_DIR", str(FOLDER))
        monkeypatch.setenv("REDIS_DATA_DIR", str(tmp_path))
        monkeypatch.setenv(acl.variable("producer"), PASSWORDS["producer"])
        entrypoint = ["/bin/sh", str(FOLDER / "entrypoint.sh"), "--bind", "127.0.0.1", "--port", str(port)]
        container = ServerProcess(entrypoint, log=tmp_path / "log")
        try:
            client = connect(f"redis://producer:{PASSWORDS['producer']}@127.0.0.1:{port}")
            container.wait_until(lambda: answers(client), timeout=20.0, what="the entrypoint")
            assert client.xadd("rides", {"data": "1"})
        finally:
            container.kill()


def added(client: Client, data: str) -> bool:
    try:
        return bool(client.xadd("rides", {"data": data}))
    except redis.exceptions.OutOfMemoryError:
        return False


def answers(client: Client) -> bool:
    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False
