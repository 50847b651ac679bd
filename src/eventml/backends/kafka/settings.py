"""The settings and the URL of a `kafka://` backend, and the options of aiokafka's clients made of them."""

# No `from __future__ import annotations` here: msgspec reads the annotations at run time.
import logging
import ssl
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec
from aiokafka import codec
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import SaslAuthenticationFailed
from msgspec import Meta

from eventml.backends.base import MAX_BYTES
from eventml.errors import ConfigError
from eventml.loopback import is_loopback

log = logging.getLogger("eventml")

PORT: Final = 9092
_METADATA_MAX_AGE: Final = 60_000  # milliseconds after which new partitions are found

Text = Annotated[str, Meta(min_length=1)]
Seconds = Annotated[float, Meta(gt=0)]
Bytes = Annotated[int, Meta(ge=1024)]

Security = Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of `kafka://`, in the URL's query or in `[backend]`. Times are seconds.

    No setting is a secret: a password is part of the URL (as `${NAME}` of the environment) or in a file.

    Attributes:
        security: Protocol to the brokers. By default `sasl_ssl` where there is a user or a token,
            `ssl` where there is a certificate, else `plaintext`.
        sasl_mechanism: Login mechanism. By default OAUTHBEARER with a token, else SCRAM-SHA-512.
        password_file: File with the password of the URL's user. Read once, when connecting.
        token_file: File with an OAuth bearer token. Read at every connection, so that it may be renewed.
        ca: PEM file of the authorities to trust; by default the system's.
        cert: PEM file of the client's certificate, for brokers that require one.
        key: PEM file of its private key, unless the certificate's file contains it.
        key_password_file: File with the private key's password.
        delivery: `at_least_once`, or `exactly_once`: transactions, one producer per input partition.
        client_id: Name of this client in the brokers' logs and quotas.
        group_instance_id: Makes a process a static member of its groups: a restart within
            `session_timeout` moves no partition. Has to differ between the processes of a group. Supervised
            workers have names of their own.
        publish_timeout: Longest time of a publish, retries included, before `UnavailableError`.
        request_timeout: Longest time that a broker may take for one response.
        max_bytes: Bytes of records that one read returns at most; a larger record is read alone.
        max_request_size: Largest batch in bytes, and so the largest record; not above the topic's own
            `max.message.bytes`.
        compression: Compression of batches. All but gzip need the package cramjam, which is in the extra.
        session_timeout: A member without a heartbeat for this long loses its partitions.
        heartbeat_interval: Time between two heartbeats. At the next one a member learns of a rebalance, and
            the group waits until all have.
        rebalance_timeout: How long the group waits for a member to give up its partitions.
        drain: Part of `rebalance_timeout` in which a member completes what is in flight.
        max_poll_interval: A member whose event loop is blocked for this long leaves its group. A slow
            handler does not count: polling goes on in the background.
        commit_interval: Least time between two commits, and so the longest time of work that a crash repeats.
        stall_timeout: A client that receives nothing for this long, although records wait, is replaced.
    """

    security: Security | None = None
    sasl_mechanism: Mechanism | None = None
    password_file: Text | None = None
    token_file: Text | None = None
    ca: Text | None = None
    cert: Text | None = None
    key: Text | None = None
    key_password_file: Text | None = None
    delivery: Literal["at_least_once", "exactly_once"] = "at_least_once"
    client_id: Text = "eventml"
    group_instance_id: Text | None = None
    publish_timeout: Seconds = 30.0
    request_timeout: Seconds = 10.0
    max_bytes: Bytes = MAX_BYTES
    max_request_size: Bytes = 1_048_576
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    session_timeout: Seconds = 15.0
    heartbeat_interval: Seconds = 1.0
    rebalance_timeout: Seconds = 30.0
    drain: Annotated[float, Meta(ge=0)] = 10.0
    max_poll_interval: Seconds = 300.0
    commit_interval: Annotated[float, Meta(ge=0)] = 0.1
    stall_timeout: Seconds = 60.0

    def __post_init__(self) -> None:
        if self.compression != "none" and not getattr(codec, f"has_{self.compression}")():
            raise ValueError(
                f"compression: {self.compression} needs the package cramjam, which is not installed: "
                "pip install 'eventml[kafka]'"
            )
        if self.heartbeat_interval * 2 > self.session_timeout:
            raise ValueError(
                "heartbeat_interval: at most half of session_timeout, or one lost heartbeat ends a membership"
            )
        if self.drain + self.heartbeat_interval >= self.rebalance_timeout:
            raise ValueError(
                "drain: drain + heartbeat_interval must be less than rebalance_timeout, "
                "or the group goes on without this member"
            )


class Address(NamedTuple):
    """The brokers, and the credentials of the URL."""

    brokers: tuple[str, ...]
    username: str | None
    password: str | None


def read_url(url: str) -> Address:
    """Parse `kafka://USER:PASSWORD@HOST:PORT,HOST:PORT`.

    Raises:
        ConfigError: it names no broker, or has a path.
    """
    parts = urlsplit(url)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigError(
            "backend.url: kafka:// takes only brokers, as in kafka://host:9092,host2:9092; "
            "the app names the topics"
        )
    userinfo, at, hosts = parts.netloc.rpartition("@")
    user, colon, password = userinfo.partition(":")
    brokers = tuple(_broker(host) for host in hosts.split(",") if host)
    if not brokers:
        raise ConfigError("backend.url: kafka:// names no broker; write kafka://localhost:9092")
    return Address(
        brokers, unquote(user) if at and user else None, unquote(password) if at and colon else None
    )


def client_options(address: Address, settings: Settings) -> dict[str, Any]:
    """The options that all of aiokafka's clients share.

    Raises:
        ConfigError: settings contradict each other, or a file cannot be read.
    """
    username = address.username
    password = address.password or _read(settings.password_file, "backend.password_file")
    tokens = TokenFile(settings.token_file) if settings.token_file else None
    security = settings.security
    if security is None:
        plain: Security = "ssl" if settings.ca or settings.cert else "plaintext"
        security = "sasl_ssl" if username or tokens else plain
    options: dict[str, Any] = {
        "bootstrap_servers": list(address.brokers),
        "client_id": settings.client_id,
        "metadata_max_age_ms": _METADATA_MAX_AGE,
        "security_protocol": security.upper(),
    }
    if security.endswith("ssl"):
        options["ssl_context"] = _tls_context(settings)
    elif settings.ca or settings.cert:
        raise ConfigError(f"backend.security: {security} uses no certificate; set ssl or sasl_ssl")
    if security.startswith("sasl"):
        options |= _login(settings, username, password, tokens)
        # aiokafka logs its login requests at the level DEBUG, with the password in them.
        logging.getLogger("aiokafka.conn").addFilter(_without_login)
    elif username or password or tokens:
        raise ConfigError(f"backend.security: {security} has no login; set sasl_ssl, or remove the user")
    _warn_of_plaintext(security, options.get("sasl_mechanism", ""), address.brokers)
    return options


def milliseconds(seconds: float) -> int:
    """Seconds as aiokafka's options take them: whole milliseconds, one at least."""
    return max(round(seconds * 1000), 1)


class TokenFile(AbstractTokenProvider):  # type: ignore[misc] # aiokafka has no types, and requires a subclass
    """An OAuth bearer token in a file that another program renews.

    Raises:
        ConfigError: the file cannot be read now.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        _read(path, "backend.token_file")  # report a mistake now, not at a reconnection

    async def token(self) -> str:
        """The token that the file contains now."""
        try:
            return _read(self._path, "backend.token_file") or ""
        except ConfigError as exc:  # a file that is being replaced must not end the process
            raise SaslAuthenticationFailed(str(exc)) from exc


def _broker(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):  # an IPv6 address in brackets contains colons
        return f"{text}:{PORT}"
    if not host or not port.isdecimal():
        # Without its "@host" the URL has the password here, so the text is not shown.
        raise ConfigError(
            "backend.url: a broker's address is host:port, as in kafka://user:password@host:9092"
        )
    return text


def _login(
    settings: Settings, username: str | None, password: str | None, tokens: TokenFile | None
) -> dict[str, Any]:
    mechanism = settings.sasl_mechanism or ("OAUTHBEARER" if tokens else "SCRAM-SHA-512")
    if mechanism == "OAUTHBEARER":
        if tokens is None:
            raise ConfigError("backend.token_file: OAUTHBEARER needs a token; set token_file")
        return {"sasl_mechanism": mechanism, "sasl_oauth_token_provider": tokens}
    if not username:
        raise ConfigError(f"backend.url: {mechanism} needs a user; write kafka://USER@host")
    if not password:
        raise ConfigError(f"backend.password_file: {mechanism} needs a password; set password_file")
    return {
        "sasl_mechanism": mechanism,
        "sasl_plain_username": username,
        "sasl_plain_password": password,
    }


def _without_login(record: logging.LogRecord) -> bool:
    arguments = record.args if isinstance(record.args, tuple) else ()
    return not any(type(argument).__name__.startswith("SaslAuthenticate") for argument in arguments)


def _tls_context(settings: Settings) -> ssl.SSLContext:
    """A context that checks the brokers' certificates and host names; no setting turns that off."""
    try:
        context = ssl.create_default_context(cafile=settings.ca)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"backend.ca: cannot read {settings.ca}: {exc}") from exc
    password = _read(settings.key_password_file, "backend.key_password_file")
    if settings.cert:
        try:
            # Without a password function OpenSSL would prompt on the terminal.
            context.load_cert_chain(settings.cert, settings.key, lambda: password or "")
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(f"backend.cert: cannot load {settings.cert}: {exc}") from exc
    elif settings.key:
        raise ConfigError("backend.cert: a key needs its certificate; set cert too")
    return context


def _read(path: str | None, setting: str) -> str | None:
    if path is None:
        return None
    try:
        text = Path(path).read_text().strip()
    except OSError as exc:
        raise ConfigError(f"{setting}: cannot read {path}: {exc.strerror}") from exc
    if not text:
        raise ConfigError(f"{setting}: {path} is empty")
    return text


def _warn_of_plaintext(security: str, mechanism: str, brokers: tuple[str, ...]) -> None:
    remote = [broker for broker in brokers if not is_loopback(broker.rpartition(":")[0].strip("[]"))]
    if remote and not security.endswith("ssl"):
        # SCRAM does not send the password.
        secret = {"PLAIN": " and the password", "OAUTHBEARER": " and the token"}.get(mechanism, "")
        log.warning("events%s go to %s unencrypted; set security=ssl or sasl_ssl", secret, ", ".join(remote))
