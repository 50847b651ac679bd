"""The backend's URL: splitting it, variables in it, and showing it without its secrets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

HIDDEN: Final = "***"
"""Shown in place of a secret."""

_SECRET: Final = ("password", "passwd", "passphrase", "secret", "token", "credential", "apikey")
_SCHEME: Final = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_VARIABLE: Final = re.compile(r"\$(\$?)\{([^{}]*)\}")
_END_OF_AUTHORITY: Final = re.compile(r"[/?#]")


class InvalidValueError(ValueError):
    """A value cannot be used. The message gives the reason; the caller adds the setting's path and source."""


def split_url(url: str) -> tuple[str, str, list[tuple[str, str]]]:
    """Split a backend's URL: its scheme in lower case, the URL without its query, the query's parameters.

    In the query `+` is a plus sign, not a space: passwords contain plus signs.

    Raises:
        InvalidValueError: The URL has no scheme, or an unescaped reserved character.
    """
    scheme = _SCHEME.match(url)
    if scheme is None:
        raise InvalidValueError(
            f'expected a URL such as memory:// or redis://localhost:6379, got "{redact(url)}"'
        )
    rest = url[scheme.end() :]
    authority = _END_OF_AUTHORITY.split(rest, maxsplit=1)[0]
    if "@" in rest[len(authority) :] or "#" in rest:
        raise InvalidValueError(
            'a "/", "?", "#" or "@" in a password or parameter is written %2F, %3F, %23 or %40'
        )
    try:
        urlsplit(url)  # the backend will do the same; the message of its error would show the password
    except ValueError:
        raise InvalidValueError("not a valid URL: check its brackets and special characters") from None
    base, _, query = url.partition("?")
    pairs = (part.partition("=") for part in query.split("&") if part)
    return scheme[1].lower(), base, [(unquote(name), unquote(value)) for name, _, value in pairs]


def expand(text: str, environ: Mapping[str, str]) -> str:
    """Replace each `${NAME}` by that environment variable; `$${` becomes a literal `${`.

    Raises:
        InvalidValueError: A variable is not set.
    """
    return _VARIABLE.sub(lambda found: _value(found, environ), text)


def expand_url(url: str, environ: Mapping[str, str]) -> str:
    """Replace variables in a URL, as `expand` does. Values in the user name, password or query are escaped.

    In other places a value is inserted unchanged, so that a variable may hold a host, a list of hosts or a
    whole URL.

    Raises:
        InvalidValueError: A variable is not set.
    """

    def replacement(found: re.Match[str]) -> str:
        value = _value(found, environ)
        before, after = url[: found.start()], url[found.end() :]
        in_userinfo = "://" in before and "@" in _END_OF_AUTHORITY.split(after, maxsplit=1)[0]
        return quote(value, safe="") if not found[1] and (in_userinfo or "?" in before) else value

    return _VARIABLE.sub(replacement, url)


def _value(found: re.Match[str], environ: Mapping[str, str]) -> str:
    escaped, name = found.groups()
    if escaped:
        return f"${{{name}}}"
    try:
        return environ[name]
    except KeyError:
        raise InvalidValueError(f"${{{name}}} is not set in the environment") from None


def is_secret(name: str) -> bool:
    """Whether a setting of that name holds a secret."""
    plain = name.lower().replace("_", "").replace("-", "")
    return any(word in plain for word in _SECRET)


def redact(url: str) -> str:
    """The URL without its password, and without the values of parameters with a secret's name.

    In doubt it hides more: if the password contains an unescaped `/`, `?` or `@`, everything between the
    user name and the last `@` is hidden.
    """
    scheme, sep, rest = url.partition("://")
    if not sep:
        scheme, rest = "", url
    userinfo, at, location = rest.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    base, mark, query = f"{user}{colon and ':' + HIDDEN}{at}{location}".partition("?")
    return f"{scheme}{sep}{base}{mark}{'&'.join(map(_redact_parameter, query.split('&')))}"


def _redact_parameter(text: str) -> str:
    name, equals, value = text.partition("=")
    plain = unquote(value)
    # The value may be a URL with a password or with secret parameters of its own.
    nested = "@" in plain or ("=" in plain and is_secret(plain))
    return f"{name}={HIDDEN}" if equals and (nested or is_secret(unquote(name))) else text
