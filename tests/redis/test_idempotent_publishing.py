"""Servers that recognise duplicates (Redis 8.6): a write whose reply was lost is repeated, and adds nothing.

fakeredis stands in for such a server.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from threading import Thread
from typing import TYPE_CHECKING

import pytest
from fakeredis import TcpFakeServer

from eventml.backends.redis.publishing import RECOGNISED, Producers, Publisher
from eventml.backends.redis.servers import Features, Server, Standalone, features_of
from eventml.backends.redis.settings import Settings, parse_url
from eventml.errors import ConfigError, UnavailableError
from tests.redis import scene
from tests.redis.proxy import proxied
from tests.redis.test_lost_replies import sometimes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = TcpFakeServer(("127.0.0.1", 0), server_version=(8, 6))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@asynccontextmanager
async def publishing(url: str, *, idempotent: bool) -> AsyncIterator[Publisher]:
    settings = Settings()
    publisher = Publisher(
        Server(settings, Standalone(parse_url(url), settings), Features(idempotent=idempotent))
    )
    try:
        yield publisher
    finally:
        await publisher.close()


@pytest.mark.anyio
async def test_a_write_whose_reply_was_lost_is_repeated(url: str) -> None:
    topic = scene.new_topic()
    records = scene.new_records(topic, 450)
    async with (
        proxied(url) as proxy,
        publishing(proxy.url, idempotent=True) as publisher,
        scene.asking(url) as client,
    ):
        proxy.swallow = sometimes(b"XADD")
        for start, size in ((0, 1), (1, 1), (2, 7), (9, 91), (100, 350)):
            await publisher.publish(records[start : start + size])
        assert proxy.swallowed >= 3
        assert await scene.ids(client, topic) == scene.once(record.id for record in records)
        assert [f[b"id"].decode() for _, f in await client.xrange(topic)] == [r.id for r in records]


@pytest.mark.anyio
async def test_other_servers_report_a_lost_reply(url: str) -> None:
    topic = scene.new_topic()
    async with proxied(url) as proxy, publishing(proxy.url, idempotent=False) as publisher:
        proxy.swallow = lambda data: b"XADD" in data
        with pytest.raises(UnavailableError):
            await publisher.publish(scene.new_records(topic, 3))


def test_no_producer_has_more_records_under_way_than_the_server_recognises() -> None:
    producers = Producers()
    first, second = producers.take(250), producers.take(100)
    assert len(first) == 3
    assert len({*first, *second}) == 4
    marks = producers.ids(first, 250)
    assert max(sum(1 for _, name, _ in marks if name == mine) for mine in first) == RECOGNISED
    assert len(set(marks)) == 250
    producers.give_back(first)
    assert set(producers.take(300)) == set(first)


@pytest.mark.parametrize(
    ("server", "version", "idempotent"),
    [
        (b"redis", b"6.2.0", False),
        (b"redis", b"8.4.1", False),
        (b"redis", b"8.6.0", True),
        (b"redis", b"9.0.0-rc1", True),
        (b"redis", b"255.255.255", False),
        (b"valkey", b"9.0.0", False),
        (b"something", b"0.1", False),
    ],
)
def test_features_by_what_the_server_says(server: bytes, version: bytes, idempotent: bool) -> None:
    found = features_of({"server": server, "version": version})
    assert found.idempotent is idempotent


def test_a_server_that_is_too_old_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Redis 6\.0\.16.*6\.2"):
        features_of({"server": b"redis", "version": b"6.0.16"})
    assert features_of({}) == Features()
