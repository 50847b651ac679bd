"""Who may ask: those who know the token; without one, only those on this machine."""

from __future__ import annotations

import hmac
import ipaddress
import os
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from eventml.deploy.web.problems import Problem
from eventml.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import Scope

VARIABLE: Final = "EVENTML_TOKEN"
REMEDY: Final = (
    f"set {VARIABLE} to a secret that callers send as `authorization: Bearer <token>` "
    "(python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one), listen on 127.0.0.1, or say "
    "that everybody may ask with --without-token"
)


class Guard:
    """Lets requests pass, or not.

    Args:
        token: What callers must know; None where there is none.
        everybody: Without a token, everybody may ask, from anywhere.
    """

    def __init__(self, token: str | None, *, everybody: bool = False) -> None:
        self._expected = None if token is None else token.encode()
        self._everybody = everybody

    @property
    def wants_token(self) -> bool:
        return self._expected is not None

    def knows(self, scope: Scope) -> bool:
        """Whether the request carries the token, or need not."""
        if self._expected is None:
            return self._everybody or is_local(scope)
        said = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = said.partition(b" ")
        return hmac.compare_digest(token.strip(), self._expected) and scheme.lower() == b"bearer"

    def check(self, scope: Scope) -> None:
        """Let the request pass.

        Raises:
            Problem: it does not carry the token (401); or there is none, and it came from elsewhere (403).
        """
        if self.knows(scope):
            return
        if self._expected is None:
            raise Problem(
                HTTPStatus.FORBIDDEN, f"without a token this service answers on loopback only: {REMEDY}"
            )
        raise Problem(
            HTTPStatus.UNAUTHORIZED,
            "send the service's token: authorization: Bearer <token>",
            headers={"www-authenticate": 'Bearer realm="eventml"'},
        )


def token_of_environment() -> str | None:
    """The token, from `EVENTML_TOKEN`; None where that is not set, or empty."""
    return os.environ.get(VARIABLE) or None


def check_address(host: str, token: str | None, *, everybody: bool) -> None:
    """Pass if it is safe to listen there.

    Raises:
        ConfigError: others could ask without a token.
    """
    if token is None and not everybody and not is_loopback(host):
        raise ConfigError(f"web.host: {host} can be reached from elsewhere, and there is no token: {REMEDY}")


def is_local(scope: Scope) -> bool:
    """Whether a request came to a loopback address, or by a socket in the file system, and by that name.

    The name is what a page of another site cannot fake from within its visitor's browser, though it may
    have its own name resolved to a loopback address (DNS rebinding).
    """
    server = scope.get("server")
    if server is not None and not (server[0].startswith("/") or is_loopback(server[0])):
        return False
    return all(_names_loopback(value) for name, value in scope["headers"] if name == b"host")


@lru_cache(maxsize=256)
def _names_loopback(host: bytes) -> bool:
    text = host.decode("latin-1")
    name = text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0]
    return is_loopback(name)


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
