"""The settings of `redis://`, and the address in its URL."""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
import re
import ssl
from typing import Annotated, Final
from urllib.parse import unquote

import msgspec
from msgspec import Meta

from eventml.backends.base import MAX_BYTES
from eventml.errors import ConfigError

Seconds = Annotated[float, Meta(gt=0)]
Host = tuple[str, int]

_URL: Final = re.compile(
    r"(?P<scheme>[a-z]+)://(?:(?P<username>[^:/@]*):?(?P<password>[^/@]*)@)?(?P<hosts>[^/]*)(?P<path>/.*)?"
)
_HOST: Final = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>\d{1,5}))?")
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of `redis://`, `rediss://` and `unix://`. Durations are in seconds.

    Attributes:
        lease: How long an unresponsive member keeps its deliveries before another member may claim
            them. A running member renews its leases, however long its handler takes.
        timeout: How long connecting may take, and how long a reply may take before the connection is
            closed as broken.
        publish_timeout: How long `publish` retries where a retry cannot write a record twice: the server
            is out of reach, is loading, or has no memory left.
        max_bytes: How many bytes of entries one read should return at most; a larger entry is read alone.
        retention: None keeps every entry. Otherwise entries are removed once all groups have
            acknowledged them and they are at least so many seconds old; 0 removes them at once. An entry
            that a group has not finished is never removed.
        max_length: The most entries that each topic written to may hold. The oldest ones beyond it are
            removed, read or not: a group that falls so far behind loses them. Entries removed before
            a group read them are counted in the log. None is no limit.
        db: The number of the database; the path of the URL takes precedence.
        cluster: The URL names nodes of a Redis Cluster.
        sentinel: The URL names Sentinels, and this is the name of the master that they monitor.
        sentinel_username: The user name at the Sentinels, if they require one.
        sentinel_password: The password at the Sentinels, if they require one.
        ca_file: For `rediss://`, the file of certificates to trust instead of the system's.
        cert_file: For `rediss://`, the file of the client's own certificate.
        key_file: The file of the private key of the client's certificate.
        verify: For `rediss://`, whether the server's certificate and host name are verified.
    """

    lease: Seconds = 30.0
    timeout: Seconds = 5.0
    publish_timeout: Annotated[float, Meta(ge=0)] = 30.0
    max_bytes: Annotated[int, Meta(ge=1)] = MAX_BYTES
    retention: Annotated[float, Meta(ge=0)] | None = None
    max_length: Annotated[int, Meta(ge=1)] | None = None
    db: Annotated[int, Meta(ge=0)] | None = None
    cluster: bool = False
    sentinel: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: bool = True


class Address(msgspec.Struct, frozen=True):
    """Where the server is, and the user to log in as; without a name, the default user.

    It has several hosts for a cluster or for Sentinels, and none but a path for a Unix socket.
    """

    hosts: tuple[Host, ...]
    path: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = None
    tls: bool = False

    def __str__(self) -> str:
        """The address for messages, without user and password."""
        if self.path is not None:
            return f"unix://{self.path}"
        return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)


def parse_url(url: str, *, db: int | None = None, sentinel: bool = False) -> Address:
    """Parse `redis://[user:password@]host[:port][,host[:port]...][/db]` or `unix://.../path`.

    The query is ignored. `db` is used where the path names no database; Sentinels have another default port.

    Raises:
        ConfigError: the URL cannot be parsed; says what is expected.
    """
    found = _URL.fullmatch(url.partition("?")[0])
    if found is None:
        raise ConfigError("backend.url: expected redis://host:port/db, rediss://... or unix:///path")
    username, password = (unquote(found[name] or "") or None for name in ("username", "password"))
    path = found["path"] or ""
    if found["scheme"] == "unix":
        if not path or found["hosts"]:
            raise ConfigError("backend.url: unix:// takes the path of a socket, as in unix:///run/redis.sock")
        return Address(hosts=(), path=unquote(path), db=db or 0, username=username, password=password)
    number = path.strip("/")
    if number and not number.isdecimal():
        raise ConfigError("backend.url: the path is the number of a database, as in redis://localhost/0")
    hosts = []
    for text in (found["hosts"] or "localhost").split(","):
        host = _HOST.fullmatch(text)
        if host is None:
            # Without its "@host" the URL has the password here, so the text is not shown.
            raise ConfigError(
                "backend.url: expected hosts, or host:port, as in redis://user:password@host:6379"
            )
        port = int(host["port"] or (_SENTINEL_PORT if sentinel else _PORT))
        hosts.append((unquote(host["v6"] or host["name"]), port))
    return Address(
        hosts=tuple(hosts),
        db=int(number) if number else db or 0,
        username=username,
        password=password,
        tls=found["scheme"] == "rediss",
    )


def tls_context(settings: Settings) -> ssl.SSLContext:
    """The certificates to use for `rediss://`.

    Raises:
        ConfigError: one of the files cannot be loaded.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        if settings.cert_file is not None:
            context.load_cert_chain(settings.cert_file, settings.key_file)
    except OSError as exc:  # an ssl.SSLError is one
        raise ConfigError(f"backend.ca_file, cert_file, key_file: cannot load a certificate: {exc}") from exc
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
