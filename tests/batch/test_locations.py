"""Parsing the values of `--from` and `--to`."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from eventml.deploy.batch import parse_location
from eventml.deploy.batch.locations import FileLocation, SqlLocation
from eventml.errors import ConfigError, SourceError


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("a.parquet", "parquet"),
        ("b/c.CSV", "csv"),
        ("d.jsonl", "jsonl"),
        ("e.ndjson", "jsonl"),
        ("f.pq", "parquet"),
    ],
)
def test_the_suffix_of_a_file_is_its_format(text: str, form: str) -> None:
    location = parse_location(text, option="--from")
    assert isinstance(location, FileLocation)
    assert (location.path, location.format) == (Path(text), form)


def test_the_table_is_the_fragment_of_the_url() -> None:
    location = parse_location("postgresql://u:p@host/db?x=1#my schema.rides", option="--from")
    assert location == SqlLocation("postgresql://u:p@host/db?x=1", "my schema.rides")


def test_a_password_comes_from_the_environment_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "s/e c?")
    location = parse_location("postgresql://u:${DB_PASSWORD}@host/db#rides", option="--from")
    assert isinstance(location, SqlLocation)
    assert location.url == "postgresql://u:s%2Fe%20c%3F@host/db"
    assert str(location) == "postgresql://u:***@host/db#rides"
    assert "s%2Fe" not in repr(location)


@pytest.mark.parametrize(
    ("text", "query", "reason"),
    [
        ("rides", "", "expected a SQLAlchemy URL with #table"),
        ("rides.xlsx", "", "expected a SQLAlchemy URL with #table"),
        ("rides.csv", "SELECT 1", "--query needs the URL of a database"),
        ("sqlite:///x.db", "", "add #table to the URL, or a query with --query"),
        ("sqlite:///x.db#t", "SELECT 1", "remove #t or --query"),
        ("postgresql://u:secret@${NO_SUCH}/db#t", "", "NO_SUCH"),
        ("postgresql://u:p#secret@h/db#t", "", "%23"),
        ("postgresql://u:p#secret@h/db", "SELECT 1", "%23"),
        ("postgresql://u:p/secret@h/db#t", "", "%2F"),
        ("postgresql://h/db?sig=secret", "", "add #table to the URL"),
        ("u:secret@h/db", "", "expected a SQLAlchemy URL with #table"),
        ("DRIVER=x;PWD=secret", "SELECT 1", "--query needs the URL of a database"),
        ("https://h/rides?sig=secret", "", "expected a SQLAlchemy URL with #table"),
    ],
)
def test_an_invalid_location_is_refused_with_the_reason(text: str, query: str, reason: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_location(text, option="--from", query=query)
    assert reason in str(raised.value)
    assert "secret" not in str(raised.value)
    assert str(raised.value).startswith("--from")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["a=1", "a=2"], "--param a is given twice"),
        (["a=1", "b=2"], "--param b: --query has no :b; add it where"),
        (["a"], "--param a: expected NAME=VALUE"),
        (["=1"], "--param : expected NAME=VALUE"),
        (["a.b=1"], "--param a.b: expected NAME=VALUE"),
    ],
)
def test_invalid_parameters_are_refused(given: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_location("sqlite:///x.db", option="--from", query="SELECT :a, :a.b", parameters=given)


@pytest.mark.parametrize("text", [".", "./", "..", "/", "s3://lake/", "gs://lake//"])
def test_a_target_has_a_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--to .*: name a file or a folder in it"):
        parse_location(text, option="--to")


def test_the_representation_of_a_file_shows_no_password() -> None:
    assert "secret" not in repr(parse_location("https://u:secret@h/x.csv?sig=secret", option="--from"))


@pytest.mark.parametrize("path", ["C:\\data\\x.txt", "rides=1.csx"])
def test_a_path_with_an_unknown_suffix_is_shown(path: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_location(path, option="--from")
    assert str(raised.value).startswith(f"--from {path}: expected")


@pytest.mark.parametrize("name", ["pwd", "passcode", "access_key", "sig", "key", "password"])
def test_an_unknown_parameter_is_not_shown(name: str) -> None:
    location = parse_location(f"postgresql://u:p@h/db?sslmode=require&{name}=secret#rides", option="--from")
    assert str(location) == "postgresql://u:***@h/db?sslmode=require&***#rides"


def test_the_path_of_a_file_may_contain_an_at_sign() -> None:
    location = parse_location("sqlite:////home/me@example/rides.db#rides", option="--from")
    assert location == SqlLocation("sqlite:////home/me@example/rides.db", "rides")


def test_locations_differ_for_a_resumed_run_if_only_what_is_hidden_differs() -> None:
    def identity(url: str) -> tuple[str, str]:
        location = SqlLocation(url, "rides")
        return str(location), location.fingerprint()

    urls = [
        "postgresql://u:p@h/db",
        "postgresql://u:p@h/db?options=-csearch_path%3Da",
        "postgresql://u:p@h/db?options=-csearch_path%3Db",
        "postgresql://u@h/db",
        "postgresql://v@h/db",
        "sqlite:////a@x/rides.db",
        "sqlite:////b@x/rides.db",
    ]
    assert len({identity(url) for url in urls}) == len(urls)
    assert identity("postgresql://u:p@h/db") == identity("postgresql://u:other@h/db")  # a new password
    assert identity(urls[1]) == identity(urls[1].replace(":p@", ":other@"))
    assert "search_path" not in "".join(identity(urls[1]))


SECRET = "zQ8kXw4v"  # noqa: S105 - what must not be shown


@pytest.mark.parametrize("cause", [True, False])
def test_a_drivers_message_does_not_show_the_parts_of_the_url(cause: bool) -> None:
    pytest.importorskip("sqlalchemy")
    from eventml.deploy.batch.sql_tables import translate_errors  # noqa: PLC0415 - comes with an extra

    class Error(Exception):
        __module__ = "driver"

    location = SqlLocation(f"postgresql://u:p@h/db?pwd={SECRET}", "rides")
    with pytest.raises(SourceError) as raised, translate_errors(location, SourceError):
        raise Error(f"bad option pwd={SECRET}" if cause else "server h is down")
    text = "".join(traceback.format_exception(raised.value))
    assert SECRET not in text
    assert ("server h is down" in str(raised.value)) is not cause


def test_a_url_that_sqlalchemy_cannot_read_is_not_shown() -> None:
    pytest.importorskip("sqlalchemy")
    from eventml.deploy.batch.sql_tables import open_engine  # noqa: PLC0415 - comes with an extra

    with pytest.raises(ConfigError, match="SQLAlchemy cannot read this URL") as raised:
        open_engine(SqlLocation(f"postgresql://u:{SECRET}", "rides"), read_only=True)
    assert SECRET not in "".join(traceback.format_exception(raised.value))
