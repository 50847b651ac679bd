"""A Redis URL taken apart."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

import msgspec

from eventml.errors import ConfigError

_URL: Final = re.compile(r"(?P<scheme>[a-z]+)://(?:(?P<login>[^/@]*)@)?(?P<hosts>[^/]*)(?P<path>/.*)?")
_HOST: Final = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>\d{1,5}))?")
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379


class Address(msgspec.Struct, frozen=True):
    """Where the server is: `hosts`, of which a cluster or Sentinels may have several, or a socket."""

    hosts: tuple[tuple[str, int], ...]
    path: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = None
    tls: bool = False

    def __str__(self) -> str:
        """For messages: no user, no password."""
        if self.path is not None:
            return f"unix://{self.path}"
        return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)


def parse(url: str, *, db: int | None = None, sentinel: bool = False) -> Address:
    """Take a URL apart: `redis://[user:password@]host[:port][,host[:port]...][/db]` or `unix://.../path`.

    Args:
        url: Without a query.
        db: What the settings say; the URL's path wins.
        sentinel: The hosts are Sentinels, whose default port is another.

    Raises:
        ConfigError: it makes no sense.
    """
    found = _URL.fullmatch(url.partition("?")[0])
    if found is None:
        raise ConfigError("backend.url: expected redis://host:port/db, rediss://... or unix:///path")
    username, _, password = (found["login"] or "").partition(":")
    login = (unquote(username) or None, unquote(password) or None)
    path = found["path"] or ""
    if found["scheme"] == "unix":
        if not path or found["hosts"]:
            raise ConfigError("backend.url: unix:// takes the path of a socket, as in unix:///run/redis.sock")
        return Address(hosts=(), path=unquote(path), db=db or 0, username=login[0], password=login[1])
    number = path.strip("/")
    if number and not number.isdecimal():
        raise ConfigError(f"backend.url: the path is the number of a database, as in /0, and not /{number}")
    port = _SENTINEL_PORT if sentinel else _PORT
    return Address(
        hosts=tuple(_host(text, port) for text in (found["hosts"] or "localhost").split(",")),
        db=int(number) if number else db or 0,
        tls=found["scheme"] == "rediss",
        username=login[0],
        password=login[1],
    )


def _host(text: str, default_port: int) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    if found is None:
        raise ConfigError(f"backend.url: expected a host, or host:port, and not {text!r}")
    return unquote(found["v6"] or found["name"]), int(found["port"] or default_port)
