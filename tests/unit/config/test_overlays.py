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
    environ = {"EVENTML_BACKEND": "redis://v", "EVENTML_BACKEND_LEASE": "5"}
    assert url(load(environ=environ, bus="rides")) == "redis://v"
    settings = load(environ=environ, bus="audit")
    assert url(settings) == "redis://audit"
    assert "lease=5.0" in repr(settings.backend.options)
    settings = load(environ=environ | {"EVENTML_PROFILE": "prod"}, bus="audit")
    assert "lease=4.0" in repr(settings.backend.options)
    assert url(load(environ=environ, bus="audit", overrides={"backend": "memory://"})) == "memory://"


def test_options_of_a_bus_belong_to_the_backend_that_the_file_names(tmp_path: Path) -> None:
    """As those of all buses do: `EVENTML_BACKEND=memory://` for one run leaves them out."""
    file = tmp_path / "eventml.toml"
    file.write_text(
        "backend = 'redis://all'\n[bus.a.backend]\nlease = 30\n[profile.p.bus.a.backend]\nblock = 7"
    )
    environ = {"EVENTML_PROFILE": "p"}
    assert "lease=30.0, block=7" in repr(load(environ=environ, bus="a").backend)
    moved = environ | {"EVENTML_BACKEND": "memory://", "EVENTML_BACKEND_PARTITIONS": "3"}
    assert "partitions=3" in repr(load(environ=moved, bus="a").backend)
    assert "lease=30.0, block=7" in repr(
        load(environ=environ | {"EVENTML_BACKEND": "rediss://v"}, bus="a").backend
    )
    file.write_text(f"{file.read_text()}\nurl = 'redis://own'")
    settings = load(environ=moved, bus="a")
    assert url(settings) == "redis://own"
    assert "lease=30.0, block=7" in repr(settings.backend)
    file.write_text("[bus.a.backend]\nlease = 30")
    assert "lease=30.0" in repr(load(environ={"EVENTML_BACKEND": "redis://v"}, bus="a").backend)


def test_the_backend_of_a_bus_may_be_a_variable(tmp_path: Path) -> None:
    (tmp_path / "eventml.toml").write_text("[bus.audit]\nbackend = '${AUDIT_URL}'")
    environ = {"AUDIT_URL": "redis://:p@h?lease=5", "EVENTML_BACKEND": "memory://"}
    settings = load(environ=environ, bus="audit")
    assert (url(settings), url(load(environ=environ, bus="rides"))) == ("redis://:p@h", "memory://")
    assert "lease=5.0" in repr(settings.backend.options)
    assert url(load(environ={}, bus="rides")) == "memory://"
    with pytest.raises(ConfigError, match=r"\$\{AUDIT_URL\} is not set .*\[bus\.audit\]"):
        load(environ={}, bus="audit")


def test_a_variable_of_a_handler_is_for_the_buses_that_have_it(tmp_path: Path) -> None:
    (tmp_path / "eventml.toml").write_text(
        "[bus.tips]\nweb.port = 1\n[bus.tips.consumer.tip]\nmax_batch = 7\nretries = 1\n"
        "[profile.x.bus.tips.consumer.late]\n"
    )
    environ = {
        "EVENTML_CONSUMER_TIP_MAX_BATCH": "5",
        "EVENTML_CONSUMER_LATE_MAX_BATCH": "6",
        "EVENTML_WEB_PORT": "2",
    }
    tips = load(environ=environ, bus="tips", known_handlers=["tip", "late"])
    assert tips.consumer == {"tip": {"max_batch": 5, "retries": 1}, "late": {"max_batch": 6}}
    assert tips.web.port == 2
    rides = load(environ=environ, bus="rides", known_handlers=["duration"])
    assert (rides.consumer, rides.web.port) == ({}, 2)
    with pytest.raises(ConfigError, match="EVENTML_CONSUMER_TOP_MAX_BATCH: unknown, did you mean"):
        load(environ={"EVENTML_CONSUMER_TOP_MAX_BATCH": "5"}, bus="rides", known_handlers=["duration"])


@pytest.mark.usefixtures("_file")
def test_a_bus_may_have_settings_in_a_profile() -> None:
    settings = load(environ={"EVENTML_PROFILE": "prod"}, bus="audit", known_handlers=["duration", "write"])
    assert url(settings) == "redis://audit"
    assert "lease=4.0" in repr(settings.backend.options)
    assert settings.consumer["write"] == {"retries": 7}


def test_two_buses_of_a_process_have_a_backend_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rides, audit = Bus("rides"), Bus("audit", backend="redis://code")
    assert (url(rides.settings), url(audit.settings)) == ("memory://", "redis://code")
    monkeypatch.setenv("EVENTML_BACKEND", "redis://v")
    (tmp_path / "eventml.toml").write_text("[bus.audit]\nbackend = 'redis://own'")
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


def test_a_bus_has_no_variables() -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={"EVENTML_BUS_RIDES_BACKEND": "memory://"}, bus="rides")
    assert str(caught.value) == (
        "EVENTML_BUS_RIDES_BACKEND: unknown, topics and single buses are configured in eventml.toml only"
    )


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
