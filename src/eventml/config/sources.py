"""The sources of settings: a file, `EVENTML_*` variables and the command line, merged and checked."""

from __future__ import annotations

import logging
import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, Final

from eventml.config.backends import choose_backend
from eventml.config.settings import (
    PREFIX,
    SECTIONS,
    URL,
    BackendSettings,
    ConsoleSettings,
    Entry,
    Settings,
    TopicSettings,
    WebSettings,
    convert,
    did_you_mean,
    dotted,
    unknown,
    variable,
)
from eventml.config.urls import InvalidValueError
from eventml.errors import ConfigError

log = logging.getLogger("eventml")

FILE_VARIABLE: Final = "EVENTML_CONFIG"
PROFILE_VARIABLE: Final = "EVENTML_PROFILE"

NOT_SETTINGS: Final = frozenset(
    {FILE_VARIABLE, PROFILE_VARIABLE, "EVENTML_CACHE", "EVENTML_REQUIRE_BROKERS", "EVENTML_TOKEN"}
)
"""Variables that are not settings: the file of settings, the profile in it, the examples' cache folder, the
tests' need for brokers, the web token."""

_TABLES: Final = ("profile", "bus")  # [profile.<name>] and [bus.<name>]; the second may be in the first
_KUBERNETES_SERVICE: Final = re.compile(
    rf"{PREFIX}(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)

_SETTINGS_FILE: Final = "eventml.toml"
_NO_SUCH_VARIABLE: Final = ", no setting has that name, or no app or file names its handler"
_SIMILAR: Final = 0.9  # difflib's ratio from which the name of a variable is suggested


def load(
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    default_backend: str | None = None,
    known_handlers: Collection[str] = (),
    bus: str = "",
) -> Settings:
    """Read the settings from all sources. Each setting comes from the strongest source that gives it.

    From weak to strong: defaults in the code, `eventml.toml` of the current directory or its nearest parent
    that has one (or the file that `EVENTML_CONFIG` names), its tables of the profile in `EVENTML_PROFILE`,
    its tables of this bus, those in the profile; `EVENTML_*` variables, of which those of the backend are
    weaker than a table of this bus that has a URL; `overrides`. The query of the winning URL is as strong as
    the URL, and stronger than options beside it. Every source is checked completely, so that a mistake in the
    file is reported even if a variable overrides it. Only options of a backend that is not chosen are not
    checked (see `config.backends`).

    Args:
        environ: The environment; None means that of the process.
        overrides: Settings from the command line, with the same structure as the file.
        default_backend: URL given in the code, in place of `memory://`.
        known_handlers: Names of the registered handlers; settings for others are refused, but for
            variables of those that the file names for other buses. Empty means unknown.
        bus: Name of the bus.

    Raises:
        ConfigError: A setting is unknown, has the wrong type or contradicts another. One line for each, which
            starts with its path (or the variable's name) and ends with its source. Or the file has no such
            profile, cannot be read, or was found by searching and belongs to another user than this one and
            root.
        UnknownBackendError: No backend is registered for the URL's scheme.
        MissingExtraError: The backend needs a package that is not installed.
    """
    environ = os.environ if environ is None else environ
    file, table = _read_file(environ.get(FILE_VARIABLE))
    tables, problems = dict(_read_tables(table, file, known_handlers, bus)), list[str]()
    profile = environ.get(PROFILE_VARIABLE) or None
    if profile and ("profile", profile) not in tables:
        profiles = dict.fromkeys(path[1] for path in tables if "profile" in path[:1])
        there_are = ", ".join(profiles) or "none"
        problems.append(f"{PROFILE_VARIABLE}: no profile {profile!r} in {file}, which has: {there_are}")
    consumers: list[Any] = [reduce(getitem, path, table).get("consumer") for path in tables]
    named = {name for handlers in consumers if isinstance(handlers, dict) for name in handlers}
    others = {("consumer", name) for name in named.difference(known_handlers) if known_handlers}
    chosen: Any = ((), ("profile", profile), ("bus", bus), ("profile", profile, "bus", bus))
    used = [tables.pop(path, []) for path in chosen]
    variables = read_environment(environ, {*known_handlers, *named}, known=bool(known_handlers))
    of_backend = [one for one in variables if isinstance(one, Entry) and one.path[0] == "backend"]
    with_url = [any(isinstance(one, Entry) and one.path == URL for one in own) for own in used[2:]]
    used.insert([*with_url, True].index(True) + 2, [*of_backend])  # below the first of the bus with a URL
    sources: list[list[Entry | str]] = [
        [one for unchosen in tables.values() for one in unchosen],  # checked, and left out
        [Entry(URL, default_backend or "memory://", "the code")],
        *used,
        [one for one in variables if one not in of_backend],
        [*_read_table(overrides or {}, "the command line", known_handlers)],
    ]
    problems += [one for source in sources for one in source if isinstance(one, str)]
    unused, *entries = [[one for one in source if isinstance(one, Entry)] for source in sources]
    values: dict[tuple[str, ...], Any] = {}
    for source in (unused, *entries):
        for entry in (entry for entry in source if entry.path[0] != "backend"):
            *parents, name = entry.path
            try:
                value = convert(entry, name, SECTIONS[parents[0] if parents else ""])
            except InvalidValueError as exc:
                problems.append(entry.problem(str(exc)))
            else:
                values |= {} if source is unused or entry.path[:2] in others else {entry.path: value}
    options = [[entry for entry in source if entry.path[0] == "backend"] for source in entries]
    backend = choose_backend(options, environ, problems)
    if backend is None or problems:
        raise ConfigError("\n".join(problems))
    return _settings(backend, values)


def _read_tables(
    table: Mapping[str, Any],
    file: str,
    handlers: Collection[str],
    bus: str,
    keys: Sequence[str] = _TABLES,
    path: tuple[str, ...] = (),
) -> Iterator[tuple[tuple[str, ...], list[Entry | str]]]:
    """The entries of a file, and the problems with it, by the table that they are in.

    The tables are `()`, for all, and those that are stronger: `("profile", "prod")`, `("bus", "rides")` and
    `("profile", "prod", "bus", "rides")`. The handlers of other buses are not known.
    """
    rest, problems = dict(table), list[Entry | str]()
    for position, key in enumerate(keys):
        tables = rest.pop(key, {})
        if not isinstance(tables, dict) or not all(isinstance(one, dict) for one in tables.values()):
            problems.append(Entry((*path, key), {}, file).problem(f"expected tables [{key}.<name>]"))
            continue
        for name, inner in tables.items():
            known = handlers if key == "profile" or name == bus else ()
            yield from _read_tables(inner, file, known, bus, keys[position + 1 :], (*path, key, name))
    source = f"{file}, [{dotted(path)}]" if path else file
    yield path, [*problems, *_read_table(rest, source, handlers)]


def _read_file(named: str | None) -> tuple[str, dict[str, Any]]:
    """Name and table of the file that is named, or else of `eventml.toml` in the current directory or its
    nearest parent that has one.
    """
    current = Path.cwd()
    searched = [folder / _SETTINGS_FILE for folder in (current, *current.parents)]
    for path in [Path(named)] if named else searched:
        try:
            if not named:
                _check_owner(path, path.lstat().st_uid)  # before opening: it may be a pipe, or another's link
            with path.open("rb") as file:
                if not named:
                    _check_owner(path, os.fstat(file.fileno()).st_uid)
                table = tomllib.loads(file.read().decode("utf-8-sig"))
        except (FileNotFoundError, NotADirectoryError) as exc:
            if named:
                raise ConfigError(f"{FILE_VARIABLE}: there is no file {path}") from exc
            continue
        except OSError as exc:
            raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
        except ValueError as exc:  # of TOML, or of UTF-8
            raise ConfigError(f"{path}: not valid TOML: {exc}") from exc
        return _SETTINGS_FILE if not named and path.parent == current else str(path), table
    return _SETTINGS_FILE, {}


def _check_owner(path: Path, owner: int) -> None:
    user = os.geteuid() if hasattr(os, "geteuid") else owner
    if owner not in (0, user):
        raise ConfigError(
            f"{path}: it belongs to the user id {owner}, and not to you ({user}) or root, and a file of "
            "settings can replace models and send secrets to other hosts. If you trust it, set "
            f"{FILE_VARIABLE}={path}; if not, {FILE_VARIABLE}={os.devnull} leaves it out"
        )


def _read_table(
    table: Mapping[str, object], source: str, handlers: Collection[str], path: tuple[str, ...] = ()
) -> Iterator[Entry | str]:
    """The entries of a table with the structure of `eventml.toml`, and a line for each problem with it.

    Values and the names of settings in sections are not checked here. Names of handlers are checked only if
    `handlers` is not empty.
    """
    for key, value in table.items():
        entry = Entry((*path, key), value, source)
        match entry.path:
            case ("backend",) if isinstance(value, str):
                yield Entry(URL, value, source)
            case ("backend", "url") if not isinstance(value, str):
                yield entry.problem(f"expected a URL, got {entry.shown}")
            case ("consumer" | "topic" as section, name, _) if (
                isinstance(value, dict) and key not in SECTIONS[section]
            ):
                yield entry.problem(f'unknown; a name with dots is quoted: [{section}."{name}.{key}"]')
            case (_,) if key in SECTIONS[""]:
                yield entry
            case ("backend" | "console" | "web", _) | ("consumer" | "topic", _, _):
                yield entry
            case (_,) if key not in Settings.__struct_fields__:
                yield entry.problem(unknown(key, {*Settings.__struct_fields__, *_TABLES} - {key}))
            case ("consumer", _) if handlers and key not in handlers:
                yield entry.problem(unknown(key, handlers))
            case _ if isinstance(value, dict):
                yield from _read_table(value, source, handlers, entry.path)
            case _:
                also = "a URL or " if entry.path == ("backend",) else ""
                yield entry.problem(f"expected {also}a table, got {entry.shown}")


def read_environment(
    environ: Mapping[str, str], handlers: Collection[str], *, known: bool
) -> list[Entry | str]:
    """The entries of the environment, and a line for each problem with a variable's name.

    Empty variables are ignored, and so are those of other handlers if not all handlers are `known`. Line ends
    behind a value, such as that of the file it came from, are left out.
    """
    paths = _paths_by_variable(handlers)
    found: list[Entry | str] = []
    for name, value in _variables(environ):
        matches = paths.get(name, [])
        if not known and not matches and name.startswith(f"{PREFIX}CONSUMER_"):
            continue
        if not matches and name.startswith(f"{PREFIX}BACKEND_"):
            matches = [("backend", name.removeprefix(f"{PREFIX}BACKEND_").lower())]
        if len(matches) > 1:
            choice = " or ".join(dotted(path) for path in sorted(matches))
            found.append(f"{name}: ambiguous, it could set {choice}; set it in a file instead")
        elif name.startswith((f"{PREFIX}TOPIC_", f"{PREFIX}BUS_")):
            found.append(f"{name}: unknown, topics and single buses are configured in {_SETTINGS_FILE} only")
        elif not matches:
            close = did_you_mean(name.upper(), [*paths, *NOT_SETTINGS], similar=_SIMILAR)
            found.append(f"{name}: unknown{close or _NO_SUCH_VARIABLE}")
        elif value:
            found.append(Entry(matches[0], value, name, text=True))
    return found


def _variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The variables whose names begin as those of settings do, and their values without line ends.

    Kubernetes sets variables for each Service: for one named `eventml-web` it sets `EVENTML_WEB_PORT` to
    `tcp://10.0.0.1:80`, `EVENTML_WEB_SERVICE_HOST` and more. They are left out.
    """
    for name, text in sorted(environ.items()):
        value = text.rstrip("\r\n")
        if not name.startswith(PREFIX) or name in NOT_SETTINGS:
            continue
        is_url = re.match("(tcp|udp|sctp)://", value) is not None
        if _KUBERNETES_SERVICE.fullmatch(name) or (name.endswith("_PORT") and is_url):
            log.debug("%s is ignored: Kubernetes sets it for a Service", name)
        else:
            yield name, value


def _paths_by_variable(handlers: Collection[str]) -> dict[str, list[tuple[str, ...]]]:
    """The settings that each variable may set, but for options of the backend."""
    paths = [
        *((name,) for name in SECTIONS[""]),
        *((section, field) for section in ("console", "web") for field in SECTIONS[section]),
        *(("consumer", name, field) for name in handlers for field in SECTIONS["consumer"]),
    ]
    found: dict[str, list[tuple[str, ...]]] = {f"{PREFIX}BACKEND": [URL]}
    for path in paths:
        found.setdefault(variable(path), []).append(path)
    return found


def _settings(backend: BackendSettings, values: Mapping[tuple[str, ...], Any]) -> Settings:
    tables: dict[str, Any] = {"consumer": {}, "topic": {}, "web": {}, "console": {}}
    for (*parents, name), value in values.items():
        table = tables
        for parent in parents:
            table = table.setdefault(parent, {})
        table[name] = value
    topics = {name: TopicSettings(**fields) for name, fields in tables["topic"].items()}
    console, web = ConsoleSettings(**tables["console"]), WebSettings(**tables["web"])
    return Settings(backend=backend, **(tables | {"topic": topics, "console": console, "web": web}))
