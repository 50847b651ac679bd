"""Parsing the values of `--from` and `--to`."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventml.deploy.batch import parse_location
from eventml.deploy.batch.locations import FileLocation, SqlLocation
from eventml.errors import ConfigError


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
    ],
)
def test_an_invalid_location_is_refused_with_the_reason(text: str, query: str, reason: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_location(text, option="--from", query=query)
    assert reason in str(raised.value)
    assert "secret" not in str(raised.value)
    assert str(raised.value).startswith("--from")
