"""Opening databases: read-only where the engine can, and their errors as ours."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from eventml.errors import ConfigError, JobError, MissingExtraError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine
    from sqlalchemy.engine import URL

    from eventml.deploy.batch.places import SqlPlace

LOCK_TIMEOUT: Final = 30.0
"""How long to wait for another process that holds a SQLite file, in seconds; `?timeout=` replaces it."""

_POSTGRESQL: Final = ("postgresql", "postgres")


def engine_of(place: SqlPlace, *, read_only: bool) -> Engine:
    """An engine for a place; nothing is connected yet.

    Raises:
        ConfigError: the URL cannot be used.
        MissingExtraError: SQLAlchemy is not installed.
        SourceError: a SQLite file to read from is not there.
    """
    try:
        import sqlalchemy as sa  # noqa: PLC0415 - it comes with an extra
    except ImportError as exc:
        raise MissingExtraError("batch", "reading and writing databases") from exc
    try:
        url = sa.make_url(place.url)
        if url.drivername in _POSTGRESQL:  # psycopg 2 is what SQLAlchemy would take
            url = url.set(drivername="postgresql+psycopg")
        if url.get_backend_name() == "sqlite":
            return _sqlite(url, place, read_only=read_only)
        options: dict[str, Any] = {"hide_parameters": True, "poolclass": sa.pool.NullPool}
        if read_only and url.get_backend_name() == "postgresql":
            options["execution_options"] = {"postgresql_readonly": True}
        return sa.create_engine(url, **options)
    except (sa.exc.ArgumentError, ValueError) as exc:
        raise ConfigError(f"{place}: SQLAlchemy cannot read this URL") from exc
    except (sa.exc.NoSuchModuleError, ModuleNotFoundError) as exc:
        raise ConfigError(f"{place}: {exc}; install the database's driver") from exc


def _sqlite(url: URL, place: SqlPlace, *, read_only: bool) -> Engine:
    import sqlalchemy as sa  # noqa: PLC0415 - it comes with an extra

    if not url.database or url.database == ":memory:" or "mode=memory" in str(url):
        raise ConfigError(f"{place}: a database in memory lives in the process that made it; name a file")
    path = Path(url.database)
    if read_only and not path.is_file():
        raise SourceError(f"{place}: no such file (looked for {path.absolute()})")
    if not read_only and not path.parent.is_dir():
        raise ConfigError(f"{place}: there is no folder {path.parent.absolute()}")
    timeout = float(str(url.query.get("timeout", LOCK_TIMEOUT)))
    name = f"file:{quote(str(path.absolute()))}?mode={'ro' if read_only else 'rwc'}"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(name, uri=True, timeout=timeout, check_same_thread=False)

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.pool.NullPool, hide_parameters=True)
    if not read_only:
        # By itself the driver begins a transaction too late: DDL and reads stay outside it.
        sa.event.listen(engine, "connect", _leave_transactions)
        sa.event.listen(engine, "begin", _begin_immediate)
    return engine


def _leave_transactions(connection: Any, _record: object) -> None:
    connection.isolation_level = None


def _begin_immediate(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def translated(place: SqlPlace, error: type[JobError], what: str) -> Iterator[None]:
    """Make one of ours of whatever the database raises: its text holds no values and no URL.

    Args:
        place: Named in the message.
        error: What to raise.
        what: What could not be done.
    """
    import sqlalchemy as sa  # noqa: PLC0415 - it comes with an extra

    known: tuple[type[Exception], ...] = (sa.exc.SQLAlchemyError, sqlite3.Error, OSError, OverflowError)
    try:
        yield
    except Exception as exc:
        if not (isinstance(exc, known) or _of_driver(exc)):
            raise
        raise error(f"{place}: {what}: {_reason(exc)}{_advice(exc)}") from exc


def _of_driver(error: Exception) -> bool:
    """Whether it is a driver's own, as a plain cursor raises it."""
    return any(kind.__name__ == "Error" and kind.__module__ != "builtins" for kind in type(error).__mro__)


def _reason(error: Any) -> str:
    original = getattr(error, "orig", None) or error
    return str(original).strip().partition("\n")[0] or type(original).__name__


def _advice(error: Exception) -> str:
    said = str(error).lower()
    if "locked" in said:
        return (
            f". Another process holds the database, for longer than {LOCK_TIMEOUT:g} s (?timeout=SECONDS in "
            "the URL); the next run goes on from the last checkpoint"
        )
    if "full" in said or "no space" in said:
        return ". Nothing of this chunk was written; make room, and the next run goes on from there"
    return ""
