"""Who may see and change data on the console: those who have sent the token of the service."""

from __future__ import annotations

import hmac
import logging
import secrets
import threading
import time
from http.cookies import CookieError, SimpleCookie
from typing import Final, NamedTuple

from eventml.deploy.workers import Request
from eventml.printable import cut, printable

log = logging.getLogger("eventml.operations")  # whose lines are limited, as anybody may guess

_SECONDS: Final = 12 * 3600
_MOST: Final = 100
_LONGEST: Final = 60  # characters of a name


class Session(NamedTuple):
    """Somebody who has sent the token: by what name, and until when, by a monotonic clock."""

    who: str
    until: float


class Sessions:
    """The sessions of a console. Without a token there are none."""

    def __init__(self, token: str) -> None:
        self.enabled = bool(token)
        self._token = token.encode(errors="surrogateescape")  # the bytes of the environment
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def open(self, token: str, name: str, request: Request) -> str | None:
        """Open a session for a client with the token, and return its cookie; None if the token is wrong."""
        if not self._is_right(token.strip().encode(), request):
            return None
        who = f"{cut(printable(name.strip()), _LONGEST) or 'somebody'} at {request.client}"
        key = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._sessions) >= _MOST:
                self._sessions.pop(next(iter(self._sessions)))
            self._sessions[key] = Session(who, time.monotonic() + _SECONDS)
        return _cookie(request, key, _SECONDS)

    def close(self, request: Request) -> str:
        """End the session of a request, and return the cookie that says so."""
        with self._lock:
            self._sessions.pop(_key(request), None)
        return _cookie(request, "", 0)

    def find(self, request: Request) -> Session | None:
        """Return the session of a request, by its cookie, or by the token in a header `authorization`."""
        if (token := _bearer(request)) is not None:
            right = self._is_right(token, request)
            return Session(f"the token at {request.client}", 0.0) if right else None
        found = self._sessions.get(_key(request))
        return found if found is not None and found.until > time.monotonic() else None

    def _is_right(self, token: bytes, request: Request) -> bool:
        if self.enabled and hmac.compare_digest(token, self._token):
            return True
        log.warning("console: a wrong token from %s", request.client)
        return False


def is_own(request: Request) -> bool:
    """Return whether a request that changes something comes from a page of this console, or from a script.

    Browsers say which page sends a form, and a page of another site cannot change what they say. Nor can it
    have them send a token; a user name and a password (`Basic`) they add by themselves.
    """
    host = request.headers.get("host")
    own = request.headers.get("origin") in (f"http://{host}", f"https://{host}")
    return own or _bearer(request) is not None


def _bearer(request: Request) -> bytes | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip().encode("latin-1") if scheme.lower() == "bearer" else None  # as it was sent


def _key(request: Request) -> str:
    try:
        found = SimpleCookie(request.headers.get("cookie", "")).get(_name(request))
    except CookieError:
        return ""
    return "" if found is None else found.value


def _cookie(request: Request, value: str, age: int) -> str:
    return f"{_name(request)}={value}; Max-Age={age}; Path=/; HttpOnly; SameSite=Strict"


def _name(request: Request) -> str:
    return f"eventml-console-{request.port}"  # services on other ports of a host share its cookies
