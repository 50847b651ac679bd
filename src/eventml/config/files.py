"""The files: where they are looked for, and how they are read."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final, NamedTuple

from eventml.errors import ConfigError

OWN: Final = "eventml.toml"
PROJECT: Final = "pyproject.toml"


class Table(NamedTuple):
    """What one file says, and what to call it in a message."""

    source: str
    content: dict[str, Any]


def read(folder: Path | None) -> list[Table]:
    """What the files say, the weaker first: `eventml.toml`, then `[tool.eventml]` in `pyproject.toml`.

    Args:
        folder: Where they are. None looks in the current directory, then in its parents, and stops
            at the first that has either file; a `pyproject.toml` without our table does not count.

    Raises:
        ConfigError: the folder does not exist, or a file cannot be read or is not TOML.
    """
    if folder is not None:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder to read settings from")
        return _in(folder)
    here = Path.cwd()
    return next((tables for place in (here, *here.parents) if (tables := _in(place))), [])


def _in(folder: Path) -> list[Table]:
    tables = []
    if (own := _parse(folder / OWN)) is not None:
        tables.append(Table(_name(folder / OWN), own))
    tool = (_parse(folder / PROJECT) or {}).get("tool", {})
    if isinstance(tool, dict) and "eventml" in tool:
        source = _name(folder / PROJECT)
        if not isinstance(tool["eventml"], dict):
            raise ConfigError(f"tool.eventml: expected a table (from {source})")
        tables.append(Table(source, tool["eventml"]))
    return tables


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


def _name(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
