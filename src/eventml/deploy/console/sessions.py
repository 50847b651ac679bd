"""Who may see and change data on the console: those who have sent the token of the service."""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from eventml.printable import cut, printable

if TYPE_CHECKING:
    from eventml.deploy.workers import Request

_HOURS: Final = 12
_MOST: Final = 100
_LONGEST: Final = 60  # characters of a name


class Session(msgspec.Struct, frozen=True):
    """Somebody who has sent the token: by what name, and until when, by a monotonic clock."""

    who: str
    until: float


class Sessions:
    """The sessions of a console. Without a token there are none."""

    def __init__(self, token: str) -> None:
        self.enabled = bool(token)
        self._token = token.encode()
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def open(self, token: str, name: str, request: Request) -> str | None:
        """Open a session for somebody with the token, and return its cookie; None if the token is wrong."""
        if not self.enabled or not hmac.compare_digest(token.strip().encode(), self._token):
            return None
        who = f"{cut(printable(name.strip()), _LONGEST) or 'somebody'} at {request.client}"
        key = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._sessions) >= _MOST:
                self._sessions.pop(next(iter(self._sessions)))
            self._sessions[key] = Session(who, time.monotonic() + _HOURS * 3600)
        return self._cookie(request, key, _HOURS * 3600)

    def close(self, request: Request) -> str:
        """End the session of a request, and return the cookie that says so."""
        with self._lock:
            self._sessions.pop(self._key(request), None)
        return self._cookie(request, "", 0)

    def find(self, request: Request) -> Session | None:
        """Return the session of a request, by its cookie, or by the token in a header `authorization`."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if self.enabled and scheme.lower() == "bearer":
            right = hmac.compare_digest(token.strip().encode(), self._token)
            return Session(f"the token at {request.client}", time.monotonic()) if right else None
        found = self._sessions.get(self._key(request))
        return found if found is not None and found.until > time.monotonic() else None

    @staticmethod
    def is_own(request: Request) -> bool:
        """Return whether a request that changes something comes from a page of this console.

        Browsers say which page sends a form, and a page of another site cannot change what they say.
        """
        if "authorization" in request.headers:
            return True  # no browser adds the token by itself
        return urlsplit(request.headers.get("origin", "")).netloc == request.headers.get("host")

    def _key(self, request: Request) -> str:
        try:
            found = SimpleCookie(request.headers.get("cookie", "")).get(_name(request))
        except CookieError:
            return ""
        return "" if found is None else found.value

    @staticmethod
    def _cookie(request: Request, value: str, age: int) -> str:
        return f"{_name(request)}={value}; Max-Age={age}; Path=/; HttpOnly; SameSite=Strict"


def _name(request: Request) -> str:
    return f"eventml-console-{request.port}"  # services on other ports of a host share its cookies
