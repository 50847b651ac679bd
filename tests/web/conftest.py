"""The app in `apps/doubling.py`, called in this process, or served by a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import httpx
import pytest

from eventml import config
from tests.web.apps import doubling
from tests.web.server import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from eventml import Bus

TOKEN = "t0ken-of-the-tests"  # noqa: S105 - of the tests


class EnterApp(Protocol):
    """Enter the lifespan of the app with settings of `[web]`, and return a client."""

    async def __call__(self, **web: Any) -> httpx.AsyncClient: ...


class Serve(Protocol):
    """Start `eventml serve` in a process of its own."""

    def __call__(
        self, *options: str, env: dict[str, str] | None = None, app: str = "doubling:bus"
    ) -> Server: ...


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("EVENTML_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def bus() -> Iterator[Bus]:
    yield doubling.bus
    doubling.bus._settings = None


@pytest.fixture
async def enter_app(bus: Bus) -> AsyncIterator[EnterApp]:
    async with AsyncExitStack() as stack:

        async def enter(**web: Any) -> httpx.AsyncClient:
            bus.configure(config.load(environ={}, overrides={"web": web, "drain": 5}))
            return await stack.enter_async_context(client_of(await entered(stack, bus.asgi())))

        yield enter


@pytest.fixture
async def client(enter_app: EnterApp) -> httpx.AsyncClient:
    return await enter_app()


async def entered(stack: AsyncExitStack, application: Any) -> Any:
    await stack.enter_async_context(application.lifespan())
    return application


def client_of(application: Any, base: str = "http://127.0.0.1:8000") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url=base, timeout=30)


async def until_in_flight(client: httpx.AsyncClient, requests: int) -> None:
    """Wait until the app of a client has this many requests in flight."""
    application = client._transport.app  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        while application.in_flight != requests:
            await asyncio.sleep(0.005)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers, which are killed at the end of the test."""
    with starting(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with default settings, shared by the tests of a module."""
    with starting(tmp_path_factory.mktemp("server")) as start:
        yield start()


@pytest.fixture(scope="module")
def impatient_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with short time limits for connections, shared by the tests of a module."""
    limits = {"RECEIVE_TIMEOUT": "0.5", "SEND_TIMEOUT": "0.5", "KEEP_ALIVE": "0.5", "MAX_BODY": "20000000"}
    with starting(tmp_path_factory.mktemp("impatient")) as start:
        yield start(env={f"EVENTML_WEB_{name}": value for name, value in limits.items()})


@contextmanager
def starting(folder: Path) -> Iterator[Serve]:
    if not sys.platform.startswith("linux"):
        pytest.skip("these tests look at processes through /proc")
    servers: list[Server] = []

    def start(*options: str, env: dict[str, str] | None = None, app: str = "doubling:bus") -> Server:
        servers.append(Server(folder / f"server-{len(servers)}.log", *options, app=app, env=env or {}))
        return servers[-1]

    yield start
    for one in servers:
        print(one.text)  # noqa: T201 - shown if the test fails
        one.kill()
