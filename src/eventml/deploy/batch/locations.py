"""The locations of sources and targets, as `--from` and `--to` name them: database tables, queries, files."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from eventml.config import InvalidValueError, expand_url, redact, split_url
from eventml.errors import ConfigError
from eventml.models import cache_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

FileFormat = Literal["parquet", "csv", "jsonl", "dataset"]
"""`dataset` is a folder of Parquet files, or a Delta table."""

DELTA: Final = ".delta"  # of a folder that becomes a Delta table; one that is there may have any name

FORMATS: Final[dict[str, FileFormat]] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
"""The format of a file by its suffix."""


STORES: Final = frozenset(("s3", "gs", "az", "https", "http"))
"""The schemes of URLs that fsspec reads, and but for the last two writes."""

_PASSWORD: Final = re.compile(r"(?<=://)([^/?#:@]*):[^/?#@]*(?=@)")


class SqlLocation(msgspec.Struct, frozen=True):
    """A table of a database, or the result of a query. As text it shows no password.

    Attributes:
        url: SQLAlchemy's URL, with the password.
        table: The table's name, or `schema.table`; empty for a query.
        query: The SQL to read from; empty for a table.
        parameters: The values of `:name` in the query, by name.
    """

    url: str
    table: str = ""
    query: str = ""
    parameters: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return redact(self.url) + (f"#{self.table}" if self.table else " (a query)")

    def __repr__(self) -> str:
        return f"SqlLocation({str(self)!r})"

    def fingerprint(self) -> str:
        """The query, and a hash of the URL without its password.

        What is hidden may decide which rows are read. The hash is slow because there may be secrets in it.
        """
        url = _PASSWORD.sub(r"\1", self.url)
        query = f"{self.query} {self.parameters}" if self.parameters else self.query
        return f"{query} {hashlib.pbkdf2_hmac('sha256', url.encode(), b'eventml', 100_000).hex()}"


class FileLocation(msgspec.Struct, frozen=True):
    """A file, or a folder of files, and its format. As text it shows no password.

    Attributes:
        path: Its path; that of a URL is on this machine, where a target is prepared.
        url: Its URL in a store, with the password; empty for a path.
    """

    path: Path
    format: FileFormat
    url: str = ""

    def __str__(self) -> str:
        if not self.url:
            return str(self.path)
        base, query = re.split(r"(?=\?)|\Z", self.url, maxsplit=1)
        # `redact` hides a path with "=", by which a store's folders such as `month=2024-01` are named.
        shown = base if base.startswith("http") else base.replace("=", "\0")
        return redact(shown + query).replace("\0", "=")

    def __repr__(self) -> str:
        return f"FileLocation({str(self)!r})"

    def rejects(self) -> FileLocation:
        """Return the location of the file of rejected rows, beside it."""
        name = f"{self.path.name}.rejects.jsonl"
        url, query = self.url.partition("?")[::2]
        above = url.rstrip("/").rpartition("/")[0]
        url = f"{above}/{name}{query and '?'}{query}" if url else ""
        return FileLocation(self.path.with_name(name), "jsonl", url)


Location: TypeAlias = SqlLocation | FileLocation


def parse_location(text: str, *, option: str, query: str = "", parameters: Sequence[str] = ()) -> Location:
    """Parse the value of `--from` or `--to`: `URL#table`, a URL and a query, a file, or a folder.

    `${NAME}` in a URL is replaced by the environment variable, so that no password has to be written.

    Messages name the option; `query` is the value of `--query`, and `parameters` are those of `--param`.

    Raises:
        ConfigError: The text is none of these, or does not fit to the query.
    """
    scheme, is_url, rest = text.partition("://")
    in_store = bool(is_url) and scheme.lower() in STORES
    if is_url and not in_store:
        return _parse_database(text, option, query, parameters)
    if query or parameters:
        given = "--query" if query else "--param"
        raise ConfigError(
            f"{option} {redact(text)}: {given} needs the URL of a database in {option}, no file"
        )
    url = _expanded(f"{scheme.lower()}://{rest}", option) if in_store else ""
    path = Path(urlsplit(url).path.lstrip("/")) if url else Path(text)
    form = FORMATS.get(path.suffix.lower())
    if text.endswith("/") or path.suffix == DELTA or (not url and path.is_dir()):
        form = "dataset"
    shown = redact(text) if url or "@" in text else text
    if form is None:
        raise ConfigError(
            f"{option} {shown}: expected a SQLAlchemy URL with #table, such as "
            f"sqlite:///rides.db#rides, a file whose name ends in {', '.join(FORMATS)}, a folder of "
            f"Parquet files, whose name ends in /, or a Delta table, whose name ends in / or {DELTA}"
        )
    if option == "--to" and url.startswith("http"):
        raise ConfigError(f"{option} {shown}: a web server is read only; write to s3://, gs:// or az://")
    if option == "--to" and path.name in ("", ".."):
        raise ConfigError(f"{option} {shown}: name a file or a folder in it: the rejects are written beside")
    if url:
        path = cache_folder() / "score" / hashlib.sha256(url.encode()).hexdigest()[:32] / path.name
    return FileLocation(path, form, url)


def _expanded(url: str, option: str) -> str:
    try:
        return expand_url(url, os.environ)
    except InvalidValueError as exc:
        raise ConfigError(f"{option} {redact(url)}: {exc}") from exc


def _parse_database(text: str, option: str, query: str, parameters: Sequence[str]) -> SqlLocation:
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
    values: dict[str, str] = {}
    for name, given, value in (one.partition("=") for one in parameters):
        if not (given and name.isidentifier()):
            raise ConfigError(f"--param {name}: expected NAME=VALUE, with :NAME in --query")
        if not re.search(rf"(?<!:):{name}\b", query):
            raise ConfigError(f"--param {name}: --query has no :{name}; add it where the value belongs")
        if name in values:
            raise ConfigError(f"--param {name} is given twice: name each value once")
        values[name] = value
    return SqlLocation(url, table, query, tuple(values.items()))
