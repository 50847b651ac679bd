"""Fixtures that start services on a Redis of this test run."""

from __future__ import annotations

import secrets
import sys
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.deploy.oracle import Oracle
from tests.deploy.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backends.redis.server import RedisServer

LEASE = 2
"""Lease of the Redis backend, in seconds."""


class Serve(Protocol):
    """Starts a service."""

    def __call__(
        self, *options: str, env: dict[str, str] | None = None, app: str = "plain:bus"
    ) -> Service: ...


@pytest.fixture
def name() -> str:
    """A name for the app that no other test uses."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def url(redis_server: RedisServer) -> str:
    return f"{redis_server.url}?lease={LEASE}"


@pytest.fixture
def oracle(url: str, name: str) -> Oracle:
    return Oracle(url, name)


@pytest.fixture
def serve(url: str, name: str, tmp_path: Path) -> Iterator[Serve]:
    """Start services, which are killed at the end of the test."""
    if not sys.platform.startswith("linux"):
        pytest.skip("these tests look at processes through /proc")
    services: list[Service] = []

    def start(*options: str, env: dict[str, str] | None = None, app: str = "plain:bus") -> Service:
        log = tmp_path / f"service-{len(services)}.log"
        if "--operations" not in options:
            options = (*options, "--operations", "0")
        variables = {"APP": name, "EVENTML_BACKEND": url, **(env or {})}
        services.append(Service(log, *options, app=app, env=variables))
        return services[-1]

    yield start
    for service in services:
        print(service.text)  # noqa: T201 - shown where the test fails
        service.kill()
