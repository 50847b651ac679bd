"""The same failures on every backend."""

from __future__ import annotations

import secrets

import pytest

from tests.failures.scenario import Scenario


@pytest.fixture(params=["memory", "redis", "kafka"])
def backend_url(request: pytest.FixtureRequest) -> str:
    if request.param == "redis":
        return str(request.getfixturevalue("redis_server").url)
    if request.param == "kafka":
        return str(request.getfixturevalue("kafka_broker").url)
    return f"memory://{secrets.token_hex(4)}"


@pytest.fixture(params=["redis", "kafka"])
def shared_backend_url(request: pytest.FixtureRequest) -> str:
    """A backend that processes share, and that soon redelivers the events of a dead one."""
    if request.param == "redis":
        return f"{request.getfixturevalue('redis_server').url}?lease=1"
    return f"{request.getfixturevalue('kafka_broker').url}?session_timeout=6"


@pytest.fixture
def scenario(backend_url: str) -> Scenario:
    return Scenario(backend_url)
