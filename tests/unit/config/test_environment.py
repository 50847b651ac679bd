"""Environment variables, and the settings that they set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventml.config import load
from eventml.config.settings import SECTIONS, Entry, variable
from eventml.config.sources import NOT_SETTINGS, read_environment
from eventml.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

# Short, and of few letters and the fields' own words, so that names and fields run into each other.
HANDLER_OPTIONS = tuple(SECTIONS["consumer"])
PARTS = st.sampled_from(["a", "b", "max", "backoff", "batch", "group"])
HANDLER = st.lists(PARTS, min_size=1, max_size=3).map("_".join)


def paths(found: list[Entry | str]) -> list[tuple[str, ...]]:
    return [entry.path for entry in found if isinstance(entry, Entry)]


@given(
    st.sets(HANDLER, min_size=1, max_size=5),
    st.sampled_from(HANDLER_OPTIONS),
    st.data(),
)
def test_a_handlers_variable_means_it_or_is_refused(names: set[str], field: str, data: st.DataObject) -> None:
    """A variable's name and back. One that two settings share is refused, never read as the other setting."""
    path = ("consumer", data.draw(st.sampled_from(sorted(names))), field)
    others = {("consumer", name, other) for name in names for other in HANDLER_OPTIONS} - {path}
    found = read_environment({variable(path): "1"}, names, known=True)
    if any(variable(other) == variable(path) for other in others):
        [problem] = found
        assert isinstance(problem, str)
        assert "ambiguous" in problem
    else:
        assert paths(found) == [path]


def test_where_the_handlers_are_not_known_their_variables_are_ignored() -> None:
    environ = {"EVENTML_CONSUMER_A_GROUP": "g", "EVENTML_CONSUMER_B_GROUP": "g", "EVENTML_DRAIN": "3"}
    found = read_environment(environ, ["b"], known=False)
    assert paths(found) == [("consumer", "b", "group"), ("drain",)]
    assert load(environ=environ).consumer == {}


def test_text_becomes_the_fields_type() -> None:
    settings = load(
        environ={
            "EVENTML_CONSUMER_DURATION_MAX_BATCH": "512",
            "EVENTML_CONSUMER_DURATION_BACKOFF": "0.5",
            "EVENTML_CONSUMER_DURATION_ORDERED": "true",
            "EVENTML_CONSUMER_DURATION_START": "latest",
            "EVENTML_CONSUMER_DURATION_GROUP": "7",
            "EVENTML_DRAIN": "2",
            "EVENTML_BACKEND_URL": "redis://h",
            "EVENTML_BACKEND_LEASE": "12",
            "EVENTML_BACKEND_TLS": "1",
        },
        known_handlers=["duration"],
    )
    assert settings.consumer == {
        "duration": {"max_batch": 512, "backoff": 0.5, "ordered": True, "start": "latest", "group": "7"}
    }
    assert settings.drain == 2.0
    assert repr(settings.backend.options).startswith("StreamSettings(lease=12.0, block=100, tls=True")


def test_a_handlers_name_is_in_upper_case() -> None:
    environ = {"EVENTML_CONSUMER_RIDEDURATION_MAX_BATCH": "3"}
    settings = load(environ=environ, known_handlers=["RideDuration"])
    assert settings.consumer == {"RideDuration": {"max_batch": 3}}


def test_an_empty_variable_is_ignored() -> None:
    settings = load(environ={"EVENTML_BACKEND": "", "EVENTML_DRAIN": "", "EVENTML_CONSUMER_A_GROUP": ""})
    assert (settings.backend.url, settings.drain, settings.consumer) == ("memory://", 30.0, {})


def test_variables_that_are_read_elsewhere_are_left_alone(tmp_path: Path) -> None:
    others = {"EVENTMLX": "1", "PATH": "/bin"}
    (tmp_path / "x").write_text("[profile.x]")  # EVENTML_CONFIG names a file, EVENTML_PROFILE a profile in it
    assert load(environ=dict.fromkeys(NOT_SETTINGS, "x") | others) == load(environ={})


def test_the_processs_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTML_DRAIN", "3")
    assert load().drain == 3


def test_a_handler_named_in_a_file_is_known(tmp_path: Path) -> None:
    (tmp_path / "eventml.toml").write_text("[consumer.Ride_MAX]")
    settings = load(environ={"EVENTML_CONSUMER_RIDE_MAX_BACKOFF": "1"})
    assert settings.consumer == {"Ride_MAX": {"backoff": 1.0}}


def test_an_unknown_handler_is_refused() -> None:
    environ = {"EVENTML_CONSUMER_WEATHER_MAX_BATCH": "1", "EVENTML_CONSUMER_DURATON_MAX_BATCH": "1"}
    with pytest.raises(ConfigError) as caught:
        load(environ=environ, known_handlers=["duration", "tip"])
    assert str(caught.value).splitlines() == [
        "EVENTML_CONSUMER_DURATON_MAX_BATCH: unknown, did you mean EVENTML_CONSUMER_DURATION_MAX_BATCH?",
        (
            "EVENTML_CONSUMER_WEATHER_MAX_BATCH: unknown, no setting has that name, or no app or file names "
            "its handler"
        ),
    ]
