"""Several servers: the master that Sentinels name, and the nodes and slots of a cluster.

`find_server` chooses the kind of deployment by the URL and the settings.
"""

from __future__ import annotations

import re
from binascii import crc_hqx
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from eventml.backends.redis.connection import Connection, Login, pack
from eventml.backends.redis.errors import DeniedError
from eventml.backends.redis.server import Server
from eventml.backends.redis.settings import Address, Host, Settings, parse_url
from eventml.errors import BackendError, ConfigError, LoginError, UnavailableError, UnsupportedError

_SENTINEL_TIMEOUT: Final = 1.0  # seconds; one that is down must not hold up the question to the next
_SLOTS: Final = 16_384
_TAG: Final = re.compile(r"\{([^}]+)\}")
_OLDEST: Final = (6, 2)


async def find_server(url: str, settings: Settings) -> Server:
    """Connect once, and check that the server is one that eventml supports.

    Raises:
        ConfigError: the URL or a setting is wrong, the server refuses the user (LoginError), or is too old.
        UnavailableError: the server cannot be reached.
    """
    server = _server_for(url, settings)
    try:
        connection = await server.connect(0)
    except DeniedError as exc:
        raise LoginError(str(exc)) from exc
    try:
        check_version(connection.hello)
        [limit] = await connection.send(pack("CONFIG", "GET", "proto-max-bulk-len"), 1, settings.timeout)
    finally:
        connection.close()
    if type(limit) is list and limit:  # the user may not be allowed to read it
        server.largest = int(limit[1])
    return server


def check_version(hello: dict[str, Any]) -> None:
    """Raise ConfigError if the server is too old, by its reply to HELLO."""
    if hello.get("server") != b"redis":  # Valkey numbers its versions differently, and none is too old
        return
    if tuple(map(int, re.findall(rb"\d+", hello["version"])[:2])) < _OLDEST:
        raise ConfigError(
            f"backend.url: this is Redis {hello['version'].decode()}; eventml needs 6.2 or later, or Valkey"
        )


def _server_for(url: str, settings: Settings) -> Server:
    """The server, the Sentinels or the cluster that the URL and the settings name."""
    address = parse_url(url, db=settings.db, sentinel=settings.sentinel is not None)
    if settings.sentinel is not None:
        if settings.cluster or address.path is not None:
            raise ConfigError(
                "backend.sentinel: Sentinels monitor one master, reached by redis:// or rediss://; remove "
                "backend.cluster, or the path of the socket"
            )
        return Sentinels(address, settings)
    if settings.cluster:
        if address.path is not None or address.db:
            raise ConfigError("backend.cluster: a cluster has no Unix sockets and no database but 0")
        return Cluster(address, settings)
    if len(address.hosts) > 1:
        raise ConfigError(
            "backend.url: several hosts are either the nodes of a cluster, with ?cluster=true, or Sentinels, "
            "with ?sentinel=NAME"
        )
    return Server(address, settings)


class Sentinels(Server):
    """The master that Sentinels name, looked up again for every connection."""

    def __init__(self, address: Address, settings: Settings) -> None:
        super().__init__(address, settings)
        user = msgspec.structs.replace(
            address, db=0, username=settings.sentinel_username, password=settings.sentinel_password
        )
        hasty = msgspec.structs.replace(settings, timeout=_SENTINEL_TIMEOUT)
        self._sentinel_login = Login(user, hasty, setting="backend.sentinel_password")

    async def connect(self, slot: int) -> Connection:  # noqa: ARG002 - all topics are on one server
        """See `Server.connect`."""
        master = self.settings.sentinel
        command = pack("SENTINEL", "GET-MASTER-ADDR-BY-NAME", str(master))
        failure = f"no Sentinel at {self._address} names a master {master!r}"
        _, (host, port) = await self._sentinel_login.ask(self._address.hosts, command, failure)
        return await self._login.connect((host.decode(), int(port)))


class Cluster(Server):
    """The nodes of a cluster, found through any of the given addresses, and again when a slot has moved."""

    def __init__(self, address: Address, settings: Settings) -> None:
        super().__init__(address, settings)
        self._ranges: list[tuple[int, int, Host]] = []

    def slot(self, topic: str) -> int:
        """See `Server.slot`."""
        # redis.io, "Redis cluster specification", Key distribution model. `redis.crc.key_slot` computes the
        # same, but importing redis-py takes longer than all of eventml.
        tag = re.search(r"\{([^}]*)\}", topic)
        return crc_hqx((tag[1] if tag and tag[1] else topic).encode(), 0) % _SLOTS

    async def connect(self, slot: int) -> Connection:
        """See `Server.connect`."""
        if not self._ranges:
            self._ranges = await self._find_nodes()
        host = next((host for first, last, host in self._ranges if first <= slot <= last), None)
        if host is None:
            self.forget()
            raise UnavailableError(f"no node of the cluster at {self._address} serves slot {slot} at present")
        try:
            return await self._login.connect(host)
        except UnavailableError:
            self.forget()  # the node may have left the cluster
            raise

    def forget(self) -> None:
        """See `Server.forget`."""
        self._ranges = []

    async def _find_nodes(self) -> list[tuple[int, int, Host]]:
        failure = f"no node of the cluster at {self._address} knows its slots"
        try:
            host, slots = await self._login.ask(self._address.hosts, pack("CLUSTER", "SLOTS"), failure)
        except BackendError as exc:
            if "cluster support disabled" not in str(exc):
                raise
            raise ConfigError(f"backend.cluster: no cluster is at {self._address}: {exc}") from exc
        return [
            # A node that does not know its own host name leaves it out of its reply.
            (first, last, ((name or b"").decode() or host[0], port))
            for first, last, (name, port, *_), *_replicas in slots
        ]


def check_outputs(server: Server, topic: str, outputs: Iterable[str]) -> None:
    """Check that inputs of one topic can be completed in one step with writes to other keys.

    Raises:
        UnsupportedError: they are in different slots; says what to do.
    """
    slot = server.slot(topic)
    for output in outputs:
        if server.slot(output) != slot:
            first, second = same_slot_names(topic, output)
            raise UnsupportedError(
                f"{topic!r} and {output!r} are in different slots of the cluster, so an input cannot be "
                f"completed together with its output. Give them one hash tag, as in {first!r} and {second!r}"
            )


def same_slot_names(topic: str, other: str) -> tuple[str, str]:
    """Names with one hash tag, to propose for two topics that have to be in one slot."""
    found = _TAG.search(topic)
    tag = found[1] if found else topic.partition(".")[0]

    def named(name: str) -> str:
        bare = name.replace("{", "").replace("}", "")
        return f"{{{tag}}}" + (bare.removeprefix(tag) if bare.startswith(tag) else f".{bare}")

    return named(topic), named(other)
