"""The faults of one Redis server."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from tests.chaos.faults import PASSWORD, Fault, until
from tests.redis.proxy import Proxy
from tests.redis.users import set_user

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from backends.redis.server import RedisServer
    from tests.chaos.faults import Disk, Network

CONSUMER = ["on", f">{PASSWORD}", *set_user("consumer")[6:]]
"""Rules of the user of the Redis server, with the rights that the documentation gives to a consumer."""

_REWRITE = ("aof_rewrite_in_progress", "aof_rewrite_scheduled")


def redis_faults(
    server: RedisServer, network: Network, disk: Disk | None, client: redis.Redis
) -> list[Fault]:
    """The faults of one Redis server, whose administrator `client` is."""

    def rules(*changed: str) -> Callable[[], None]:
        def apply() -> None:
            client.execute_command("ACL", "SETUSER", "consumer", *changed)  # type: ignore[no-untyped-call]
            network.each(Proxy.cut)  # a server asks for the password when a client connects

        return apply

    def memory(maxmemory: str) -> Callable[[], object]:
        return lambda: client.config_set("maxmemory", maxmemory)

    def start() -> None:
        if not server.running:
            server.start()

    restored = rules("reset", *CONSUMER)
    faults = [
        Fault("broker killed", server.kill, start, (0.5, 3)),
        Fault("broker stopped", server.stop, start, (0.5, 3)),
        Fault("broker frozen", _signal(server, signal.SIGSTOP), _signal(server, signal.SIGCONT), (1, 6)),
        Fault("memory full", memory("1"), memory("1gb"), (1, 5)),
        Fault("password changed", rules("resetpass", ">another"), restored, (1, 6)),
        Fault("right to write revoked", rules("-xadd"), restored, (1, 6)),
        Fault("all rights revoked", rules("-@all"), restored, (1, 6)),
        Fault("scripts flushed", client.script_flush),
        Fault("clients killed", lambda: client.client_kill_filter(_type="normal", skipme=True)),
    ]
    return faults if disk is None else [*faults, _disk_full(client, disk, start)]


def _disk_full(client: redis.Redis, disk: Disk, start: Callable[[], None]) -> Fault:
    def fill() -> None:
        client.config_set("appendfsync", "everysec")  # with `always` it would end itself
        disk.fill()

    def empty() -> None:
        disk.empty()
        start()
        until(lambda: client.info("persistence")["aof_last_write_status"] == "ok")
        client.config_set("appendfsync", "always")

    def rewrite() -> None:
        """Replace the AOF: a write that a full disk has cut short once left one that 7.0.15 did not load."""
        until(client.bgrewriteaof)
        until(lambda: not any(map(client.info("persistence").get, _REWRITE)))

    return Fault("disk full", fill, empty, (2, 5), settle=rewrite)


def _signal(server: RedisServer, number: signal.Signals) -> Callable[[], None]:
    return lambda: server.process.send(number)
