"""The backend's URL: splitting it, variables in it, and showing it without its secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote, unquote_plus, urlsplit

HIDDEN: Final = "***"
"""Shown in place of a secret."""

_SHOWN: Final = frozenset(
    ("application_name", "charset", "connect_timeout", "driver", "mode", "port", "sslmode", "timeout")
)
"""Parameters whose values are shown. A list of those to hide would never be complete."""

_SCHEME: Final = re.compile(r"([a-zA-Z][a-zA-Z0-9+._-]*)://")
_HOST: Final = r"(?:[\w.-]*|\[[0-9a-fA-F:.]+\])(?::\d{0,5})?"
_SHOWABLE: Final = re.compile(
    rf"(?:(?P<userinfo>[^/?#@]*)@)?(?P<location>{_HOST}(?:,{_HOST})*(?:/[^?#@;=]*)?)(?:\?(?P<query>[^#@]*))?"
)
_USER: Final = re.compile(r"[\w.+-]*")
_VALUE: Final = re.compile(r"[\w.+/ -]*")  # of a parameter: no "=" or ";" that separates it from further ones
_PART: Final = re.compile(r"[^:/?#@&=;,\s]+")
_SHORT: Final = 6  # characters; a shorter part is hidden in other texts only where it is a word
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
        return environ[name].rstrip("\r\n")  # of the file that a secret came from
    except KeyError:
        raise InvalidValueError(f"${{{name}}} is not set in the environment") from None


def redact(url: str) -> str:
    """A URL or connection string without its secrets, as all messages, logs and tables show it.

    It shows the scheme, the user name before a password that is not empty, the hosts, the path, and a few
    parameters that hold no secrets. In doubt it shows the scheme only: if a part has characters that do not
    belong there, such as an unescaped `/`, `?`, `#` or `@` in a password. Without a scheme, a text is shown
    if it has no `:`, `@`, `=` or `;`. A secret in the place of a host, a path or a user cannot be recognised.
    """
    scheme = _SCHEME.match(url)
    if scheme is None:
        return HIDDEN if re.search("[:@=;]", url) else url
    found = _SHOWABLE.fullmatch(url, scheme.end())
    if found is None or re.search("[?#@;=]", unquote(found["location"])):
        return scheme[0] + HIDDEN
    user, _, password = (found["userinfo"] or "").partition(":")
    shown_user = f"{user}:{HIDDEN}" if password and _USER.fullmatch(user) else HIDDEN
    parameters = [part for part in (found["query"] or "").split("&") if part]
    shown = [part for part in parameters if _is_shown(*part.partition("="))]
    query = "&".join(shown if len(shown) == len(parameters) else [*shown, HIDDEN])
    at = "" if found["userinfo"] is None else f"{shown_user}@"
    return f"{scheme[0]}{at}{found['location']}{query and '?'}{query}"


def _is_shown(name: str, _: str, value: str) -> bool:
    return name in _SHOWN and _VALUE.fullmatch(unquote_plus(value)) is not None


def without_secrets(text: str, url: str) -> str:
    """The text of a foreign message about a URL, without the parts of the URL that `redact` hides.

    They are found as they are, percent-encoded, and as `repr` shows them.
    """
    shown = set(_PART.findall(redact(url)))
    parts = {part for form in (url, unquote(url), unquote_plus(url)) for part in _PART.findall(form)} - shown
    parts |= {form for part in parts for form in (quote(part, safe=""), repr(part)[1:-1])}
    patterns = [
        re.escape(part) if len(part) >= _SHORT else rf"(?<!\w){re.escape(part)}(?!\w)"
        for part in sorted(parts, key=len, reverse=True)
    ]
    return re.sub("|".join(patterns), HIDDEN, text) if patterns else text
