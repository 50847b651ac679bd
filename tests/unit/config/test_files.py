"""Finding and reading the file, and the errors of a file that cannot be read."""

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
    (below.parent / "eventml.toml").write_text("drain = 2")
    assert load(environ={}).drain == 2
    (below / "eventml.toml").write_text("")
    assert load(environ={}).drain == 30


def test_a_file_of_a_parent_is_named_in_full(below: Path) -> None:
    path = below.parent.parent / "eventml.toml"
    path.write_text("drain = -1")
    with pytest.raises(ConfigError) as caught:
        load(environ={})
    assert str(caught.value).endswith(f"(from {path})")


@pytest.mark.parametrize("name", ["drain", "web", "backend", "consumer"])
def test_a_topic_or_a_handler_may_have_the_name_of_a_setting(tmp_path: Path, name: str) -> None:
    (tmp_path / "eventml.toml").write_text(f"[topic.{name}]\npartitions = 3\n[consumer.{name}]\nretries = 1")
    settings = load(environ={f"EVENTML_CONSUMER_{name.upper()}_GROUP": "g"})
    assert settings.topic[name].partitions == 3
    assert settings.consumer == {name: {"retries": 1, "group": "g"}}


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "eventml.toml").write_text("a = 1\n\nb = = 2")
    with pytest.raises(ConfigError, match=r"eventml\.toml: not valid TOML: .*line 3"):
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
