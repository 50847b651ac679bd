"""From a URL and settings to what aiokafka's clients are told: where to connect, and as whom."""

from __future__ import annotations

import ipaddress
import logging
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from aiokafka.abc import AbstractTokenProvider

from eventml.errors import ConfigError

if TYPE_CHECKING:
    from eventml.backends.kafka.settings import Settings

log = logging.getLogger("eventml")

PORT: Final = 9092


class Address(NamedTuple):
    """Where the brokers are, and who the URL says we are."""

    brokers: tuple[str, ...]
    username: str | None
    password: str | None


def read_url(url: str) -> Address:
    """Take a URL apart: `kafka://USER:PASSWORD@HOST:PORT,HOST:PORT`.

    Raises:
        ConfigError: it names no broker, or more than brokers.
    """
    parts = urlsplit(url)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigError(
            "backend.url: kafka:// takes brokers alone, as in kafka://host:9092,host2:9092; "
            "topics are named by the app"
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
        ConfigError: settings that do not fit together, or a file that cannot be read.
    """
    username = address.username or settings.username
    password = (
        address.password or settings.password or _secret(settings.password_file, "backend.password_file")
    )
    tokens = _tokens(settings)
    security = settings.security or _natural(settings, user=bool(username or tokens))
    options: dict[str, Any] = {
        "bootstrap_servers": list(address.brokers),
        "client_id": settings.client_id,
        "metadata_max_age_ms": milliseconds(settings.metadata_max_age),
        "security_protocol": security.upper(),
    }
    if security.endswith("ssl"):
        options["ssl_context"] = _tls(settings)
    elif settings.ca or settings.cert:
        raise ConfigError(f"backend.security: {security} uses no certificate; set ssl or sasl_ssl")
    if security.startswith("sasl"):
        options |= _login(settings, username, password, tokens)
        # At the level DEBUG it would write what it logs in with.
        logging.getLogger("aiokafka.conn").addFilter(_shows_no_login)
    elif username or password or tokens:
        raise ConfigError(f"backend.security: {security} has no login; set sasl_ssl, or drop the user")
    # SCRAM shows nobody the password.
    secret = {"PLAIN": "password", "OAUTHBEARER": "token"}.get(options.get("sasl_mechanism", ""), "")
    _warn_of_plaintext(security, secret, address.brokers)
    return options


def milliseconds(seconds: float) -> int:
    return max(round(seconds * 1000), 1)


class TokenFile(AbstractTokenProvider):  # type: ignore[misc] # aiokafka has no types, and asks for a subclass
    """An OAuth bearer token from a file, which somebody else renews."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def token(self) -> str:
        """The token as the file has it now."""
        return _secret(self._path, "backend.token_file") or ""


class FixedToken(AbstractTokenProvider):  # type: ignore[misc] # as above
    """An OAuth bearer token that does not change."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self) -> str:
        return self._token


def _broker(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):  # an IPv6 address in brackets has colons of its own
        return f"{text}:{PORT}"
    if not host or not port.isdecimal():
        raise ConfigError(f"backend.url: {text} is no broker; write host:port")
    return text


def _natural(settings: Settings, *, user: bool) -> str:
    if user:
        return "sasl_ssl"
    return "ssl" if settings.ca or settings.cert else "plaintext"


def _login(
    settings: Settings, username: str | None, password: str | None, tokens: AbstractTokenProvider | None
) -> dict[str, Any]:
    mechanism = settings.sasl_mechanism or ("OAUTHBEARER" if tokens else "SCRAM-SHA-512")
    if mechanism == "OAUTHBEARER":
        if tokens is None:
            raise ConfigError("backend.token_file: OAUTHBEARER needs a token; set token_file or token")
        return {"sasl_mechanism": mechanism, "sasl_oauth_token_provider": tokens}
    if not username or not password:
        missing = "password_file" if username else "username"
        raise ConfigError(f"backend.{missing}: {mechanism} needs a user and a password")
    return {
        "sasl_mechanism": mechanism,
        "sasl_plain_username": username,
        "sasl_plain_password": password,
    }


def _shows_no_login(record: logging.LogRecord) -> bool:
    said = record.args if isinstance(record.args, tuple) else ()
    return not any(type(argument).__name__.startswith("SaslAuthenticate") for argument in said)


def _tokens(settings: Settings) -> AbstractTokenProvider | None:
    if settings.token_file:
        _secret(settings.token_file, "backend.token_file")  # a mistake shows now, not at a reconnection
        return TokenFile(settings.token_file)
    return FixedToken(settings.token) if settings.token else None


def _tls(settings: Settings) -> ssl.SSLContext:
    """A context that checks the brokers' certificates and names: there is no way to turn that off."""
    try:
        context = ssl.create_default_context(cafile=settings.ca)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"backend.ca: cannot read {settings.ca}: {exc}") from exc
    password = settings.key_password or _secret(settings.key_password_file, "backend.key_password_file")
    if settings.cert:
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(settings.cert, settings.key, lambda: password or "")
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(f"backend.cert: cannot load {settings.cert}: {exc}") from exc
    elif settings.key:
        raise ConfigError("backend.cert: a key alone is of no use; set the certificate too")
    return context


def _secret(path: str | None, setting: str) -> str | None:
    if path is None:
        return None
    try:
        text = Path(path).read_text().strip()
    except OSError as exc:
        raise ConfigError(f"{setting}: cannot read {path}: {exc.strerror}") from exc
    if not text:
        raise ConfigError(f"{setting}: {path} is empty")
    return text


def _warn_of_plaintext(security: str, secret: str, brokers: tuple[str, ...]) -> None:
    remote = [broker for broker in brokers if not _is_loopback(broker.rpartition(":")[0])]
    if remote and not security.endswith("ssl"):
        log.warning(
            "events%s go to %s unencrypted; set security=ssl or sasl_ssl",
            f" and the {secret}" if secret else "",
            ", ".join(remote),
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
