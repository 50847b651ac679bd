"""The contract suite on fakeredis' server, which needs no Redis to be installed."""

from __future__ import annotations

from contextlib import asynccontextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from fakeredis import TcpFakeServer
from fakeredis._clients._tcp_server import TCPFakeRequestHandler
from redis.exceptions import ResponseError

from eventml.backends import redis
from eventml.testing import contract
from tests.redis.proxy import Proxy, proxied

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LEASE = 0.6
SETTINGS = redis.Settings(lease=LEASE, max_bytes=100_000)
MANY = {
    "a_cancelled_receive_loses_nothing",
    "an_idle_member_leaves_records_to_others",
    "nothing_is_lost_while_members_join_and_leave",
    "one_call_writes_many_records",
}
"""Cases of thousands of records, which take this server seconds each; test_redis.py has them, on Redis."""


class Handler(TCPFakeRequestHandler):
    """Replies with errors as Redis does; fakeredis' own handler closes the connection after each."""

    def setup(self) -> None:
        super().setup()
        read_response = self.current_client.read_response

        def answer() -> Any:
            try:
                return read_response()
            except ResponseError as exc:
                return exc

        self.current_client.read_response = answer  # type: ignore[method-assign,assignment]  # replaced on purpose


@pytest.fixture
def url() -> Iterator[str]:
    """A server for each test: it is slow with many entries, and goes on with requests that have timed out."""
    server = TcpFakeServer(("127.0.0.1", 0), server_version=(7, 0))
    server.RequestHandlerClass = Handler
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def harness(url: str) -> contract.Harness:
    proxies: dict[Any, Proxy] = {}

    @asynccontextmanager
    async def connect() -> AsyncIterator[redis.RedisBackend]:
        async with proxied(url) as proxy, redis.open(proxy.url, SETTINGS) as backend:
            proxies[backend] = proxy
            yield backend

    async def kill(backend: redis.RedisBackend) -> None:
        await proxies[backend].kill()

    return contract.Harness(
        connect=connect,
        declared=redis.capabilities(SETTINGS),
        kill=kill,
        lease=LEASE,
        freeze=lambda backend: proxies[backend].silence(),
    )


@pytest.mark.parametrize("case", [case for case in contract.CASES if case.name not in MANY], ids=str)
async def test_redis_keeps_the_contract_on_fakeredis(case: contract.Case, harness: contract.Harness) -> None:
    await contract.check(case, harness)
