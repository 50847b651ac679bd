"""Profiles, settings of one bus, and variables that Kubernetes sets for Services."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from eventml import Bus
from eventml.config import Settings, load
from eventml.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

FILE = """
backend = "redis://all"
drain = 1
[consumer.duration]
retries = 1
max_batch = 1

[profile.dev]
backend = "memory://"

[profile.prod]
backend = {url = "redis://prod", lease = 9}
consumer.duration.retries = 2

[bus.audit]
backend = "redis://audit"
[bus.audit.consumer.write]
retries = 7
[profile.prod.bus.audit]
backend.lease = 4
"""


@pytest.fixture
def _file(tmp_path: Path) -> None:
    (tmp_path / "eventml.toml").write_text(FILE)


def url(settings: Settings) -> str:
    return settings.backend.url


@pytest.mark.usefixtures("_file")
def test_a_profile_lies_over_the_rest_of_the_file() -> None:
    settings = load(environ={"EVENTML_PROFILE": "prod"}, known_handlers=["duration"], bus="rides")
    assert (url(settings), settings.drain) == ("redis://prod", 1.0)
    assert settings.consumer == {"duration": {"retries": 2, "max_batch": 1}}
    assert url(load(environ={"EVENTML_PROFILE": "dev"})) == "memory://"
    assert url(load(environ={"EVENTML_PROFILE": ""})) == "redis://all"


@pytest.mark.usefixtures("_file")
def test_a_variable_is_stronger_than_a_profile() -> None:
    assert url(load(environ={"EVENTML_PROFILE": "prod", "EVENTML_BACKEND": "redis://v"})) == "redis://v"


def test_an_unknown_profile_lists_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={"EVENTML_PROFILE": "prd"})
    assert str(caught.value) == "EVENTML_PROFILE: no profile 'prd' in eventml.toml, which has: none"
    (tmp_path / "eventml.toml").write_text(FILE)
    with pytest.raises(ConfigError) as caught:
        load(environ={"EVENTML_PROFILE": "prd"})
    assert str(caught.value) == "EVENTML_PROFILE: no profile 'prd' in eventml.toml, which has: dev, prod"


@pytest.mark.usefixtures("_file")
def test_a_buss_own_backend_is_stronger_than_that_of_all_buses() -> None:
    environ = {"EVENTML_BACKEND": "redis://v"}
    assert url(load(environ=environ, bus="rides")) == "redis://v"
    assert url(load(environ=environ, bus="audit")) == "redis://audit"
    own = environ | {"EVENTML_BUS_AUDIT_BACKEND": "redis://own", "EVENTML_BUS_AUDIT_BACKEND_LEASE": "5"}
    settings = load(environ=own, bus="audit")
    assert url(settings) == "redis://own"
    assert "lease=5.0" in repr(settings.backend.options)
    assert url(load(environ=own, bus="rides")) == "redis://v"
    assert url(load(environ=own, bus="audit", overrides={"backend": "memory://"})) == "memory://"


@pytest.mark.usefixtures("_file")
def test_a_bus_may_have_settings_in_a_profile() -> None:
    settings = load(environ={"EVENTML_PROFILE": "prod"}, bus="audit", known_handlers=["duration", "write"])
    assert url(settings) == "redis://audit"
    assert "lease=4.0" in repr(settings.backend.options)
    assert settings.consumer["write"] == {"retries": 7}


def test_a_variable_of_a_bus_has_the_buss_name_in_upper_case_without_dots_and_dashes() -> None:
    environ = {"EVENTML_BUS_RIDES_OF_2024_BACKEND": "redis://own"}
    assert url(load(environ=environ, bus="rides.of-2024")) == "redis://own"
    assert url(load(environ=environ, bus="rides.of")) == "memory://"
    assert url(load(environ=environ)) == "memory://"


def test_two_buses_of_a_process_have_a_backend_each(monkeypatch: pytest.MonkeyPatch) -> None:
    rides, audit = Bus("rides"), Bus("audit", backend="redis://code")
    assert (url(rides.settings), url(audit.settings)) == ("memory://", "redis://code")
    monkeypatch.setenv("EVENTML_BACKEND", "redis://v")
    monkeypatch.setenv("EVENTML_BUS_AUDIT_BACKEND", "redis://own")
    assert (url(rides.read_settings()), url(audit.read_settings())) == ("redis://v", "redis://own")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[profile.x]\ndrian = 1", "drian: unknown, did you mean drain? (from eventml.toml, [profile.x])"),
        ("[profile.x]\ndrain = -1", "drain: expected float >= 0, got -1 (from eventml.toml, [profile.x])"),
        ("[bus.x]\ndrain = -1", "drain: expected float >= 0, got -1 (from eventml.toml, [bus.x])"),
        (
            "[bus.rides.consumer.tipp]\nretries = 1",
            "consumer.tipp: unknown, did you mean tip? (from eventml.toml, [bus.rides])",
        ),
        (
            '[profile.x.bus."a b"]\ndrain = -1',
            'drain: expected float >= 0, got -1 (from eventml.toml, [profile.x.bus."a b"])',
        ),
        ("profile = 3", "profile: expected tables [profile.<name>] (from eventml.toml)"),
        ("[bus]\nbackend = 'memory://'", "bus: expected tables [bus.<name>] (from eventml.toml)"),
        ("[profile.x]\nbus = 3", "profile.x.bus: expected tables [bus.<name>] (from eventml.toml)"),
        ("[profil.x]\ndrain = 1", "profil: unknown, did you mean profile? (from eventml.toml)"),
    ],
)
def test_every_table_is_checked_also_where_it_is_not_used(tmp_path: Path, toml: str, message: str) -> None:
    (tmp_path / "eventml.toml").write_text(toml)
    with pytest.raises(ConfigError) as caught:
        load(environ={}, bus="rides", known_handlers=["tip"])
    assert str(caught.value) == message


def test_a_variable_of_a_bus_sets_the_backend_only() -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={"EVENTML_BUS_RIDES_DRAIN": "3"}, bus="rides")
    assert str(caught.value).startswith("EVENTML_BUS_RIDES_DRAIN: unknown, ")
    assert "EVENTML_BUS_<NAME>_BACKEND" in str(caught.value)


def services(prefix: str) -> dict[str, str]:
    """The variables of a Service with two ports, as Kubernetes documents them."""
    return {
        f"{prefix}_SERVICE_HOST": "10.0.0.11",
        f"{prefix}_SERVICE_PORT": "6379",
        f"{prefix}_SERVICE_PORT_HTTP": "6379",
        f"{prefix}_PORT": "tcp://10.0.0.11:6379",
        f"{prefix}_PORT_6379_TCP": "tcp://10.0.0.11:6379",
        f"{prefix}_PORT_6379_TCP_PROTO": "tcp",
        f"{prefix}_PORT_6379_TCP_PORT": "6379",
        f"{prefix}_PORT_6379_TCP_ADDR": "10.0.0.11",
        f"{prefix}_PORT_53_UDP": "udp://10.0.0.11:53",
    }


@pytest.mark.parametrize("prefix", ["EVENTML", "EVENTML_WEB", "EVENTML_REDIS_MASTER", "EVENTML_BACKEND"])
def test_variables_of_a_service_are_ignored_with_a_debug_line(
    prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "eventml")
    assert load(environ=services(prefix), bus="rides") == load(environ={})
    assert f"{prefix}_PORT is ignored: Kubernetes sets it for a Service" in caplog.messages


def test_other_variables_are_refused_beside_those_of_a_service() -> None:
    assert load(environ={"EVENTML_WEB_PORT": "8080"}).web.port == 8080
    for name, value in (("EVENTML_PORT", "8080"), ("EVENTML_WEB_PORT", "http://h"), ("EVENTML_SERVICE", "x")):
        with pytest.raises(ConfigError, match=name):
            load(environ=services("EVENTML_WEB") | {name: value})
