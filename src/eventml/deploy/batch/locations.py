"""The locations of sources and targets, as `--from` and `--to` name them: database tables, queries, files."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from eventml.config import InvalidValueError, expand_url, redact, split_url
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
"""The format of a file by its suffix."""


_PASSWORD: Final = re.compile(r"(?<=://)([^/?#:@]*):[^/?#@]*(?=@)")


class SqlLocation(msgspec.Struct, frozen=True):
    """A table of a database, or the result of a query. As text it shows no password.

    Attributes:
        url: SQLAlchemy's URL, with the password.
        table: The table's name, or `schema.table`; empty for a query.
        query: The SQL to read from; empty for a table.
    """

    url: str
    table: str = ""
    query: str = ""

    def __str__(self) -> str:
        return redact(self.url) + (f"#{self.table}" if self.table else " (a query)")

    def __repr__(self) -> str:
        return f"SqlLocation({str(self)!r})"

    def fingerprint(self) -> str:
        """The query, and a hash of the URL without its password.

        What is hidden may decide which rows are read. The hash is slow because there may be secrets in it.
        """
        url = _PASSWORD.sub(r"\1", self.url)
        return f"{self.query} {hashlib.pbkdf2_hmac('sha256', url.encode(), b'eventml', 100_000).hex()}"


class FileLocation(msgspec.Struct, frozen=True):
    """A file and its format."""

    path: Path
    format: FileFormat

    def __str__(self) -> str:
        return str(self.path)


Location: TypeAlias = SqlLocation | FileLocation


def parse_location(text: str, *, option: str, query: str = "") -> Location:
    """Parse the value of `--from` or `--to`: `URL#table`, a URL and a query, or a path.

    `${NAME}` in a URL is replaced by the environment variable, so that no password has to be written.

    Messages name the option; `query` is the value of `--query`.

    Raises:
        ConfigError: The text is none of these, or does not fit to the query.
    """
    if "://" in text:
        return _parse_database(text, option, query)
    if query:
        raise ConfigError(
            f"{option} {redact(text)}: --query needs the URL of a database in {option}, no file"
        )
    path = Path(text)
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        shown = redact(text) if "@" in text else text
        raise ConfigError(
            f"{option} {shown}: expected a SQLAlchemy URL with #table, such as "
            f"sqlite:///rides.db#rides, or a file whose name ends in {', '.join(FORMATS)}"
        )
    return FileLocation(path, form)


def _parse_database(text: str, option: str, query: str) -> SqlLocation:
    url, _, table = text.partition("#")
    try:
        url = expand_url(url, os.environ)
        if not url.partition("://")[2].startswith("/"):  # a path may contain "@"
            split_url(url)
        if "@" in table:  # the "#" was part of a password
            split_url(text)
    except InvalidValueError as exc:
        raise ConfigError(f"{option} {redact(text)}: {exc}") from exc
    if table and query:
        raise ConfigError(f"{option} {redact(url)}: remove #{table} or --query: only one of them can be read")
    if not table and not query:
        alternative = "" if option == "--to" else ", or a query with --query"
        raise ConfigError(f"{option} {redact(url)}: no table is named: add #table to the URL{alternative}")
    return SqlLocation(url, table, query)
