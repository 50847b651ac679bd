"""A Redis Cluster: which node has which slot."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from redis.crc import key_slot

from eventml.backends.redis.commands import pack
from eventml.backends.redis.connecting import connected, options, server_at
from eventml.backends.redis.replies import ErrorReply, checked
from eventml.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventml.backends.redis.address import Address
    from eventml.backends.redis.channel import Channel
    from eventml.backends.redis.settings import Settings

Host = tuple[str, int]

_TAG: Final = re.compile(r"\{([^}]+)\}")


class Cluster:
    """Nodes found through any of the addresses that were given, and asked anew when one has moved on."""

    def __init__(self, address: Address, settings: Settings) -> None:
        self._address = address
        self._settings = settings
        self._ranges: list[tuple[int, int, Host]] = []

    def slot(self, topic: str) -> int:
        return int(key_slot(topic.encode()))

    async def connect(self, slot: int) -> Channel:
        if not self._ranges:
            self._ranges = await self._discover()
        host = next((host for first, last, host in self._ranges if first <= slot <= last), None)
        if host is None:
            self._ranges = []
            raise UnavailableError(f"the cluster at {self._address} has no node for slot {slot} now")
        try:
            return await self._reach(host)
        except UnavailableError:
            self._ranges = []  # that node may be gone for good
            raise

    def moved(self) -> None:
        self._ranges = []

    async def _discover(self) -> list[tuple[int, int, Host]]:
        problem: Exception | None = None
        for host in self._address.hosts:
            try:
                channel = await self._reach(host)
            except UnavailableError as exc:
                problem = exc
                continue
            try:
                asked = channel.send(pack("CLUSTER", "SLOTS"), 1, self._settings.timeout)
                [slots] = await asked
            finally:
                await channel.close()
            if isinstance(slots, ErrorReply) and "cluster support disabled" in str(slots):
                raise ConfigError(f"backend.cluster: the server at {self._address} is not part of a cluster")
            [slots] = checked([slots], f"asking {self._address} for the cluster's slots")
            return list(_ranges(slots, host))
        raise UnavailableError(f"no node of the cluster at {self._address} answers: {problem}") from problem

    async def _reach(self, host: Host) -> Channel:
        kind, place = server_at(self._address, host)
        connection = kind(**place, **options(self._address, self._settings))
        return await connected(connection, f"{host[0]}:{host[1]}", self._settings)


def _ranges(slots: Iterable[Any], asked: Host) -> Iterable[tuple[int, int, Host]]:
    for first, last, (name, port, *_), *_replicas in slots:
        # A node that does not know its own name leaves it out: it is the one that was asked.
        yield first, last, ((name or b"").decode() or asked[0], port)


def tagged(topic: str, other: str) -> tuple[str, str]:
    """Names for two topics that put them into one slot: the remedy that messages propose."""
    found = _TAG.search(topic)
    tag = found[1] if found else topic.partition(".")[0]
    start = f"{{{tag}}}"
    first, second = (name.replace("{", "").replace("}", "") for name in (topic, other))
    return tuple(  # type: ignore[return-value]  # two in, two out
        start + name.removeprefix(tag) if name.startswith(tag) else f"{start}.{name}"
        for name in (first, second)
    )
