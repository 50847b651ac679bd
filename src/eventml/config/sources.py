"""The sources of settings: files, `EVENTML_*` variables and the command line, merged and checked."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eventml.config.backends import choose_backend
from eventml.config.settings import (
    PLAIN_SETTINGS,
    PREFIX,
    SECTIONS,
    BackendSettings,
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

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

NOT_SETTINGS: Final = frozenset({"EVENTML_CACHE", "EVENTML_REQUIRE_BROKERS", "EVENTML_TOKEN"})
"""Variables that are not settings: the examples' cache folder, the tests' need for brokers, the web token."""

_SETTINGS_FILE: Final = "eventml.toml"
_PROJECT_FILE: Final = "pyproject.toml"
_NO_SUCH_VARIABLE: Final = ", no setting has that name, or no app or file names its handler or topic"
_NAMED: Final = 2  # parts of the path of a table below `[consumer]` or `[topic]`
_SIMILAR: Final = 0.9  # difflib's ratio from which the name of a variable is suggested


def load(
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    default_backend: str | None = None,
    known_handlers: Collection[str] = (),
    known_topics: Collection[str] = (),
) -> Settings:
    """Read the settings from all sources. Each setting comes from the strongest source that gives it.

    From weak to strong: defaults in the code, `eventml.toml`, `[tool.eventml]` in `pyproject.toml`,
    `EVENTML_*` variables, `overrides`. The query of the winning URL is as strong as the URL.
    The files are those of the current directory, or of its nearest parent that has one.
    Every source is checked completely, so that a mistake in a file is reported even if a variable
    overrides it. Only options of a backend that is not chosen are not checked (see `config.backends`).

    Args:
        environ: The environment; None means that of the process.
        overrides: Settings from the command line, with the same structure as the files.
        default_backend: URL given in the code, in place of `memory://`.
        known_handlers: Names of the registered handlers; settings for others are refused. Empty means
            unknown.
        known_topics: Topics that a variable's name may refer to, in addition to those in the files.

    Raises:
        ConfigError: A setting is unknown, has the wrong type or contradicts another. One line for each, which
            starts with its path (or the variable's name) and ends with its source.
        UnknownBackendError: No backend is registered for the URL's scheme.
        MissingExtraError: The backend needs a package that is not installed.
    """
    environ = os.environ if environ is None else environ
    files = _read_files()
    layers: list[list[Entry | str]] = [
        [Entry(("backend", "url"), default_backend or "memory://", "the code")],
        *(list(_read_table(table, source, known_handlers)) for source, table in files.items()),
        read_environment(
            environ,
            handlers={*known_handlers, *_names("consumer", files)},
            topics={*known_topics, *_names("topic", files)},
            guess=not known_handlers,
        ),
        list(_read_table(overrides or {}, "the command line", known_handlers)),
    ]
    problems = [one for layer in layers for one in layer if isinstance(one, str)]
    entries = [[one for one in layer if isinstance(one, Entry)] for layer in layers]
    values, found = _check([entry for layer in entries for entry in layer if entry.path[0] != "backend"])
    options = [[entry for entry in layer if entry.path[0] == "backend"] for layer in entries]
    backend, more = choose_backend(options, environ)
    problems += [*found, *more]
    if backend is None or problems:
        raise ConfigError("\n".join(problems))
    return _settings(backend, values)


def _read_files() -> dict[str, dict[str, Any]]:
    """The tables of the nearest folder that has `eventml.toml` or `[tool.eventml]`, by the file's name.

    The weaker one is first. The search begins in the current directory and goes on in its parents.
    """
    files: dict[str, dict[str, Any]] = {}
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (table := _parse(folder / _SETTINGS_FILE)) is not None:
            files[_relative(folder / _SETTINGS_FILE)] = table
        tool = (_parse(folder / _PROJECT_FILE) or {}).get("tool", {})
        if isinstance(tool, dict) and "eventml" in tool:
            source = _relative(folder / _PROJECT_FILE)
            if not isinstance(tool["eventml"], dict):
                raise ConfigError(f"tool.eventml: expected a table (from {source})")
            files[source] = tool["eventml"]
        if files:
            break
    return files


def _parse(path: Path) -> dict[str, Any] | None:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:  # of TOML, or of UTF-8
        raise ConfigError(f"{path}: not valid TOML: {exc}") from exc


def _relative(path: Path) -> str:
    current = Path.cwd()
    return str(path.relative_to(current) if path.is_relative_to(current) else path)


def _names(section: str, files: Mapping[str, Mapping[str, Any]]) -> set[str]:
    tables = (table.get(section) for table in files.values())
    return {name for table in tables if isinstance(table, dict) for name in table}


def _read_table(
    table: Mapping[str, object], source: str, handlers: Collection[str], path: tuple[str, ...] = ()
) -> Iterator[Entry | str]:
    """The entries of a table with the structure of `eventml.toml`, and a line for each problem with it.

    Values are not checked here. Names of handlers are checked only if `handlers` is not empty.
    """
    known = _names_below(path, handlers)
    for key, value in table.items():
        entry = Entry((*path, key), value, source)
        if known is not None and key not in known:
            if len(path) == _NAMED and isinstance(value, dict):
                quoted = f'[{path[0]}."{path[1]}.{key}"]'
                yield entry.problem(f"unknown; a name with dots is quoted: {quoted}")
            else:
                yield entry.problem(unknown(key, known))
        elif len(path) == _NAMED or path in {("backend",), ("web",)} or (not path and key in PLAIN_SETTINGS):
            yield entry
        elif isinstance(value, dict):
            yield from _read_table(value, source, handlers, entry.path)
        elif entry.path == ("backend",) and isinstance(value, str):
            yield Entry(("backend", "url"), value, source)
        else:
            also = "a URL or " if entry.path == ("backend",) else ""
            yield entry.problem(f"expected {also}a table, got {entry.shown}")


def _names_below(path: tuple[str, ...], handlers: Collection[str]) -> Collection[str] | None:
    """The names that a table may contain; None for any name."""
    match path:
        case ():
            return Settings.__struct_fields__
        case ("consumer",):
            return handlers or None
        case ("backend" | "topic",):
            return None
    return SECTIONS[path[0]]


def read_environment(
    environ: Mapping[str, str], *, handlers: Collection[str], topics: Collection[str], guess: bool
) -> list[Entry | str]:
    """The entries of the environment, and a line for each problem with a variable's name.

    Empty variables are ignored.

    Args:
        environ: The environment.
        handlers: Names of handlers. They may contain underscores.
        topics: Names of topics. Their dots are underscores in a variable's name.
        guess: Whether to accept other handler names, in lower case, because the handlers are not known.
    """
    paths = _paths_by_variable(handlers, topics)
    found: dict[tuple[str, ...], Entry] = {}
    problems = []
    for name, value in sorted(environ.items()):
        upper = name.upper()
        if not name.startswith(PREFIX) or upper in NOT_SETTINGS:
            continue
        option = upper.removeprefix(f"{PREFIX}BACKEND_").lower()
        matches = paths.get(upper) or (_guess(upper) if guess else [])
        if not matches and option not in {"", name.lower()}:
            matches = [("backend", option)]
        if len(matches) > 1:
            choice = " or ".join(dotted(path) for path in sorted(matches))
            problems.append(f"{name}: ambiguous, it could set {choice}; set it in a file instead")
        elif not matches:
            close = did_you_mean(upper, [*paths, *NOT_SETTINGS], similar=_SIMILAR)
            problems.append(f"{name}: unknown{close or _NO_SUCH_VARIABLE}")
        elif value:
            [path] = matches
            other = found.setdefault(path, Entry(path, value, name, text=True))
            if other.value != value:
                problems.append(f"{name}: contradicts {other.source}, which sets {dotted(path)} too")
    return [*found.values(), *problems]


def _paths_by_variable(
    handlers: Collection[str], topics: Collection[str]
) -> dict[str, list[tuple[str, ...]]]:
    """The settings that each variable may set, but for options of the backend."""
    paths = [
        ("backend", "url"),
        *((name,) for name in PLAIN_SETTINGS),
        *(("web", field) for field in SECTIONS["web"]),
        *(("consumer", name, field) for name in handlers for field in SECTIONS["consumer"]),
        *(("topic", name, field) for name in topics for field in SECTIONS["topic"]),
    ]
    found: dict[str, list[tuple[str, ...]]] = {f"{PREFIX}BACKEND": [("backend", "url")]}
    for path in paths:
        found.setdefault(variable(path), []).append(path)
    return found


def _guess(name: str) -> list[tuple[str, ...]]:
    """The setting of a handler that is not known; the longest field counts, as both may hold underscores."""
    fields = "|".join(SECTIONS["consumer"])
    found = re.fullmatch(f"{PREFIX}consumer_(.+?)_({fields})", name, re.IGNORECASE)
    return [("consumer", found[1].lower(), found[2].lower())] if found else []


def _check(entries: Sequence[Entry]) -> tuple[dict[tuple[str, ...], Any], list[str]]:
    """The last value of each setting, the strongest, and the problems of all values."""
    values, problems = {}, []
    for entry in entries:
        kinds = PLAIN_SETTINGS if len(entry.path) == 1 else SECTIONS[entry.path[0]]
        try:
            values[entry.path] = convert(entry, kinds[entry.path[-1]])
        except InvalidValueError as exc:
            problems.append(entry.problem(str(exc)))
    return values, problems


def _settings(backend: BackendSettings, values: Mapping[tuple[str, ...], Any]) -> Settings:
    tables: dict[str, Any] = {"consumer": {}, "topic": {}, "web": {}}
    for (*parents, name), value in values.items():
        table = tables
        for parent in parents:
            table = table.setdefault(parent, {})
        table[name] = value
    topics = {name: TopicSettings(**fields) for name, fields in tables["topic"].items()}
    return Settings(backend=backend, **(tables | {"topic": topics, "web": WebSettings(**tables["web"])}))
