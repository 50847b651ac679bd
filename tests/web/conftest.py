"""The app behind `apps/asked.py`, asked in this process or served by one of its own."""

from __future__ import annotations

import os
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Protocol

import httpx
import pytest

from eventml import config
from tests.web.apps import asked
from tests.web.server import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from eventml import Bus
    from eventml.deploy.web import WebApplication

TOKEN = "t0ken-of-the-tests"  # noqa: S105 - it guards nothing


class Ask(Protocol):
    """Enter the service and give a client of it, with settings of `[web]`."""

    async def __call__(self, **web: Any) -> httpx.AsyncClient: ...


class Serve(Protocol):
    """Start `eventml serve` in a process of its own."""

    def __call__(
        self, *options: str, env: dict[str, str] | None = None, app: str = "asked:bus"
    ) -> Server: ...


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("EVENTML_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def bus() -> Iterator[Bus]:
    yield asked.bus
    asked.bus._settings = None


@pytest.fixture
async def ask(bus: Bus) -> AsyncIterator[Ask]:
    async with AsyncExitStack() as stack:

        async def enter(**web: Any) -> httpx.AsyncClient:
            bus.configure(config.load(environ={}, overrides={"web": web, "drain": 5}))
            return await stack.enter_async_context(client_of(await entered(stack, bus.asgi())))

        yield enter


@pytest.fixture
async def client(ask: Ask) -> httpx.AsyncClient:
    return await ask()


async def entered(stack: AsyncExitStack, application: WebApplication) -> WebApplication:
    await stack.enter_async_context(application.lifespan())
    return application


def client_of(application: Any, base: str = "http://127.0.0.1:8000") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url=base, timeout=30)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers; they are ended with the test."""
    if not sys.platform.startswith("linux"):
        pytest.skip("these tests look at processes through /proc")
    servers: list[Server] = []

    def start(*options: str, env: dict[str, str] | None = None, app: str = "asked:bus") -> Server:
        servers.append(Server(tmp_path / f"server-{len(servers)}.log", *options, app=app, env=env or {}))
        return servers[-1]

    yield start
    for server in servers:
        print(server.text)  # noqa: T201 - shown where the test fails
        server.kill()
