"""How to reach Redis: one server, the master that Sentinels name, or the nodes of a cluster.

`Server` is what the other modules use: it connects, and knows what the server supports.
"""

from __future__ import annotations

import re
from binascii import crc_hqx
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventml.backends.redis.connection import Client, Connection, Connector, Login, fields_of, pack
from eventml.backends.redis.errors import DeniedError, ErrorReply, check_replies
from eventml.backends.redis.settings import Address, Settings, parse_url
from eventml.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

Host = tuple[str, int]

_SENTINEL_TIMEOUT: Final = 1.0  # seconds; one that is down must not hold up the question to the next
_SLOTS: Final = 16_384
_TAG: Final = re.compile(r"\{([^}]+)\}")

_OLDEST: Final = (6, 2)
_IDEMPOTENT: Final = (8, 6)
_UNRELEASED: Final = (255,)  # the version number of a server built from a development branch


class Counters(msgspec.Struct):
    """What has happened on one backend's connections, from zero.

    Attributes:
        groups_recreated: Groups that no longer existed (FLUSHALL, a failover to a replica that lagged) and
            were created again from the topic's beginning. What the topic held before is lost, or
            is delivered again.
        trimmed: Entries that were delivered, but removed from the topic before they were completed.
        unread: Entries that `max_length` removed before a group had read them, once for each such group.
        completed_elsewhere: Completions dropped because another member had completed the delivery.
        duplicates: Inputs whose outputs were dropped because the group had recorded their ids before.
        claimed: Deliveries claimed from members that had died or become unresponsive.
    """

    groups_recreated: int = 0
    trimmed: int = 0
    unread: int = 0
    completed_elsewhere: int = 0
    duplicates: int = 0
    claimed: int = 0


class Features(msgspec.Struct, frozen=True):
    """What a server supports.

    Attributes:
        idempotent: XADD recognises a record that a producer has written before (IDMP).
        largest: The largest argument that it accepts, in bytes; it closes the connection on larger ones.
    """

    idempotent: bool = False
    largest: int = 512 << 20


class Server:
    """The Redis behind one backend: connects to it, and knows what it supports.

    Args:
        settings: The backend's settings.
        connector: Makes the connections.
        features: What the server supports.
    """

    def __init__(self, settings: Settings, connector: Connector, features: Features) -> None:
        self.settings = settings
        self.features = features
        self.counters = Counters()
        self._connector = connector

    def slot(self, topic: str) -> int:
        """The slot of a topic. Topics of one slot are always on one server."""
        return self._connector.slot(topic)

    def by_slot(self, topics: Iterable[str]) -> dict[int, list[str]]:
        """The topics, each once, by their slots."""
        found: dict[int, list[str]] = {}
        for topic in dict.fromkeys(topics):
            found.setdefault(self.slot(topic), []).append(topic)
        return found

    def client(self, slot: int) -> Client:
        """A new client of the server that serves a slot. It connects when it is first used."""
        return Client(self._connector, slot, self.settings.timeout)


async def find_server(url: str, settings: Settings) -> Server:
    """Connect once, and find out what the server supports.

    Raises:
        ConfigError: the URL or a setting is wrong, the server refuses the user, or is too old.
        UnavailableError: the server cannot be reached.
    """
    connector = connector_for(url, settings)
    client = Client(connector, 0, settings.timeout)
    try:
        hello, limit = await client.request(pack("HELLO") + pack("CONFIG", "GET", "proto-max-bulk-len"), 2)
    except DeniedError as exc:
        raise ConfigError(str(exc)) from exc
    finally:
        if (connection := client.connected) is not None:
            connection.abort()
    features = Features() if type(hello) is ErrorReply else features_of(fields_of(hello))
    if type(limit) is list and limit:  # the user may not be allowed to read it
        features = msgspec.structs.replace(features, largest=int(limit[1]))
    return Server(settings, connector, features)


def features_of(hello: dict[str, Any]) -> Features:
    """What a server supports, by its reply to HELLO. An unknown server supports the least.

    Raises:
        ConfigError: the server is too old.
    """
    if hello.get("server") != b"redis":  # Valkey numbers its versions differently, and none is too old
        return Features()
    version = tuple(map(int, re.findall(rb"\d+", hello["version"])[:2]))
    if version < _OLDEST:
        raise ConfigError(
            f"backend.url: this is Redis {hello['version'].decode()}; eventml needs 6.2 or later, or Valkey"
        )
    return Features(idempotent=_IDEMPOTENT <= version < _UNRELEASED)


def connector_for(url: str, settings: Settings) -> Connector:
    """The connector for the kind of deployment that the URL and the settings name.

    Raises:
        ConfigError: they do not fit together, or a certificate cannot be loaded.
    """
    address = parse_url(url, db=settings.db, sentinel=settings.sentinel is not None)
    if settings.sentinel is not None:
        if settings.cluster or address.path is not None:
            raise ConfigError(
                "backend.sentinel: Sentinels monitor one master, reached by redis:// or rediss://; remove "
                "backend.cluster, or the path of the socket"
            )
        return Sentinels(address, settings, settings.sentinel)
    if settings.cluster:
        if address.path is not None or address.db:
            raise ConfigError("backend.cluster: a cluster has no Unix sockets and no database but 0")
        return Cluster(address, settings)
    if len(address.hosts) > 1:
        raise ConfigError(
            "backend.url: several hosts are either the nodes of a cluster, with ?cluster=true, or Sentinels, "
            "with ?sentinel=NAME"
        )
    return Standalone(address, settings)


class Standalone:
    """A server at a fixed address."""

    def __init__(self, address: Address, settings: Settings) -> None:
        self._login = Login(address, settings)
        self._target = address.path or address.hosts[0]

    def slot(self, topic: str) -> int:  # noqa: ARG002 - all topics are on one server
        return 0

    async def connect(self, slot: int) -> Connection:  # noqa: ARG002 - the same
        return await self._login.connect(self._target)

    def forget(self) -> None:
        """Do nothing: the address is fixed."""


class Sentinels:
    """The master that Sentinels name, looked up again for every connection."""

    def __init__(self, address: Address, settings: Settings, master: str) -> None:
        self._address = address
        self._master = master
        self._login = Login(address, settings)
        user = msgspec.structs.replace(
            address, db=0, username=settings.sentinel_username, password=settings.sentinel_password
        )
        times = msgspec.structs.replace(
            settings, timeout=_SENTINEL_TIMEOUT, connect_timeout=_SENTINEL_TIMEOUT
        )
        self._sentinel_login = Login(user, times, setting="backend.sentinel_password")

    def slot(self, topic: str) -> int:  # noqa: ARG002 - all topics are on one server
        return 0

    async def connect(self, slot: int) -> Connection:  # noqa: ARG002 - the same
        master = await self._find_master()
        return await self._login.connect(master, f"the master {self._master!r} of {self._address}")

    def forget(self) -> None:
        """Do nothing: the Sentinels are asked before every connection."""

    async def _find_master(self) -> Host:
        problem: UnavailableError | DeniedError | None = None
        command = pack("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master)
        for host in self._address.hosts:
            try:
                connection = await self._sentinel_login.connect(host)
                try:
                    replies = await connection.send(command, 1, _SENTINEL_TIMEOUT)
                finally:
                    connection.abort()
                [master] = check_replies(replies, f"asking the Sentinel {host[0]}:{host[1]} for the master")
            except (UnavailableError, DeniedError) as exc:
                problem = exc
            else:
                if master:
                    return master[0].decode(), int(master[1])
        if isinstance(problem, DeniedError):
            raise problem
        raise UnavailableError(
            f"no Sentinel at {self._address} names a master {self._master!r}"
            + (f"; the last one that failed: {problem}" if problem else "")
        ) from problem


class Cluster:
    """The nodes of a cluster, found through any of the given addresses, and again when a slot has moved."""

    def __init__(self, address: Address, settings: Settings) -> None:
        self._address = address
        self._timeout = settings.timeout
        self._login = Login(address, settings)
        self._ranges: list[tuple[int, int, Host]] = []

    def slot(self, topic: str) -> int:
        return hash_slot(topic)

    async def connect(self, slot: int) -> Connection:
        if not self._ranges:
            self._ranges = await self._find_nodes()
        host = next((host for first, last, host in self._ranges if first <= slot <= last), None)
        if host is None:
            self._ranges = []
            raise UnavailableError(f"no node of the cluster at {self._address} serves slot {slot} at present")
        try:
            return await self._login.connect(host)
        except UnavailableError:
            self._ranges = []  # the node may have left the cluster
            raise

    def forget(self) -> None:
        self._ranges = []

    async def _find_nodes(self) -> list[tuple[int, int, Host]]:
        problem: Exception | None = None
        for host in self._address.hosts:
            try:
                connection = await self._login.connect(host)
            except UnavailableError as exc:
                problem = exc
                continue
            try:
                [slots] = await connection.send(pack("CLUSTER", "SLOTS"), 1, self._timeout)
            finally:
                connection.abort()
            if isinstance(slots, ErrorReply) and "cluster support disabled" in str(slots):
                raise ConfigError(f"backend.cluster: the server at {self._address} is not part of a cluster")
            [slots] = check_replies([slots], f"asking {self._address} for the cluster's slots")
            return [
                # A node that does not know its own host name leaves it out of its reply.
                (first, last, ((name or b"").decode() or host[0], port))
                for first, last, (name, port, *_), *_replicas in slots
            ]
        raise UnavailableError(f"no node of the cluster at {self._address} answers: {problem}") from problem


def hash_slot(topic: str) -> int:
    """The slot of a topic in a cluster (redis.io, "Redis cluster specification", Key distribution model)."""
    tag = re.search(r"\{([^}]*)\}", topic)
    return crc_hqx((tag[1] if tag and tag[1] else topic).encode(), 0) % _SLOTS


def same_slot_names(topic: str, other: str) -> tuple[str, str]:
    """Names with one hash tag, to propose for two topics that have to be in one slot."""
    found = _TAG.search(topic)
    tag = found[1] if found else topic.partition(".")[0]
    start = f"{{{tag}}}"
    first, second = (
        start + name.removeprefix(tag) if name.startswith(tag) else f"{start}.{name}"
        for name in (name.replace("{", "").replace("}", "") for name in (topic, other))
    )
    return first, second
