"""Making connections: to one server, to the master that Sentinels name, to the nodes of a cluster.

redis-py connects, speaks TLS, logs in and asks the Sentinels; what comes out is a `Channel`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from redis import exceptions
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedConnection
from redis.asyncio.sentinel import SentinelManagedSSLConnection as SentinelSSLConnection
from redis.backoff import NoBackoff

from eventml.backends.redis.channel import Channel
from eventml.backends.redis.commands import pack
from eventml.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

    from eventml.backends.redis.address import Address
    from eventml.backends.redis.settings import Settings

_SENTINEL_TIMEOUT: Final = 1.0  # seconds; one that is down must not hold up asking the next


class Connector(Protocol):
    """Knows how to reach the server that has a topic."""

    def slot(self, topic: str) -> int:
        """Which slot a topic is in. Topics of one slot are on one server and stay together."""
        ...

    async def connect(self, slot: int) -> Channel:
        """Connect to the server that has a slot.

        Raises:
            UnavailableError: nobody answers there.
            ConfigError: whoever answers does not let us in.
        """
        ...

    def moved(self) -> None:
        """A server said that it is not the one to ask."""
        ...


class OneServer:
    """A server at a fixed address."""

    def __init__(self, address: Address, settings: Settings) -> None:
        self._address = address
        self._settings = settings

    def slot(self, topic: str) -> int:  # noqa: ARG002 - all topics are in one place
        return 0

    async def connect(self, slot: int) -> Channel:  # noqa: ARG002 - the same
        if self._address.path is not None:
            kind: type[AbstractConnection] = UnixDomainSocketConnection
            place: dict[str, Any] = {"path": self._address.path}
        else:
            kind, place = server_at(self._address, self._address.hosts[0])
        return await connected(
            kind(**place, **options(self._address, self._settings)), str(self._address), self._settings
        )

    def moved(self) -> None:
        """There is nowhere else to look."""


class SentinelMaster:
    """The master that Sentinels name, asked anew for every connection."""

    def __init__(self, address: Address, settings: Settings) -> None:
        self._address = address
        self._settings = settings

    def slot(self, topic: str) -> int:  # noqa: ARG002 - all topics are in one place
        return 0

    async def connect(self, slot: int) -> Channel:  # noqa: ARG002 - the same
        address, settings = self._address, self._settings
        sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py does not say
            address.hosts,
            sentinel_kwargs={
                "socket_timeout": _SENTINEL_TIMEOUT,
                "username": settings.sentinel_username,
                "password": settings.sentinel_password,
                "retry": Retry(NoBackoff(), 0),
                "protocol": 2,
                **({"ssl": True, **_ssl(settings)} if address.tls else {}),
            },
        )
        pool = SentinelConnectionPool(  # type: ignore[no-untyped-call]  # the same
            settings.sentinel,
            sentinel,
            connection_class=SentinelSSLConnection if address.tls else SentinelManagedConnection,
            socket_keepalive=True,
            **options(address, settings),
        )
        try:
            connection = cast("AbstractConnection", pool.make_connection())  # type: ignore[no-untyped-call]  # the same
            return await connected(connection, f"the master {settings.sentinel!r} of {address}", settings)
        finally:
            for client in sentinel.sentinels:
                await client.aclose()

    def moved(self) -> None:
        """The Sentinels are asked anew in any case."""


def server_at(address: Address, host: tuple[str, int]) -> tuple[type[AbstractConnection], dict[str, Any]]:
    """What to connect to a host with, beside `options`."""
    kind = SSLConnection if address.tls else Connection
    return kind, {"host": host[0], "port": host[1], "socket_keepalive": True}


def options(address: Address, settings: Settings) -> dict[str, Any]:
    """What redis-py is told of every connection."""
    return {
        "db": address.db,
        "username": address.username,
        "password": address.password,
        "socket_timeout": settings.timeout,
        "socket_connect_timeout": settings.connect_timeout,
        "retry": Retry(NoBackoff(), 0),  # trying again is the business of those who know what was sent
        "protocol": 2,  # no pushes in between: a reply for every command
        **(_ssl(settings) if address.tls else {}),
    }


def _ssl(settings: Settings) -> dict[str, Any]:
    return {
        "ssl_ca_certs": settings.ca_file,
        "ssl_certfile": settings.cert_file,
        "ssl_keyfile": settings.key_file,
        "ssl_cert_reqs": "required" if settings.verify else "none",
        "ssl_check_hostname": settings.verify,
    }


async def connected(connection: AbstractConnection, name: str, settings: Settings) -> Channel:
    """Connect with redis-py, and take the connection over.

    Raises:
        UnavailableError: nobody answers there.
        ConfigError: whoever answers does not let us in.
    """
    channel = Channel(name)
    try:
        async with asyncio.timeout(settings.connect_timeout + settings.timeout):
            await connection.connect()  # type: ignore[no-untyped-call]  # redis-py does not say
    except exceptions.AuthenticationError as exc:
        if "required" in str(exc):
            raise _wants_login(name) from exc
        raise ConfigError(f"backend.url: {name} refuses the user or the password: {exc}") from exc
    except (exceptions.ConnectionError, exceptions.TimeoutError, OSError, TimeoutError) as exc:
        raise UnavailableError(f"cannot reach Redis at {name}: {exc}") from exc
    except exceptions.RedisError as exc:
        raise ConfigError(f"backend.url: {name} does not let us in: {exc}") from exc
    # redis-py has no public way to its transport. Its own object must not keep it: it would warn, when
    # collected, of a connection that nobody closed.
    writer = connection._writer  # noqa: SLF001 - as said
    connection._reader = connection._writer = None  # noqa: SLF001 - as said
    assert writer is not None  # noqa: S101 - for the type checker: it has just connected
    channel.attach(writer)
    try:
        await _introduce(channel, name, settings)
    except BaseException:
        channel.drop()
        raise
    return channel


async def _introduce(channel: Channel, name: str, settings: Settings) -> None:
    """Say who we are, and learn what the server calls the connection. A user may be denied both."""
    commands = pack("CLIENT", "ID") + pack("CLIENT", "SETNAME", "eventml")
    number, _ = await channel.send(commands, 2, settings.timeout)
    if type(number) is int:
        channel.number = number
    elif number.code == "NOAUTH":
        raise _wants_login(name)


def _wants_login(name: str) -> ConfigError:
    return ConfigError(f"backend.url: {name} wants a user and a password: redis://user:password@host")
