"""Environment variables `EVENTML_*`: the setting that each of them sets."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Final

from eventml.config.entries import Entry, dotted, unknown
from eventml.config.settings import PLAIN_SETTINGS, SECTIONS
from eventml.config.urls import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

PREFIX: Final = "EVENTML_"

NOT_SETTINGS: Final = frozenset({"EVENTML_CACHE", "EVENTML_REQUIRE_BROKERS", "EVENTML_TOKEN"})
"""Variables that are not settings: the examples' cache folder, the tests' need for brokers, the web token."""

_PLAIN: Final = {"BACKEND": ("backend", "url"), **{name.upper(): (name,) for name in PLAIN_SETTINGS}}
_SIMILAR: Final = 0.85  # difflib's ratio from which a name is suggested


def variable(path: tuple[str, ...]) -> str:
    """Name of the variable that sets the setting at that path."""
    return PREFIX + "_".join(map(_token, path))


def read_environment(
    environ: Mapping[str, str], *, handlers: Collection[str], topics: Collection[str], guess: bool
) -> tuple[list[Entry], list[str]]:
    """Read the settings in the environment. Empty variables are ignored.

    Args:
        environ: The environment.
        handlers: Names of handlers. They may contain underscores.
        topics: Names of topics. Their dots are underscores in a variable's name.
        guess: Whether to accept other handler names, in lower case, because the handlers are not known.

    Returns:
        The entries, and one line for each problem with a variable's name.
    """
    found: dict[tuple[str, ...], Entry] = {}
    problems = []
    for name, value in sorted(environ.items()):
        if not name.startswith(PREFIX) or name.upper() in NOT_SETTINGS:
            continue
        try:
            entry = Entry(_path(name, handlers, topics, guess=guess), value, name, text=True)
        except InvalidValueError as exc:
            problems.append(f"{name}: {exc}")
            continue
        other = found.get(entry.path) if value else None
        if other and other.value != value:
            problems.append(f"{name}: contradicts {other.source}, which sets {dotted(entry.path)} too")
        elif value:
            found[entry.path] = entry
    return list(found.values()), problems


def _path(name: str, handlers: Collection[str], topics: Collection[str], *, guess: bool) -> tuple[str, ...]:
    rest = name.removeprefix(PREFIX).upper()
    if rest in _PLAIN:
        return _PLAIN[rest]
    head, _, tail = rest.partition("_")
    match head, tail:
        case "BACKEND", tail if tail:
            return ("backend", tail.lower())
        case "WEB", tail if tail:
            if tail.lower() not in SECTIONS["web"]:
                raise InvalidValueError(unknown(tail.lower(), SECTIONS["web"]))
            return ("web", tail.lower())
        case "CONSUMER", tail if tail:
            return _named("consumer", tail, handlers, guess=guess)
        case "TOPIC", tail if tail:
            return _named("topic", tail, topics, guess=False)
    raise InvalidValueError(_suggestion(rest))


def _named(section: str, rest: str, names: Collection[str], *, guess: bool) -> tuple[str, ...]:
    """Split `<NAME>_<FIELD>`, where both may contain underscores."""
    splits = _splits(rest, SECTIONS[section])
    matches = [(section, name, field) for head, field in splits for name in names if _token(name) == head]
    if len(matches) == 1:
        return matches[0]
    if matches:
        choice = " or ".join(dotted(path) for path in sorted(matches))
        raise InvalidValueError(f"ambiguous, it could set {choice}; set it in a file instead")
    if guess and splits:
        head, field = splits[0]
        return (section, head.lower(), field)
    raise InvalidValueError(_suggestion_in(section, rest, names, guess=guess))


def _splits(rest: str, fields: Collection[str]) -> list[tuple[str, str]]:
    """All splits into a name and a known field, the longest field first."""
    longest_first = sorted(fields, key=len, reverse=True)
    ends = ((rest.removesuffix(f"_{field.upper()}"), field) for field in longest_first)
    return [(head, field) for head, field in ends if head not in {"", rest}]


def _suggestion(rest: str) -> str:
    head, _, tail = rest.partition("_")
    sections = ["BACKEND", *map(str.upper, SECTIONS)]
    section = difflib.get_close_matches(head, sections, n=1) if tail else []
    known = [*_PLAIN, *(name.removeprefix(PREFIX) for name in NOT_SETTINGS)]
    close = [f"{section[0]}_{tail}"] if section else difflib.get_close_matches(rest, known, n=1)
    return f"unknown, did you mean {PREFIX}{close[0]}?" if close else "unknown, no setting has that name"


def _suggestion_in(section: str, rest: str, names: Collection[str], *, guess: bool) -> str:
    fields = SECTIONS[section]
    words = rest.split("_")
    heads = {_token(name) for name in names}
    if guess:
        heads |= {"_".join(words[:end]) for end in range(1, len(words))}
    known = [f"{head}_{field.upper()}" for head in heads for field in fields]
    close = difflib.get_close_matches(rest, known, n=1, cutoff=_SIMILAR)
    if close:
        return f"unknown, did you mean {PREFIX}{section.upper()}_{close[0]}?"
    splits = _splits(rest, fields)
    if splits and not guess:
        kind = "handler" if section == "consumer" else "topic"
        remedy = f"known are {', '.join(sorted(names))}" if names else f'name it in a file: [{section}."…"]'
        return f"unknown, no {kind} has that name; {remedy}"
    ends = ", ".join(field.upper() for field in fields)
    return f"unknown, expected {PREFIX}{section.upper()}_<NAME>_ and one of {ends}"


def _token(name: str) -> str:
    return re.sub(r"\W", "_", name.upper())
