"""Loading the settings: reading the files, merging all sources by precedence, checking every value."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from eventml.config import environment
from eventml.config.backends import choose_backend
from eventml.config.entries import Entry, convert, show, unknown
from eventml.config.settings import (
    PLAIN_SETTINGS,
    SECTIONS,
    BackendSettings,
    Settings,
    TopicSettings,
    WebSettings,
)
from eventml.config.urls import InvalidValueError
from eventml.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

_SETTINGS_FILE: Final = "eventml.toml"
_PROJECT_FILE: Final = "pyproject.toml"


def load(
    *,
    folder: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    default_backend: str | None = None,
    known_handlers: Collection[str] = (),
    known_topics: Collection[str] = (),
) -> Settings:
    """Read the settings from all sources. Each setting comes from the strongest source that gives it.

    From weak to strong: defaults in the code, `eventml.toml`, `[tool.eventml]` in `pyproject.toml`,
    `EVENTML_*` variables, `overrides`. The query of the winning URL is as strong as the URL.
    Every source is checked completely, so that a mistake in a file is reported even if a variable
    overrides it. Only options of a backend that is not chosen are not checked (see `config.backends`).

    Args:
        folder: Folder of the files. None means the current directory, or its nearest parent that has one.
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
    layers: list[list[Entry]] = [[Entry(("backend", "url"), default_backend or "memory://", "the code")]]
    problems: list[str] = []

    def add(entries: list[Entry], found: Iterable[str]) -> None:
        layers.append(entries)
        problems.extend(found)

    files = _read_files(None if folder is None else Path(folder))
    for source, table in files:
        add(*_entries(table, source, known_handlers))
    add(
        *environment.read_environment(
            environ,
            handlers={*known_handlers, *_names("consumer", files)},
            topics={*known_topics, *_names("topic", files)},
            guess=not known_handlers,
        )
    )
    add(*_entries(overrides or {}, "the command line", known_handlers))

    values, found = _check(layers)
    problems += found
    backend, found = choose_backend(
        [[entry for entry in layer if entry.path[0] == "backend"] for layer in layers], environ
    )
    problems += found
    if backend is None or problems:
        raise ConfigError("\n".join(problems))
    return _settings(backend, values)


class _File(NamedTuple):
    source: str
    table: dict[str, Any]


def _read_files(folder: Path | None) -> list[_File]:
    """The tables of `eventml.toml` and of `[tool.eventml]` in `pyproject.toml`, the weaker first.

    Without a folder the current directory and its parents are searched, up to the first that has one of the
    two.
    """
    if folder is not None:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: there is no such folder to read settings from")
        return _files_in(folder)
    current = Path.cwd()
    return next((files for place in (current, *current.parents) if (files := _files_in(place))), [])


def _files_in(folder: Path) -> list[_File]:
    files = []
    if (table := _parse(folder / _SETTINGS_FILE)) is not None:
        files.append(_File(_relative(folder / _SETTINGS_FILE), table))
    tool = (_parse(folder / _PROJECT_FILE) or {}).get("tool", {})
    if isinstance(tool, dict) and "eventml" in tool:
        source = _relative(folder / _PROJECT_FILE)
        if not isinstance(tool["eventml"], dict):
            raise ConfigError(f"tool.eventml: expected a table (from {source})")
        files.append(_File(source, tool["eventml"]))
    return files


def _parse(path: Path) -> dict[str, Any] | None:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        raise ConfigError(f"{path}: not UTF-8 (at line {line})") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: not valid TOML: {exc}") from exc


def _relative(path: Path) -> str:
    current = Path.cwd()
    return str(path.relative_to(current) if path.is_relative_to(current) else path)


def _names(section: str, files: Sequence[_File]) -> set[str]:
    tables = (file.table.get(section) for file in files)
    return {name for table in tables if isinstance(table, dict) for name in table}


def _entries(
    table: Mapping[str, object], source: str, handlers: Collection[str]
) -> tuple[list[Entry], list[str]]:
    """The entries of a table with the structure of `eventml.toml`, and what is wrong with its structure.

    Values are not checked here. Names of handlers are checked only if `handlers` is not empty.
    """
    entries, problems = [], []
    for key, value in table.items():
        entry = Entry((key,), value, source)
        if key not in Settings.__struct_fields__:
            problems.append(entry.problem(unknown(key, Settings.__struct_fields__)))
        elif key in PLAIN_SETTINGS:
            entries.append(entry)
        elif key == "backend" and isinstance(value, str):
            entries.append(Entry((key, "url"), value, source))
        elif not isinstance(value, dict):
            also = "a URL or " if key == "backend" else ""
            problems.append(entry.problem(f"expected {also}a table, got {show(value)}"))
        elif key == "backend":
            entries += [Entry((key, name), option, source) for name, option in value.items()]
        else:
            tables = (
                _section_entries(entry, value) if key == "web" else _named_entries(entry, value, handlers)
            )
            for one in tables:
                (entries if isinstance(one, Entry) else problems).append(one)  # type: ignore[arg-type] # by its type
    return entries, problems


def _named_entries(
    section: Entry, tables: Mapping[str, object], handlers: Collection[str]
) -> Iterator[Entry | str]:
    for name, table in tables.items():
        entry = Entry((*section.path, name), table, section.source)
        if section.path == ("consumer",) and handlers and name not in handlers:
            yield entry.problem(unknown(name, handlers))
        elif not isinstance(table, dict):
            yield entry.problem(f"expected a table, got {entry.shown}")
        else:
            yield from _section_entries(entry, table)


def _section_entries(parent: Entry, table: Mapping[str, object]) -> Iterator[Entry | str]:
    section, *names = parent.path
    for field, value in table.items():
        entry = Entry((*parent.path, field), value, parent.source)
        if field in SECTIONS[section]:
            yield entry
        elif names and isinstance(value, dict):
            yield entry.problem(f'unknown; a name with dots is quoted: [{section}."{names[0]}.{field}"]')
        else:
            yield entry.problem(unknown(field, SECTIONS[section]))


def _check(layers: Sequence[Sequence[Entry]]) -> tuple[dict[tuple[str, ...], Any], list[str]]:
    """The strongest value of each setting outside `[backend]`, and the problems of all values."""
    values, problems = {}, []
    for entry in (entry for layer in layers for entry in layer if entry.path[0] != "backend"):
        kinds = PLAIN_SETTINGS if len(entry.path) == 1 else SECTIONS[entry.path[0]]
        try:
            values[entry.path] = convert(entry, kinds[entry.path[-1]])
        except InvalidValueError as exc:
            problems.append(entry.problem(str(exc)))
    return values, problems


def _settings(backend: BackendSettings, values: Mapping[tuple[str, ...], Any]) -> Settings:
    named: dict[str, dict[str, dict[str, Any]]] = {"consumer": {}, "topic": {}}
    for path, value in values.items():
        if len(path) == 3:  # noqa: PLR2004 - section, name and field
            section, name, field = path
            named[section].setdefault(name, {})[field] = value
    return Settings(
        backend=backend,
        consumer=named["consumer"],
        topic={name: TopicSettings(**fields) for name, fields in named["topic"].items()},
        web=WebSettings(**{path[1]: value for path, value in values.items() if path[0] == "web"}),
        **{path[0]: value for path, value in values.items() if len(path) == 1},
    )
