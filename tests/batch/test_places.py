"""What the user writes for a source or a target."""

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
def test_a_file_s_name_says_its_format(text: str, form: str) -> None:
    place = parse_location(text, option="--from")
    assert isinstance(place, FileLocation)
    assert (place.path, place.format) == (Path(text), form)


def test_a_table_stands_behind_the_url() -> None:
    place = parse_location("postgresql://u:p@host/db?x=1#my schema.rides", option="--from")
    assert place == SqlLocation("postgresql://u:p@host/db?x=1", "my schema.rides")


def test_a_password_comes_from_the_environment_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "s/e c?")
    place = parse_location("postgresql://u:${DB_PASSWORD}@host/db#rides", option="--from")
    assert isinstance(place, SqlLocation)
    assert place.url == "postgresql://u:s%2Fe%20c%3F@host/db"
    assert str(place) == "postgresql://u:***@host/db#rides"
    assert "s%2Fe" not in repr(place)


@pytest.mark.parametrize(
    ("text", "query", "said"),
    [
        ("rides", "", "expected a SQLAlchemy URL with #table"),
        ("rides.xlsx", "", "expected a SQLAlchemy URL with #table"),
        ("rides.csv", "SELECT 1", "a query is asked of a database"),
        ("sqlite:///x.db", "", "add #table to the URL, or a query with --query"),
        ("sqlite:///x.db#t", "SELECT 1", "a table or a query, not both"),
        ("postgresql://u:secret@${NO_SUCH}/db#t", "", "NO_SUCH"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, query: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_location(text, option="--from", query=query)
    assert said in str(raised.value)
    assert "secret" not in str(raised.value)
    assert str(raised.value).startswith("--from")
