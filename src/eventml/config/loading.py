"""All sources together: who wins, and the settings that come of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from eventml.config import environment, files, options
from eventml.config.entries import Entry, UnusableError, value_of
from eventml.config.settings import BackendSettings, HandlerSettings, Settings, TopicSettings, WebSettings
from eventml.config.tables import SECTIONS, flatten
from eventml.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from msgspec import Struct

_PLAIN: Final = {("drain",), ("tracing",)}


def load(
    *,
    folder: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    default_backend: str | None = None,
    known_handlers: Collection[str] = (),
    known_topics: Collection[str] = (),
) -> Settings:
    """Read the settings from all sources. For each setting the strongest source that gives it wins.

    From weak to strong: the code's defaults, `eventml.toml`, `[tool.eventml]` in `pyproject.toml`,
    `EVENTML_*` variables, `overrides`. What a URL's query says is as strong as the URL, if it wins.
    Every source is checked whole, so that a mistake in a file shows even while a variable hides it;
    left out unchecked are the options of a backend that was not chosen (see `config.options`).

    Args:
        folder: Where the files are. None: the current directory, or the nearest parent that has one.
        environ: The environment; None is the process's own.
        overrides: What the command line says, in the shape of the files.
        default_backend: The URL that the code gives, instead of `memory://`.
        known_handlers: The handlers that there are; settings for others are refused. Empty: not known.
        known_topics: The topics that a variable's name may mean, besides those that the files name.

    Raises:
        ConfigError: a setting is unknown, ill-typed or contradicts another; one line for each, which
            starts with its path (or the variable's name) and ends with its source.
        UnknownBackendError: no backend is registered for the URL's scheme.
        MissingExtraError: the backend needs something that is not installed.
    """
    environ = os.environ if environ is None else environ
    layers: list[list[Entry]] = [[Entry(("backend", "url"), default_backend or "memory://", "the code")]]
    problems: list[str] = []

    def add(entries: list[Entry], wrong: Iterable[str]) -> None:
        layers.append(entries)
        problems.extend(wrong)

    tables = files.read(None if folder is None else Path(folder))
    for source, table in tables:
        add(*flatten(table, source, known_handlers))
    add(
        *environment.read(
            environ,
            handlers={*known_handlers, *_names("consumer", tables)},
            topics={*known_topics, *_names("topic", tables)},
            guess=not known_handlers,
        )
    )
    add(*flatten(overrides or {}, "the command line", known_handlers))

    values, wrong = _checked(layers)
    problems += wrong
    backend, wrong = options.choose(
        [[entry for entry in layer if entry.path[0] == "backend"] for layer in layers], environ
    )
    problems += wrong
    if backend is None or problems:
        raise ConfigError("\n".join(problems))
    return _built(backend, values)


def _names(section: str, tables: Sequence[files.Table]) -> set[str]:
    said = (table.content.get(section) for table in tables)
    return {name for names in said if isinstance(names, dict) for name in names}


def _checked(layers: Sequence[Sequence[Entry]]) -> tuple[dict[tuple[str, ...], Any], list[str]]:
    """The strongest value for each setting but the backend's, and what is wrong with any of them."""
    values, problems = {}, []
    for entry in (entry for layer in layers for entry in layer if entry.path[0] != "backend"):
        try:
            values[entry.path] = value_of(entry, _type_of(entry.path))
        except UnusableError as exc:
            problems.append(entry.problem(str(exc)))
    return values, problems


def _type_of(path: tuple[str, ...]) -> Any:
    tables: dict[str, type[Struct]] = {"web": WebSettings, **SECTIONS}
    struct = Settings if path in _PLAIN else tables[path[0]]
    return {field.name: field.type for field in structs.fields(struct)}[path[-1]]


def _built(backend: BackendSettings, values: Mapping[tuple[str, ...], Any]) -> Settings:
    said: dict[str, dict[str, dict[str, Any]]] = {section: {} for section in SECTIONS}
    for section, name, field in (path for path in values if path[0] in SECTIONS):
        said[section].setdefault(name, {})[field] = values[section, name, field]
    return Settings(
        backend=backend,
        consumer={name: HandlerSettings(**fields) for name, fields in said["consumer"].items()},
        topic={name: TopicSettings(**fields) for name, fields in said["topic"].items()},
        web=WebSettings(**{path[1]: value for path, value in values.items() if path[0] == "web"}),
        **{path[0]: value for path, value in values.items() if path in _PLAIN},
    )
