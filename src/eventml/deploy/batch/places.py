"""Where rows come from and go to: a table or a query of a database, or a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal

import msgspec

from eventml.config import InvalidValueError, expand_url, redact
from eventml.errors import ConfigError

FileFormat = Literal["parquet", "csv", "jsonl"]

FORMATS: Final[dict[str, FileFormat]] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}


class SqlPlace(msgspec.Struct, frozen=True):
    """A table of a database, or what a query of it answers.

    Attributes:
        url: SQLAlchemy's URL, its password in it: never shown.
        table: The table's name, behind its schema and a dot if it is in another than the default one.
        query: What to read in place of a table.
    """

    url: str
    table: str = ""
    query: str = ""

    def __str__(self) -> str:
        return redact(self.url) + (f"#{self.table}" if self.table else " (a query)")

    def __repr__(self) -> str:
        return f"SqlPlace({str(self)!r})"

    @property
    def is_sqlite(self) -> bool:
        return self.url.partition(":")[0].partition("+")[0] == "sqlite"


class FilePlace(msgspec.Struct, frozen=True):
    """A file, and how it is written."""

    path: Path
    format: FileFormat

    def __str__(self) -> str:
        return str(self.path)


Place = SqlPlace | FilePlace


def parse(text: str, *, option: str, query: str = "") -> Place:
    """Read what the user wrote: `URL#table`, a URL with a query beside it, or a path.

    `${NAME}` in a URL is replaced from the environment, so that a password need not be written.

    Raises:
        ConfigError: it is neither; says what is expected.
    """
    if "://" in text:
        return _database(text, option, query)
    if query:
        raise ConfigError(f"{option} {text}: a query is asked of a database, and this is a file")
    path = Path(text)
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise ConfigError(
            f"{option} {text}: expected a SQLAlchemy URL with #table, such as sqlite:///rides.db#rides, "
            f"or a file whose name ends in {', '.join(FORMATS)}"
        )
    return FilePlace(path, form)


def _database(text: str, option: str, query: str) -> SqlPlace:
    url, _, table = text.partition("#")
    try:
        url = expand_url(url, os.environ)
    except InvalidValueError as exc:
        raise ConfigError(f"{option} {redact(url)}: {exc}") from exc
    if bool(table) == bool(query):
        what = "a table or a query, not both" if table else "which table: add #table to the URL"
        also = "" if table or option == "--to" else ", or a query with --query"
        raise ConfigError(f"{option} {redact(url)}: say {what}{also}")
    return SqlPlace(url, table, query)
