"""The backend's URL: its parts, and the variables in it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from eventml.config.entries import UnusableError
from eventml.config.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Mapping

_SCHEME: Final = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_VARIABLE: Final = re.compile(r"\$(\$?)\{([^{}]*)\}")
_END: Final = re.compile(r"[/?#]")


class Parts(NamedTuple):
    """A URL taken apart: `base` is all of it but the query."""

    scheme: str
    base: str
    query: tuple[tuple[str, str], ...]


def split(url: str) -> Parts:
    """Take a backend's URL apart. In the query `+` is a plus: passwords hold them.

    Raises:
        UnusableError: it has no scheme, or a reserved character that should have been escaped.
    """
    scheme = _SCHEME.match(url)
    if scheme is None:
        raise UnusableError(
            f'expected a URL such as memory:// or redis://localhost:6379, got "{redact(url)}"'
        )
    rest = url[scheme.end() :]
    authority = _END.split(rest, maxsplit=1)[0]
    if "@" in rest[len(authority) :] or "#" in rest:
        raise UnusableError(
            'a "/", "?", "#" or "@" in a password or parameter is written %2F, %3F, %23 or %40'
        )
    try:
        urlsplit(url)  # as the backend will: its own message would show the password
    except ValueError:
        raise UnusableError("not a URL: look at its brackets and at its odd characters") from None
    base, _, query = url.partition("?")
    pairs = (part.partition("=") for part in query.split("&") if part)
    return Parts(scheme[1].lower(), base, tuple((unquote(name), unquote(value)) for name, _, value in pairs))


def expand(text: str, environ: Mapping[str, str]) -> str:
    """Put the environment's values in place of `${NAME}`; `$${` stands for `${` itself.

    Raises:
        UnusableError: a variable is not set.
    """
    return _VARIABLE.sub(lambda found: _value(found, environ), text)


def expand_url(url: str, environ: Mapping[str, str]) -> str:
    """Expand a URL. A value that lands in the user's name, password or query is escaped for it.

    Elsewhere it stands as it is, so that a variable may hold a host, a list of them or a whole URL.

    Raises:
        UnusableError: a variable is not set.
    """

    def piece(found: re.Match[str]) -> str:
        value = _value(found, environ)
        before, after = url[: found.start()], url[found.end() :]
        in_userinfo = "://" in before and "@" in _END.split(after, maxsplit=1)[0]
        return quote(value, safe="") if not found[1] and (in_userinfo or "?" in before) else value

    return _VARIABLE.sub(piece, url)


def _value(found: re.Match[str], environ: Mapping[str, str]) -> str:
    escaped, name = found.groups()
    if escaped:
        return f"${{{name}}}"
    try:
        return environ[name]
    except KeyError:
        raise UnusableError(f"${{{name}}} is not set in the environment") from None
