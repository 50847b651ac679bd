"""Precedence: each setting comes from the strongest source that gives it."""

from __future__ import annotations

import json
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.config import Settings, TopicSettings, load
from eventml.config.settings import SECTIONS, dotted, variable

WORDS: dict[str, list[Any]] = {
    "ordered": [True, False],
    "skip_replayed": [True, False],
    "skip_tombstones": [True, False],
    "start": ["earliest", "latest"],
    "when_stale": ["drop", "dead_letter"],
    "model_sha256": ["a" * 64, "b" * 64],
}
TEXTS = {"group", "model", "golden"}
HANDLERS = ("duration", "tip_max")
PATHS = (
    [("drain",), ("web", "port"), ("web", "timeout"), ("backend", "lease"), ("backend", "block")]
    + [
        ("consumer", name, field)
        for name in HANDLERS
        for field in SECTIONS["consumer"]
        if field not in {"challenger", "canary", "model_compile"}  # tables; a single value
    ]
    + [("topic", "rides.started", field) for field in TopicSettings.__struct_fields__]
)
FILE, ENVIRONMENT, OVERRIDE = range(3)


def value(path: tuple[str, ...], source: int) -> Any:
    """A value that differs from that of the next stronger and the next weaker source."""
    if path[-1] in WORDS:
        return WORDS[path[-1]][source % 2]
    return f"from-{source}" if path[-1] in TEXTS else source + 3


def toml(paths: list[tuple[str, ...]], source: int) -> str:
    return "".join(f"{dotted(path)} = {json.dumps(value(path, source))}\n" for path in paths)


def at(settings: Settings, path: tuple[str, ...]) -> Any:
    match path:
        case ("backend", name):
            return getattr(settings.backend.options, name)
        case ("web", name):
            return getattr(settings.web, name)
        case ("drain",):
            return settings.drain
        case ("consumer", name, field):
            return settings.consumer[name][field]
        case ("topic", name, field):
            return getattr(settings.topic[name], field)
    raise AssertionError(path)


@given(st.dictionaries(st.sampled_from(PATHS), st.sets(st.integers(0, 2), min_size=1)))
def test_the_strongest_source_wins_for_every_setting(given_by: dict[tuple[str, ...], set[int]]) -> None:
    for path in given_by:
        if path[0] == "topic":
            given_by[path] -= {ENVIRONMENT}  # no variable sets a topic's settings
    given_by = {path: sources for path, sources in given_by.items() if sources}
    by_source = {source: [path for path in given_by if source in given_by[path]] for source in range(3)}
    overrides: dict[str, Any] = {}
    for path in by_source[OVERRIDE]:
        table = overrides
        for part in path[:-1]:
            table = table.setdefault(part, {})
        table[path[-1]] = value(path, OVERRIDE)
    with tempfile.TemporaryDirectory() as name, chdir(name):
        folder = Path(name)
        (folder / "eventml.toml").write_text(toml(by_source[FILE], FILE))
        environ = {variable(path): str(value(path, ENVIRONMENT)).lower() for path in by_source[ENVIRONMENT]}
        settings = load(
            environ=environ,
            overrides=overrides,
            default_backend="redis://localhost",
            known_handlers=HANDLERS,
        )
    for path, sources in given_by.items():
        assert at(settings, path) == value(path, max(sources)), path
    assert set(settings.consumer) == {path[1] for path in given_by if path[0] == "consumer"}


def test_without_settings_the_code_decides() -> None:
    settings = load(environ={})
    assert settings.backend.url == "memory://"
    assert (settings.consumer, settings.topic, settings.drain) == ({}, {}, 30.0)
    assert load(environ={}, default_backend="redis://code").backend.url == "redis://code"


def test_settings_that_are_not_given_have_no_default_here() -> None:
    """A default in the settings would override the value in the code."""
    overrides = {"consumer": {"a": {"max_batch": 3}}, "topic": {"b": {"partitions": 3}}}
    settings = load(environ={}, overrides=overrides)
    assert settings.consumer == {"a": {"max_batch": 3}}
    assert settings.topic == {"b": TopicSettings(partitions=3)}


URLS = ["redis://file", "redis://environment", "redis://override"]


@pytest.mark.parametrize("strongest", range(3))
def test_the_strongest_url_wins(tmp_path: Path, strongest: int) -> None:
    given_urls = URLS[: strongest + 1]
    (tmp_path / "eventml.toml").write_text(f'backend = "{URLS[FILE]}"')
    settings = load(
        environ={"EVENTML_BACKEND": URLS[ENVIRONMENT]} if strongest >= ENVIRONMENT else {},
        overrides={"backend": URLS[OVERRIDE]} if strongest >= OVERRIDE else None,
        default_backend="redis://code",
    )
    assert settings.backend.url == given_urls[-1]


@given(st.sets(st.integers(0, 2)), st.integers(0, 2))
def test_a_query_is_as_strong_as_its_url_and_counts_only_if_the_url_wins(keys: set[int], url: int) -> None:
    """One source has the URL, with a lease in its query; others give `lease` as an option."""
    tables: list[dict[str, Any]] = [{"backend": {}} for _ in range(3)]
    for source in keys - {url}:
        tables[source]["backend"]["lease"] = 10 + source
    tables[url]["backend"]["url"] = "redis://h:1/0?lease=7"
    with tempfile.TemporaryDirectory() as name, chdir(name):
        lines = [f"{key} = {json.dumps(said)}" for key, said in tables[FILE]["backend"].items()]
        (Path(name) / "eventml.toml").write_text("\n".join(["[backend]", *lines]))
        environ = {
            variable(("backend", key)): str(said) for key, said in tables[ENVIRONMENT]["backend"].items()
        }
        settings = load(
            environ=environ,
            overrides=tables[OVERRIDE],
            default_backend="redis://code?lease=99",
        )
    stronger = [source for source in keys if source > url]
    assert at(settings, ("backend", "lease")) == (10 + max(stronger) if stronger else 7)
    assert settings.backend.url == "redis://h:1/0"


def test_a_query_counts_over_the_options_beside_it(tmp_path: Path) -> None:
    (tmp_path / "eventml.toml").write_text('[backend]\nurl = "redis://h?lease=1"\nlease = 2')
    assert at(load(environ={}), ("backend", "lease")) == 1


class TestOptionsOfAnotherBackend:
    def test_are_left_out_when_a_stronger_source_chooses_this_one(self, tmp_path: Path) -> None:
        (tmp_path / "eventml.toml").write_text('[backend]\nurl = "redis://h"\nlease = 9\nretention = 3')
        settings = load(environ={"EVENTML_BACKEND_BLOCK": "5"}, overrides={"backend": "memory://"})
        # `retention` has another meaning here: the value for Redis must not reach the memory backend.
        assert repr(settings.backend.options) == "MemorySettings(partitions=8, retention=100000)"

    def test_are_kept_under_another_scheme_of_the_same_backend(self, tmp_path: Path) -> None:
        (tmp_path / "eventml.toml").write_text('[backend]\nurl = "redis://h"\nlease = 9')
        settings = load(environ={"EVENTML_BACKEND": "rediss://h"})
        assert at(settings, ("backend", "lease")) == 9

    def test_belong_to_the_winner_if_no_source_names_a_backend_for_them(self, tmp_path: Path) -> None:
        (tmp_path / "eventml.toml").write_text("[backend]\nlease = 9")
        settings = load(environ={"EVENTML_BACKEND": "redis://h"}, default_backend="memory://")
        assert at(settings, ("backend", "lease")) == 9
        with pytest.raises(Exception, match=r"backend\.lease: unknown.*eventml\.toml"):
            load(environ={}, overrides={"backend": "memory://"})

    def test_do_not_matter_when_their_url_needs_a_variable_that_is_not_set_here(self, tmp_path: Path) -> None:
        (tmp_path / "eventml.toml").write_text('[backend]\nurl = "${QUEUE_URL}"\nlease = 9')
        assert load(environ={}, overrides={"backend": "memory://"}).backend.url == "memory://"
        settings = load(environ={}, overrides={"backend": "redis://h"})
        assert at(settings, ("backend", "lease")) == 30
        (tmp_path / "eventml.toml").write_text('[backend]\nurl = "redis://:${PW}@h"\nlease = 9')
        settings = load(environ={}, overrides={"backend": "redis://h"})
        assert at(settings, ("backend", "lease")) == 9

    def test_count_again_when_a_stronger_source_comes_back_to_their_backend(self, tmp_path: Path) -> None:
        (tmp_path / "eventml.toml").write_text('[backend]\nurl = "redis://h"\nlease = 9')
        settings = load(environ={"EVENTML_BACKEND": "memory://"}, overrides={"backend": "redis://i"})
        assert at(settings, ("backend", "lease")) == 9
