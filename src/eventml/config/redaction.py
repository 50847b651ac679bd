"""What must not be shown, and how to show the rest."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

HIDDEN: Final = "***"

_SECRET: Final = ("password", "passwd", "passphrase", "secret", "token", "credential", "apikey")


def hidden(name: str) -> bool:
    """Whether the setting of that name is a secret."""
    plain = name.lower().replace("_", "").replace("-", "")
    return any(word in plain for word in _SECRET)


def redact(url: str) -> str:
    """The URL without its password, and without the values of parameters that are secrets by name.

    It would rather hide too much than too little: in a URL whose password holds an unescaped `/`,
    `?` or `@`, everything between the user's name and the last `@` is hidden.
    """
    scheme, sep, rest = url.partition("://")
    if not sep:
        scheme, rest = "", url
    userinfo, at, place = rest.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    base, mark, query = f"{user}{colon and ':' + HIDDEN}{at}{place}".partition("?")
    return f"{scheme}{sep}{base}{mark}{'&'.join(map(_parameter, query.split('&')))}"


def _parameter(text: str) -> str:
    name, equals, value = text.partition("=")
    plain = unquote(value)
    # A URL within the URL may have a password, or such parameters, of its own.
    nested = "@" in plain or ("=" in plain and hidden(plain))
    return f"{name}={HIDDEN}" if equals and (nested or hidden(unquote(name))) else text
