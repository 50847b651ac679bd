"""Finding and reading the files, and the errors of files that cannot be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eventml.config import load
from eventml.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, two folders below the one that holds `eventml.toml`."""
    (tmp_path / "eventml.toml").write_text("drain = 1")
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def test_the_nearest_folder_with_a_file_is_taken(below: Path) -> None:
    assert load(environ={}).drain == 1
    (below.parent / "pyproject.toml").write_text("[tool.eventml]\ndrain = 2")
    assert load(environ={}).drain == 2
    (below / "eventml.toml").write_text("")
    assert load(environ={}).drain == 30


def test_a_pyproject_without_the_table_does_not_count(below: Path) -> None:
    (below / "pyproject.toml").write_text("[tool.ruff]\nline-length = 110")
    assert load(environ={}).drain == 1


def test_a_file_of_a_parent_is_named_in_full(below: Path) -> None:
    path = below.parent.parent / "eventml.toml"
    path.write_text("drain = -1")
    with pytest.raises(ConfigError) as caught:
        load(environ={})
    assert str(caught.value).endswith(f"(from {path})")


def test_both_files_of_a_folder_are_read(tmp_path: Path) -> None:
    (tmp_path / "eventml.toml").write_text("drain = 1\n[consumer.a]\nretries = 1")
    (tmp_path / "pyproject.toml").write_text("[tool.eventml.consumer.a]\nmax_batch = 2")
    settings = load(environ={})
    assert settings.drain == 1
    assert settings.consumer["a"] == {"retries": 1, "max_batch": 2}


@pytest.mark.parametrize("name", ["drain", "web", "backend", "consumer"])
def test_a_topic_or_a_handler_may_have_the_name_of_a_setting(tmp_path: Path, name: str) -> None:
    (tmp_path / "eventml.toml").write_text(
        f'[topic.{name}]\nid_field = "ride_id"\n[consumer.{name}]\nretries = 1'
    )
    settings = load(environ={f"EVENTML_CONSUMER_{name.upper()}_GROUP": "g"})
    assert settings.topic[name].id_field == "ride_id"
    assert settings.consumer == {name: {"retries": 1, "group": "g"}}


@pytest.mark.parametrize("name", ["eventml.toml", "pyproject.toml"])
def test_a_syntax_error_names_file_and_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a = 1\n\nb = = 2")
    with pytest.raises(ConfigError, match=rf"{name}: not valid TOML: .*line 3"):
        load(environ={})


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "eventml.toml").write_bytes(b"drain = 1\n# caf\xe9")
    with pytest.raises(ConfigError, match=r"eventml\.toml: not valid TOML: .*0xe9"):
        load(environ={})


def test_a_byte_order_mark_is_no_syntax_error(tmp_path: Path) -> None:
    (tmp_path / "eventml.toml").write_bytes(b"\xef\xbb\xbfdrain = 4")
    assert load(environ={}).drain == 4


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "eventml.toml").mkdir()
    with pytest.raises(ConfigError, match=r"eventml\.toml: cannot be read: "):
        load(environ={})


def test_tool_eventml_must_be_a_table(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool]\neventml = 1")
    with pytest.raises(ConfigError, match=r"^tool\.eventml: expected a table \(from pyproject\.toml\)"):
        load(environ={})
