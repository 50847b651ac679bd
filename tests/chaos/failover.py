"""A Redis master and its replica, watched by a Sentinel: the master dies, again and again.

Replication is asynchronous: an acknowledged write may die with the master, which is documented. So that
nothing may be lost here, a master dies when its replica has all that it has acknowledged.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import redis

from backends.process import LOOPBACK, NotInstalledError
from backends.redis.server import RedisServer
from tests.brokers import without_broker
from tests.chaos.conftest import REDIS
from tests.chaos.faults import Fault, until
from tests.chaos.scenes import Scene
from tests.redis.sentinel import sentinel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CATCH_UP = 1.0  # seconds


@contextmanager
def sentinel_scene(folder: Path) -> Iterator[Scene]:
    """Two Redis servers and a Sentinel; clients ask it for the master."""
    with ExitStack() as stack:
        servers = []
        for name in ("one", "two"):
            settings = {"repl-diskless-sync-delay": "0"}  # else a replica waits 5 s for its data
            try:
                server = RedisServer(directory=folder / name, appendfsync="always", settings=settings)
            except NotInstalledError as exc:
                without_broker(str(exc))
            stack.callback(server.kill)
            server.start()
            servers.append(server)
        # A master that is alive must not be replaced, or what it has acknowledged may be lost: a busy machine
        # may keep it from answering for half a second.
        address = stack.enter_context(sentinel(servers[0], folder, failover_timeout=2000, down_after=3000))
        pair = Pair(servers, int(address.rpartition(":")[2]))
        pair.replicate()
        url = f"redis://{address}/0?sentinel=main&{REDIS}"
        yield Scene(
            url=url,
            direct=url,
            faults=lambda _topic, _chance: pair.faults(),
            ordered=False,
            exact=True,
            rate=200,
            pauses=(1, 4),
            worker_pauses=(1, 4),
            stopped=(1, 6),
        )


class Pair:
    """Two servers, the master first, and the port of their Sentinel."""

    def __init__(self, servers: list[RedisServer], port: int) -> None:
        self._servers = servers
        self._port = port

    def faults(self) -> list[Fault]:
        return [
            Fault("master killed, failover", self.kill_master, settle=self.replicate),
            Fault("clients of the master killed", self._kill_clients),
            Fault("memory of the master full", self._memory("1"), self._memory("1gb"), (1, 4)),
        ]

    def kill_master(self) -> None:
        """Kill the master when its replica has all; the replica is the master next.

        The pause is short: the Sentinel's own messages wait behind it too, and it would replace the master
        while that is alive, and lose what that acknowledges when the pause ends.
        """
        master, replica = self._servers
        with _client(master.port) as client, _client(replica.port) as other:
            while True:
                client.client_pause(10_000, all=False)  # writes wait, and fail with the master
                written, paused = client.info("replication")["master_repl_offset"], time.monotonic()
                while time.monotonic() < paused + _CATCH_UP:
                    found = other.info("replication")
                    assert found["role"] == "slave", "the Sentinel has replaced a living master"
                    if found["slave_repl_offset"] >= written:
                        master.kill()
                        assert time.monotonic() < paused + 9, "the pause may have ended before the kill"
                        self._servers.reverse()
                        return
                client.client_unpause()
                time.sleep(1)  # until the replica, whose disk may be busy, has caught up

    def replicate(self) -> None:
        """Wait for the master, make the other server its replica, and wait until it could take over.

        The Sentinel must have seen the new master before the old one comes back, or it would make the new
        one a replica of the old one.
        """
        master, replica = self._servers
        with _client(master.port) as client:
            until(lambda: client.info("replication")["role"] == "master")
        with _client(self._port) as client:
            until(lambda: client.sentinel_get_master_addr_by_name("main") == (LOOPBACK, master.port))
        if not replica.running:
            replica.start()
        with _client(replica.port) as client:
            client.replicaof(LOOPBACK, master.port)
            until(lambda: client.info("replication")["master_link_status"] == "up")
        with _client(self._port) as client:
            until(lambda: [one["flags"] for one in client.sentinel_slaves("main")] == ["slave"])

    def _kill_clients(self) -> None:
        with _client(self._servers[0].port) as client:
            client.client_kill_filter(_type="normal", skipme=True)

    def _memory(self, maxmemory: str) -> Any:
        def change() -> None:
            with _client(self._servers[0].port) as client:
                client.config_set("maxmemory", maxmemory)

        return change


def _client(port: int) -> Any:
    return redis.Redis(port=port, decode_responses=True)
