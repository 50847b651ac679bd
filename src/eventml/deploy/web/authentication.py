"""Authentication: clients send a token; without a token, only this machine is answered."""

from __future__ import annotations

import hmac
import os
from http import HTTPStatus
from typing import Final, Self

from starlette.types import Scope

from eventml.deploy.web.http_messages import Problem
from eventml.errors import ConfigError
from eventml.loopback import is_loopback, is_loopback_name

_VARIABLE: Final = "EVENTML_TOKEN"
_REMEDY: Final = (
    f"set {_VARIABLE} to a secret that clients send as `authorization: Bearer <token>` "
    "(python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one), listen on 127.0.0.1, or allow "
    "requests without a token from everywhere with --without-token"
)


class Authenticator:
    """Decides which requests are answered.

    Without a token, it accepts those to this machine only, or all of them if `without_token` is set.
    """

    def __init__(self, token: str | None, *, without_token: bool = False) -> None:
        self.requires_token = token is not None
        self._token = None if token is None else token.encode()
        self._without_token = without_token

    @classmethod
    def from_environment(cls, *, without_token: bool = False) -> Self:
        """Return an authenticator with the token in `EVENTML_TOKEN`, if there is one beside blanks.

        Raises:
            ConfigError: no client could send it.
        """
        token = os.environ.get(_VARIABLE, "").strip()  # as a header; a file ends with a line end
        if not token.isprintable():
            raise ConfigError(f"{_VARIABLE}: a token is one line of printable text; {_REMEDY}")
        return cls(token or None, without_token=without_token)

    def accepts(self, scope: Scope) -> bool:
        """Return whether a request carries the token, or needs none."""
        if self._token is None:
            return self._without_token or is_local(scope)
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = (values[0] if len(values) == 1 else b"").partition(b" ")
        return hmac.compare_digest(token.strip(), self._token) and scheme.lower() == b"bearer"

    def check(self, scope: Scope) -> None:
        """Check that a request is accepted.

        Raises:
            Problem: the token is missing or wrong (401); or there is no token, and the request comes from
                another machine (403).
        """
        if self.accepts(scope):
            return
        if self._token is None:
            raise Problem(
                HTTPStatus.FORBIDDEN, f"without a token, this service answers on loopback only: {_REMEDY}"
            )
        raise Problem(
            HTTPStatus.UNAUTHORIZED,
            "send the token of the service: authorization: Bearer <token>",
            headers={"www-authenticate": 'Bearer realm="eventml"'},
        )

    def check_host(self, host: str) -> None:
        """Check that it is safe to listen on a host.

        Raises:
            ConfigError: other machines could send requests without a token.
        """
        if self._token is None and not self._without_token and not is_loopback(host):
            raise ConfigError(f"web.host: other machines can reach {host}, and there is no token: {_REMEDY}")


def is_local(scope: Scope) -> bool:
    """Return whether a request came to a loopback address, by its name, or through a Unix socket.

    A page of another site can have its own name resolved to a loopback address (DNS rebinding), but its
    visitor's browser then sends that name in the header `host`.
    """
    server = scope.get("server")
    if server is not None and not (server[0].startswith("/") or is_loopback(server[0])):
        return False
    return all(
        is_loopback_name(value.decode("latin-1")) for name, value in scope["headers"] if name == b"host"
    )
